"""distill: a teacher annotates turns. It writes guidance, not weights."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gtrturbo.config import DistillConfig
from gtrturbo.config.addresses import kind_of
from gtrturbo.config.choices import AUTO, REPLIES_AT_ONCE
from gtrturbo.console import progress_bar
from gtrturbo.distributed.processes import group
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.batches import token_budget
from gtrturbo.models.checkpoint_files import renderer_hash
from gtrturbo.models.policy import Policy
from gtrturbo.play.agents import ENGINES, Endpoint, Opening, ask_agent, is_in_process, make_agent
from gtrturbo.play.checkpoint_teacher import LocalPolicy, logprobs_of, thoughts_of
from gtrturbo.play.teachers import (
    Mode,
    Question,
    Scores,
    Teacher,
    check_logprobs,
    check_thoughts,
    find_mode,
    find_teacher,
)
from gtrturbo.plugins import calling, is_outside, load, names_code
from gtrturbo.stages import canonical, done, provenance
from gtrturbo.store.draft import Draft, Result
from gtrturbo.store.ids import short
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.names import DEMOS, SCORES
from gtrturbo.store.pictures import load_picture
from gtrturbo.store.records import Demo, Turn, mean, said, write_rows
from gtrturbo.store.resume_log import ResumeLog
from gtrturbo.store.saved_pictures import save_image
from gtrturbo.store.tensors import TurnTokens, save_scores
from gtrturbo.store.turns import has_tokens, read_turn_tokens, read_turns
from gtrturbo.store.writing import writing
from gtrturbo.tasks.loading import KIND as TASK
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.reply import Reply
from gtrturbo.tasks.task import Task

EXPERT = "expert"
REQUESTS_AT_ONCE = 64  # to a server, or of an agent of the user's own


def run(config: DistillConfig) -> Result:
    """Let a teacher annotate turns as the mode says: scores of the student's tokens, or demos of its own."""
    if config.expert == (config.teacher is not None):
        raise GtrTurboError("distill needs either --teacher or --expert.", "give one of the two.")
    mode = find_mode(config.mode)
    teacher = _named(config, mode)
    _check_checkpoint(config, mode, teacher)
    read_manifest(config.rollouts, "turns")
    work, resume_log = provenance(config), None
    with writing(config.out, work, overwrite=config.overwrite) as draft:
        if mode.writes == "scores":
            _score(config, mode, teacher, draft)
        else:
            with ResumeLog(config.out, work, Said) as resume_log:
                _teach(config, mode, teacher, draft, resume_log)
    if resume_log:
        resume_log.remove()
    return done(draft)


def checkpoint_of(config: DistillConfig) -> Path | None:
    """Return the checkpoint that teaches; None where the expert does, or code of the user's own."""
    return None if config.teacher is None or names_code(config.teacher) else config.teacher


def _named(config: DistillConfig, mode: Mode) -> Teacher | None:
    """Return the expert or the user's own teacher; None where it is a checkpoint, which is opened when the work begins."""
    if config.expert and mode.needs != "thoughts":
        raise GtrTurboError("a scripted expert has no log-probs.", "use --mode thoughts with --expert, or give --teacher.")
    return None if checkpoint_of(config) else find_teacher(EXPERT if config.expert else str(config.teacher), mode.needs)


def _check_checkpoint(config: DistillConfig, mode: Mode, teacher: Teacher | None) -> None:
    if teacher is None and mode.needs != "thoughts" and not is_in_process(config.engine):
        raise GtrTurboError(
            "scores are the teacher's log-probs, computed here.", f"leave out --engine {config.engine}, or --mode {config.mode}."
        )
    if config.top_logprobs and not mode.comparable:
        raise GtrTurboError("--top-logprobs is for --mode kl.", "leave out one of the two.")
    if config.top_logprobs and teacher:
        raise GtrTurboError("--top-logprobs is for checkpoints that teach.", "leave it out, or name a checkpoint as --teacher.")


def _open(config: DistillConfig, mode: Mode, on_progress: Callable[[int], None], ending: ExitStack) -> Teacher:
    """Open the checkpoint that teaches. Only where log-probs are asked for is a policy needed in this process."""
    checkpoint = checkpoint_of(config)
    assert checkpoint is not None
    endpoint = Endpoint(config.engine, config.served_model, at_once=REQUESTS_AT_ONCE)
    opening = Opening(
        endpoint,
        for_training=False,
        device=config.device,
        dtype=config.dtype,
        probe=config.probe,
        python=config.vllm_python,
        ending=ending,
    )
    sampling = {"temperature": config.temperature, "seed": config.seed}
    if kind_of(config.engine) not in ENGINES:
        agent = make_agent(config.engine, checkpoint, for_training=False, max_new_tokens=config.max_new_tokens, **sampling)
        return Teacher(thoughts=partial(ask_agent, agent), at_once=REQUESTS_AT_ONCE)
    engine = ENGINES[kind_of(config.engine)]
    policy = engine.open(checkpoint, opening)
    ask = partial(engine.ask, policy, max_new_tokens=config.max_new_tokens)
    return Teacher(
        thoughts=thoughts_of(ask, **sampling),
        at_once=engine.asked_at_once or _replies_at_once(config),
        retries=config.retries,
        metrics=policy.metrics,
        **(_scoring(config, policy, on_progress) if engine.in_process and mode.writes == "scores" else {}),
    )


def _replies_at_once(config: DistillConfig) -> int:
    """Say how many replies are generated in one batch: those whose tokens fit into the budget, or as many as in a rollout."""
    if config.micro_batch_tokens == AUTO:
        return REPLIES_AT_ONCE
    return max(1, int(config.micro_batch_tokens) // (_longest_prompt(config.rollouts) + config.max_new_tokens))


def _longest_prompt(rollouts: Path) -> int:
    """Count the tokens of the longest prompt of turns; 0 where a scripted expert played, who has none."""
    if not has_tokens(rollouts):
        return 0
    return max((len(ids) for ids in read_turn_tokens(rollouts, read_turns(rollouts)).prompt_ids), default=0)


def _scoring(config: DistillConfig, policy: Policy, on_progress: Callable[[int], None]) -> dict[str, Any]:
    local = LocalPolicy(
        policy,
        config.rollouts,
        temperature=read_manifest(config.rollouts).config["temperature"],
        tokens=token_budget(config.micro_batch_tokens, policy, recomputes=False),
        on_progress=on_progress,
    )
    return {"policy": local, "logprobs": logprobs_of(local, top=config.top_logprobs)}


def _annotate(config: DistillConfig, mode: Mode, teacher: Teacher, questions: Sequence[Question]) -> Any:
    with calling("mode", config.mode):
        return mode.annotate(teacher, questions)


def _score(config: DistillConfig, mode: Mode, teacher: Teacher | None, draft: Draft) -> None:
    """Write the teacher's log-prob of every token that the student sampled."""
    if teacher and not group().world.first:
        return  # Who computes nothing here is asked once.
    turns = read_turns(config.rollouts)
    tokens = read_turn_tokens(config.rollouts, turns)
    questions = _questions(config, turns, tokens, task=_task(config) if teacher else None)
    with progress_bar("distill", len(turns)) as bar, ExitStack() as ending:
        teacher = teacher or _open(config, mode, bar.advance, ending)
        found = _annotate(config, mode, teacher, questions)
    scores = found if isinstance(found, Scores) else Scores([np.asarray(row) for row in found])
    rows = check_logprobs(f"mode {config.mode}", questions, scores.logprobs)
    save_scores(draft.folder / SCORES, rows, scores.top)
    draft.metrics = {"turns": len(rows), "tokens": sum(map(len, rows))}
    if mode.comparable:
        differences = np.concatenate(tokens.sample_logprobs) - np.concatenate(rows)
        draft.metrics["thought_kl_k1"] = mean(differences[np.concatenate(tokens.thought_mask)].tolist())
    draft.renderer, draft.timing = _renderer(config), teacher.policy.policy.machine() if teacher.policy else {}


def _questions(config: DistillConfig, turns: Sequence[Turn], tokens: TurnTokens | None, *, task: Task | None) -> list[Question]:
    return [
        Question(
            row=row,
            messages=turn.messages[:-1],
            images=[config.rollouts / image for image in turn.images],
            folder=config.rollouts,
            reply=turn.reply,
            action=turn.action,
            info=turn.info,
            perception_correct=turn.perception_correct,
            task=task,
            response_ids=tokens.response_ids[row] if tokens else None,
            response_spans=tokens.response_spans[row] if tokens else None,
        )
        for row, turn in enumerate(turns)
    ]


def _task(config: DistillConfig) -> Task:
    """Return the task that the turns were played on. Code of the user's own is loaded only if they name it."""
    manifest = read_manifest(config.rollouts)
    played, env = manifest.config["task"], manifest.config["env"]
    if config.task is None and is_outside(played):
        raise GtrTurboError(
            f"{config.rollouts} was played on {played}, code of your own, which is loaded only if you name it.",
            f"add: --task path/to/{played}",
        )
    if config.task and canonical(TASK, config.task) != played:
        raise GtrTurboError(f"{config.rollouts} was played on {played}, not {config.task}.", "name that one.")
    if config.task and is_outside(config.task):
        then, now = manifest.plugins["task"]["sha256"], load(TASK, config.task).sha256
        if then != now:
            raise GtrTurboError(
                f"{config.rollouts} was played on another text of {played} ({short(then)}, not {short(now)}).",
                "play again, or bring back the file as it was.",
            )
    return load_task(config.task or played, env)


@dataclass(frozen=True)
class Said:
    """What the teacher said in the end of one legal turn, counted from 0; whether it parses or not; None: nothing."""

    row: int
    text: str | None


def _teach(config: DistillConfig, mode: Mode, teacher: Teacher | None, draft: Draft, resume_log: ResumeLog[Said]) -> None:
    """Write the teacher's thought for each legal turn, with the student's action in place of the teacher's."""
    task, turns = _task(config), [turn for turn in read_turns(config.rollouts) if turn.legal]
    questions = _questions(config, turns, None, task=task)
    with ExitStack() as ending:
        teacher = teacher or _open(config, mode, lambda _: None, ending)
        texts = _replies(config, mode, teacher, task, questions, resume_log)
    if not group().world.first:
        return
    replies = [task.read(text, turn.info) if text is not None else None for turn, text in zip(turns, texts, strict=True)]
    demos = [
        keep_action(task, turn, text, reply, _copy_pictures(config.rollouts, draft.folder, turn))
        for turn, text, reply in zip(turns, texts, replies, strict=True)
        if text is not None and reply
    ]
    write_rows(draft.folder / DEMOS, demos)
    unparsed = sum(text is not None and reply is None for text, reply in zip(texts, replies, strict=True))
    draft.metrics = {"turns": len(turns), "demos": len(demos), "unparsed": unparsed} | teacher.metrics()
    draft.renderer = _renderer(config)


def _replies(
    config: DistillConfig, mode: Mode, teacher: Teacher, task: Task, questions: Sequence[Question], resume_log: ResumeLog[Said]
) -> list[str | None]:
    """Ask about those turns that the resume log does not hold, and again while replies do not parse and the teacher tries again.

    Several processes share the turns.
    """
    there = {each.row for each in resume_log.found}
    missing = [question for question in questions if question.row not in there]
    waiting = [missing[place] for place in group().world.share(len(missing))]
    with progress_bar("distill", len(waiting)) as bar:
        for attempt in range(teacher.retries + 1):
            asked, waiting = [replace(question, attempt=attempt) for question in waiting], []
            for start in range(0, len(asked), teacher.at_once):
                part = asked[start : start + teacher.at_once]
                texts = check_thoughts(f"mode {config.mode}", part, _annotate(config, mode, teacher, part))
                for question, text in zip(part, texts, strict=True):
                    if attempt == teacher.retries or text is None or task.read(text, question.info):
                        resume_log.append(Said(question.row, text))
                        bar.advance()
                    else:
                        waiting.append(question)
    group().barrier()
    found = {each.row: each.text for each in resume_log.read()}
    return [found[question.row] for question in questions]


def keep_action(task: Task, turn: Turn, text: str, reply: Reply, images: list[str]) -> Demo:
    """Put the student's action in the place of the teacher's, and mark it so that it is never cloned."""
    assert turn.action is not None
    start, end = reply.action_span
    # In JSON an action that is a number may stand without quotes, which another action needs.
    bare = task.parse is None and text[start - 1] != '"'
    action = f'"{turn.action}"' if bare else turn.action
    replied = said(text[:start] + action + text[end:])
    return Demo(messages=[*turn.messages[:-1], replied], images=images, masked_spans=[(start, start + len(action))])


def _copy_pictures(source: Path, folder: Path, turn: Turn) -> list[str]:
    return [save_image(folder, load_picture(source, image)) for image in turn.images]


def _renderer(config: DistillConfig) -> str | None:
    checkpoint = checkpoint_of(config)
    return renderer_hash(checkpoint) if checkpoint else None
