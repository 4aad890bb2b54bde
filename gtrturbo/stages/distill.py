"""distill: a teacher annotates turns. It writes guidance, not weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from gtrturbo.algorithms.vocabulary import Reader, top_logprobs
from gtrturbo.config import RELEASE, DistillConfig
from gtrturbo.console import progress_bar, stderr
from gtrturbo.distributed.processes import group
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.batches import token_budget
from gtrturbo.models.blind import blind_logprobs
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.models.checkpoint_files import renderer_hash
from gtrturbo.models.policy import Policy
from gtrturbo.models.renderer import load_picture
from gtrturbo.models.scoring import score_all
from gtrturbo.play.agents import Endpoint, open_policy
from gtrturbo.play.policy_agent import uniforms
from gtrturbo.play.recording import Transcript, read_transcript, read_turns, render
from gtrturbo.play.server_agent import ServerPolicy
from gtrturbo.stages import done, provenance
from gtrturbo.store.artifacts import DEMOS, SCORES, Draft, Result, read_manifest, seed_for, writing
from gtrturbo.store.records import Demo, Turn, chat, mean, write_rows
from gtrturbo.store.resume_log import ResumeLog
from gtrturbo.store.tensors import TopLogprobs, save_image, save_scores
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.reply import Reply
from gtrturbo.tasks.task import Task

HOTTER, HOTTEST = 1.1, 0.9
SERVER_TURNS = 1024  # Turns between two looks at what parses; how many are asked for at once is --max-concurrency.


def run(config: DistillConfig) -> Result:
    """Score the student's tokens under the teacher (kl), or let the teacher write thoughts of its own (sft)."""
    if config.expert == (config.teacher is not None):
        raise GtrTurboError("distill needs either --teacher or --expert.", "give one of the two.")
    if config.expert and config.mode == "kl":
        raise GtrTurboError("a scripted expert has no log-probs.", "use --mode thoughts with --expert, or give --teacher.")
    if config.engine == "openai" and config.mode == "kl":
        raise GtrTurboError("scores are the teacher's log-probs, computed here.", "leave out --engine openai, or --mode kl.")
    if config.top_logprobs and config.mode == "thoughts":
        raise GtrTurboError("--top-logprobs is for --mode kl.", "leave out one of the two.")
    if config.compat == RELEASE and (config.mode == "thoughts" or config.top_logprobs):
        raise GtrTurboError("--compat release is for --mode kl of single tokens.", "leave out both.")
    read_manifest(config.rollouts, "turns")
    work, journal = provenance(config), None
    with writing(config.out, work, overwrite=config.overwrite) as draft:
        if config.mode == "kl":
            _score(config, draft)
        else:
            journal = ResumeLog(config.out, work, Said)
            _teach(config, draft, journal)
    if journal:
        journal.remove()
    return done(draft)


def _load_teacher(config: DistillConfig) -> Policy:
    assert config.teacher is not None
    return load_policy(config.teacher, device=config.device, dtype=config.dtype)


def _score(config: DistillConfig, draft: Draft) -> None:
    """Write the teacher's log-prob of every token that the student sampled, with picture and prompt of each turn."""
    teacher = _load_teacher(config)
    transcript = read_transcript(config.rollouts, teacher.renderer)
    budget = token_budget(config.micro_batch_tokens, teacher, recomputes=False)
    with progress_bar("distill", len(transcript.turns)) as bar:
        shared: dict[str, Any] = {"tokens": budget, "told": bar.advance}
        if config.compat == RELEASE:
            stderr.print("--compat release: scored blind and one token off, as in the paper's published code.", style="yellow")
            rows, top = blind_logprobs(teacher, transcript.prompts, transcript.tokens.response_ids, **shared), None
        else:
            rows, top = _logprobs(config, teacher, transcript, **shared)
    save_scores(draft.folder / SCORES, rows, top)
    draft.metrics = {"turns": len(rows), "tokens": sum(map(len, rows))}
    if config.compat != RELEASE:  # There the student has no log-probs to compare with, but for those that ppo-step makes.
        differences = np.concatenate(transcript.tokens.sample_logprobs) - np.concatenate(rows)
        thought = np.concatenate(transcript.tokens.thought_mask)
        draft.metrics["thought_kl_k1"] = mean(differences[thought].tolist())
    draft.renderer, draft.timing = _renderer(config), teacher.machine()


def _logprobs(
    config: DistillConfig, teacher: Policy, transcript: Transcript, **shared: Any
) -> tuple[list[np.ndarray], TopLogprobs | None]:
    scored = score_all(
        teacher,
        transcript.prompts,
        transcript.tokens.response_ids,
        temperature=read_manifest(config.rollouts).config["temperature"],
        reader=(lambda _: _top(config.top_logprobs)) if config.top_logprobs else None,
        **shared,
    )
    top = TopLogprobs(*([row.numpy() for row in column] for column in scored.read)) if scored.read else None
    return scored.logprobs, top


def _top(count: int) -> Reader:
    def read(logits: Tensor, part: slice) -> tuple[Tensor, ...]:
        ids, logprobs, rest = top_logprobs(logits, count)
        return ids.int(), logprobs, rest

    return read


@dataclass(frozen=True)
class Said:
    """What the teacher said in the end of one legal turn, counted from 0; whether it parses or not."""

    row: int
    text: str


def _teach(config: DistillConfig, draft: Draft, journal: ResumeLog[Said]) -> None:
    """Write the teacher's thought for each legal turn, with the student's action in place of the teacher's."""
    settings = read_manifest(config.rollouts).config
    task = load_task(settings["task"], settings["env"])
    turns = [turn for turn in read_turns(config.rollouts) if turn.legal]
    taught = _expert_thoughts(task, turns) if config.expert else _teacher_thoughts(config, task, turns, journal)
    if not group().world.first:
        return
    demos = [
        keep_action(turn, text, reply, _copy_pictures(config.rollouts, draft.folder, turn))
        for turn, (text, reply) in zip(turns, taught, strict=True)
        if reply and not (config.expert and _is_right(turn, reply))
    ]
    write_rows(draft.folder / DEMOS, demos)
    draft.metrics = {"turns": len(turns), "demos": len(demos), "unparsed": sum(reply is None for _, reply in taught)}
    draft.renderer = _renderer(config)


Thought = tuple[str, Reply | None]


def _expert_thoughts(task: Task, turns: Sequence[Turn]) -> list[Thought]:
    texts = [task.expert_reply(turn.info) for turn in turns]
    return [(text, task.read(text, turn.info)) for text, turn in zip(texts, turns, strict=True)]


def _is_right(turn: Turn, reply: Reply) -> bool:
    """GTR's corrector is silent where the student is right: it reads the picture truly and acts as the expert does."""
    return bool(turn.perception_correct) and turn.action == reply.action


# Rows of the turns, which try this is for them, and the temperature; returns a text per row.
Ask = Callable[[Sequence[int], int, float], list[str]]


def _teacher_thoughts(config: DistillConfig, task: Task, turns: Sequence[Turn], journal: ResumeLog[Said]) -> list[Thought]:
    """Ask again, hotter each time, those turns whose reply does not parse. Several processes share the turns."""
    there = {said.row for said in journal.found}
    missing = [row for row in range(len(turns)) if row not in there]
    waiting = [missing[place] for place in group().world.share(len(missing))]
    ask, at_once = _asking(config, turns)
    temperature = config.temperature
    with progress_bar("distill", len(waiting)) as bar:
        for attempt in range(config.retries + 1):
            asked, waiting = waiting, []
            for start in range(0, len(asked), at_once):
                rows = asked[start : start + at_once]
                for row, text in zip(rows, ask(rows, attempt, temperature), strict=True):
                    if attempt == config.retries or task.read(text, turns[row].info):
                        journal.append(Said(row, text))
                        bar.advance()
                    else:
                        waiting.append(row)
            temperature = max(temperature, min(HOTTEST, HOTTER * temperature))
    group().barrier()
    texts = {said.row: said.text for said in journal.read()}
    return [(texts[row], task.read(texts[row], turns[row].info)) for row in range(len(turns))]


def _asking(config: DistillConfig, turns: Sequence[Turn]) -> tuple[Ask, int]:
    """Return how the teacher is asked, and about how many turns at once."""
    assert config.teacher is not None
    endpoint = Endpoint(config.server, config.base_url, config.served_model, config.max_concurrency)
    teacher = open_policy(config.teacher, config.engine, endpoint, needs_ids=False, device=config.device, dtype=config.dtype)
    if isinstance(teacher, Policy):
        return _ask_policy(config, turns, teacher), config.micro_batch_size
    return _ask_server(config, turns, teacher), SERVER_TURNS


def _ask_policy(config: DistillConfig, turns: Sequence[Turn], teacher: Policy) -> Ask:
    def ask(rows: Sequence[int], attempt: int, temperature: float) -> list[str]:
        keys = [seed_for(config.seed, "thought", row, attempt) for row in rows]
        samples = teacher.generate(
            [render(teacher.renderer, config.rollouts, turns[row].messages[:-1], turns[row].images) for row in rows],
            uniforms(keys, config.max_new_tokens),
            temperature=temperature,
            max_new_tokens=config.max_new_tokens,
        )
        return [teacher.renderer.decode(sample.response_ids.tolist())[0] for sample in samples]

    return ask


def _ask_server(config: DistillConfig, turns: Sequence[Turn], teacher: ServerPolicy) -> Ask:
    def ask(rows: Sequence[int], attempt: int, temperature: float) -> list[str]:
        def reply(row: int) -> str:
            response = teacher.reply(
                turns[row].messages[:-1],
                [load_picture(config.rollouts / image) for image in turns[row].images],
                temperature=temperature,
                max_new_tokens=config.max_new_tokens,
                seed=seed_for(config.seed, "thought", row, attempt),
            )
            return response.text

        return teacher.at_once(reply, rows)

    return ask


def keep_action(turn: Turn, text: str, reply: Reply, images: list[str]) -> Demo:
    """Put the student's action in the place of the teacher's, and mark it so that it is never cloned."""
    assert turn.action is not None
    start, end = reply.action_span
    quoted = text[start - 1] == '"'
    action = turn.action if quoted else f'"{turn.action}"'
    question = turn.messages[0]["content"][-1]["text"]
    return Demo(
        messages=chat(question, text[:start] + action + text[end:]), images=images, masked_spans=[(start, start + len(action))]
    )


def _copy_pictures(source: Path, folder: Path, turn: Turn) -> list[str]:
    return [save_image(folder, load_picture(source / image)) for image in turn.images]


def _renderer(config: DistillConfig) -> str | None:
    return renderer_hash(config.teacher) if config.teacher else None
