"""Let a policy play: states to sampled replies, each drawn from numbers of its own."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from gtrturbo.errors import GtrTurboError
from gtrturbo.models.decoding import Sample
from gtrturbo.models.policy import Policy
from gtrturbo.models.renderer import Prompt
from gtrturbo.play.episodes import Response, State
from gtrturbo.play.limits import limits_of
from gtrturbo.play.teachers import Question
from gtrturbo.store.ids import seed_for

COMPARED = 4  # replies


class PolicyAgent:
    """Answer states with a policy's replies.

    Args:
        policy: what answers.
        seed: with episode and turn it decides the numbers that choose a reply's tokens.
        temperature: of sampling; 0 takes the most likely token.
        max_new_tokens: longest reply.
    """

    def __init__(self, policy: Policy, *, seed: int, temperature: float, max_new_tokens: int) -> None:
        self.policy = policy
        self.seed = seed
        self.temperature = temperature
        self.max_new_tokens = max_new_tokens
        self._compared = False

    def __call__(self, states: Sequence[State]) -> list[Response]:
        renderer = self.policy.renderer
        prompts = [renderer.prompt(state.messages, state.images) for state in states]
        greedy = self.temperature == 0
        keys = [seed_for(self.seed, "reply", state.episode, state.turn) for state in states]
        samples = self.policy.generate(
            prompts,
            None if greedy else uniforms(keys, self.max_new_tokens),
            temperature=1.0 if greedy else self.temperature,
            max_new_tokens=self.max_new_tokens,
        )
        if not self._compared:
            self._compared = True
            require_own(self.policy, prompts[:COMPARED], samples[:COMPARED], temperature=1.0 if greedy else self.temperature)
        response = []
        for prompt, sample in zip(prompts, samples, strict=True):
            text, offsets = renderer.decode(sample.response_ids.tolist())
            response.append(Response(text, prompt.ids, sample.response_ids, offsets, sample.logprobs))
        return response


def require_own(policy: Policy, prompts: Sequence[Prompt], samples: Sequence[Sample], *, temperature: float) -> None:
    """Refuse a model that samples from another distribution than it scores by: what it plays could not be trained on.

    Raises:
        GtrTurboError: their log-probs differ by more than rounding.
    """
    ids = [sample.response_ids for sample in samples]
    with torch.no_grad():
        scored = policy.score(prompts, ids, temperature=temperature, values=False).logprobs.cpu().numpy()
    own = np.concatenate([row[: len(each)] for row, each in zip(scored, ids, strict=True)])
    gap = float(np.abs(own - np.concatenate([sample.logprobs for sample in samples])).mean())
    if gap > limits_of(policy.model.dtype).refuses:
        raise GtrTurboError(
            f"{policy.model.name_or_path} samples with log-probs that are {gap:.2g} nats per token from the ones that it scores "
            "them with.",
            "this model cannot be trained from its own samples here; try --dtype float32.",
        )


def ask_policy(
    policy: Policy,
    questions: Sequence[Question],
    *,
    seeds: Sequence[int],
    temperature: float,
    max_new_tokens: int,
    keep: Callable[[int, str], object] = lambda *_: None,
) -> list[str]:
    """Reply to a teacher's questions, each reply drawn from a seed of its own; `keep` is given each with its question's place."""
    samples = policy.generate(
        [policy.renderer.prompt(question.told, question.pictures) for question in questions],
        uniforms(seeds, max_new_tokens),
        temperature=temperature,
        max_new_tokens=max_new_tokens,
    )
    texts = [policy.renderer.decode(sample.response_ids.tolist())[0] for sample in samples]
    for place, text in enumerate(texts):
        keep(place, text)
    return texts


def uniforms(keys: Sequence[int], count: int) -> np.ndarray:
    """Draw `count` numbers in [0, 1) for each key, whatever the other keys are. [B, count] float64"""
    return np.stack([np.random.Generator(np.random.Philox(key=key)).random(count) for key in keys])
