"""A checkpoint as a teacher: what it replies, and what log-probs it gives the student's tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from gtrturbo.algorithms.vocabulary import top_logprobs
from gtrturbo.models.context import require_context
from gtrturbo.models.overflow import require_finite
from gtrturbo.models.policy import Policy
from gtrturbo.models.renderer import Prompt
from gtrturbo.models.scoring import score_all
from gtrturbo.play.recording import Transcript, read_transcript
from gtrturbo.play.teachers import Logprobs, Question, Scores, Thoughts
from gtrturbo.store.ids import seed_for
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.tensors import TopLogprobs

HOTTER, HOTTEST = 1.1, 0.9
# Replies to questions, with a seed for each, at a temperature; `keep` is given a question's place and its reply when that may be
# kept.
Ask = Callable[..., list[str]]


@dataclass(frozen=True)
class LocalPolicy:
    """A teacher's checkpoint in this process, for modes that compute with it.

    Attributes:
        policy: the checkpoint.
        rollouts: the turns that it is asked about.
        temperature: that they were sampled at.
        tokens: most tokens per forward pass, padding included.
        on_progress: called with the number of turns after each pass.
    """

    policy: Policy
    rollouts: Path
    temperature: float
    tokens: int
    on_progress: Callable[[int], None]

    def transcript(self) -> Transcript:
        """Read the turns with their tokens, and the prompts as this checkpoint renders them, which may be of another family.

        Raises:
            GtrTurboError: they carry no tokens, or nobody knows the student's tokenizer and they render to others than were
                played.
        """
        known = read_manifest(self.rollouts).tokenizer is not None
        return read_transcript(self.rollouts, self.policy.renderer, own_prompts=known)

    def prompts(self, transcript: Transcript, questions: Sequence[Question]) -> list[Prompt]:
        """Return the prompts of all turns, with the hints of those questions that hold some.

        Raises:
            GtrTurboError: one with hints leaves no place for its reply in the positions that the model has.
        """
        prompts, told = list(transcript.prompts), [question for question in questions if question.hints]
        for question in told:
            prompts[question.row] = self.policy.renderer.prompt(question.told, question.pictures)
        rows, model = [question.row for question in told], self.policy.model
        replies = [transcript.tokens.response_ids[row] for row in rows]
        require_context([prompts[row] for row in rows], model.config, model.name_or_path, replies=replies)
        return prompts


def logprobs_of(local: LocalPolicy, *, top: int) -> Logprobs:
    """Let a checkpoint score all that the student sampled, with pictures, prompts and hints; keep the `top` likeliest tokens."""

    def score(questions: Sequence[Question]) -> Scores:
        transcript = local.transcript()
        scored = score_all(
            local.policy,
            local.prompts(transcript, questions),
            transcript.tokens.response_ids,
            temperature=local.temperature,
            tokens=local.tokens,
            reader=(lambda _: partial(_likeliest, top)) if top else None,
            on_progress=local.on_progress,
        )
        model = local.policy.model
        require_finite(model.name_or_path, scored.logprobs, temperature=local.temperature, dtype=model.dtype)
        columns = TopLogprobs(*([row.numpy() for row in column] for column in scored.read)) if scored.read else None
        return Scores(scored.logprobs, columns)

    return score


def _likeliest(count: int, logits: Tensor, part: slice) -> tuple[Tensor, ...]:
    ids, logprobs, rest = top_logprobs(logits, count)
    return ids.int(), logprobs, rest


def thoughts_of(ask: Ask, *, seed: int, temperature: float) -> Thoughts:
    """Let a checkpoint reply to what the student saw, each further try hotter than the one before."""

    def reply(questions: Sequence[Question]) -> list[str | None]:
        [attempt] = {question.attempt for question in questions}
        seeds = [seed_for(seed, "thought", question.row, attempt) for question in questions]
        return [*ask(questions, seeds=seeds, temperature=hotter(temperature, attempt))]

    return reply


def hotter(temperature: float, attempt: int) -> float:
    """Return the temperature of a further try: 1.1 times that of the one before, up to 0.9."""
    for _ in range(attempt):
        temperature = max(temperature, min(HOTTEST, HOTTER * temperature))
    return temperature
