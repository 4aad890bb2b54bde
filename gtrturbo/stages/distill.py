"""distill: a teacher annotates turns. It writes guidance, not weights."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from gtrturbo.config import DistillConfig
from gtrturbo.console import progress_bar, stderr
from gtrturbo.distributed.processes import Alone, group, working_in
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint_files import renderer_hash
from gtrturbo.play.hints import require_known
from gtrturbo.play.teachers import (
    MODES,
    Account,
    Mode,
    Question,
    Scores,
    Teacher,
    check_logprobs,
    check_thoughts,
    find_mode,
)
from gtrturbo.play.teaching.mixing import mixture, parts_of, shares
from gtrturbo.play.teaching.opening import AnswerLog, AskedWords
from gtrturbo.play.teaching.scored import ScoredTurn, in_parts
from gtrturbo.play.teaching.taught import Taught, heard, keep_action, require_useful, unread, usefulness
from gtrturbo.plugins import calling
from gtrturbo.stages import done, provenance
from gtrturbo.stages.questions import hints_of, knowing_task, questions_of, task_of
from gtrturbo.stages.teachers import name_of, open_teacher
from gtrturbo.stages.teaching_options import checkpoint_of, each_alone, find_named, is_served
from gtrturbo.store.draft import Draft, Result
from gtrturbo.store.files import save_json
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.names import DEMOS, SCORES, TEACHER
from gtrturbo.store.pictures import load_picture
from gtrturbo.store.provenance import Provenance
from gtrturbo.store.records import Turn, mean, write_rows
from gtrturbo.store.resume_log import ResumeLog
from gtrturbo.store.saved_pictures import save_image
from gtrturbo.store.tensors import TurnTokens, save_scores
from gtrturbo.store.turns import read_turn_tokens, read_turns
from gtrturbo.store.writing import writing
from gtrturbo.tasks.task import Task


def run(config: DistillConfig) -> Result:
    """Let a teacher annotate turns as the mode says: scores of the student's tokens, or demos of its own."""
    mode = find_mode(config.mode)
    teachers = [(each, find_named(each, mode)) for each in each_alone(config)]
    read_manifest(config.rollouts, "turns")
    if known := knowing_task(config):
        require_known(config.hints, known)
    work, resume_log = provenance(config), None
    with writing(config.out, work, overwrite=config.overwrite) as draft:
        if mode.writes == "scores":
            with _log_of_scores(config, teachers, work) as resume_log:
                _score(config, mode, teachers, draft, resume_log)
        else:
            with ResumeLog(config.out, work, Said, lambda said: [said.speaker]) as resume_log:
                _teach(config, mode, teachers, draft, resume_log)
    if resume_log:
        resume_log.remove()
    return done(draft)


def _annotate(config: DistillConfig, mode: Mode, teacher: Teacher, questions: Sequence[Question]) -> Any:
    with calling("mode", config.mode):
        return mode.annotate(teacher, [question.copied() for question in questions])


Named = tuple[DistillConfig, Teacher | None]


def _log_of_scores(
    config: DistillConfig, teachers: Sequence[Named], work: Provenance
) -> AbstractContextManager[ResumeLog[ScoredTurn] | None]:
    """Keep the scores of teachers of the user's own; those of a checkpoint are computed here, and need no log."""
    if config.mode not in MODES or not any(teacher for _, teacher in teachers) or not group().world.first:
        return nullcontext()
    with working_in(Alone()):  # The first process asks.
        return ResumeLog(config.out, work, ScoredTurn)


def _score(
    config: DistillConfig, mode: Mode, teachers: Sequence[Named], draft: Draft, resume_log: ResumeLog[ScoredTurn] | None
) -> None:
    """Write the teacher's log-prob of every token that the student sampled."""
    if all(teacher for _, teacher in teachers) and not group().world.first:
        return  # Who computes nothing here is asked once.
    turns = read_turns(config.rollouts)
    tokens = read_turn_tokens(config.rollouts, turns)
    kept = [teacher and in_parts(teacher, place, log=resume_log) for place, (_, teacher) in enumerate(teachers)]
    asked = [_scores_of(each, mode, teacher, turns, tokens, draft) for (each, _), teacher in zip(teachers, kept, strict=True)]
    if not group().world.first and any(kept):
        return
    questions = questions_of(config, turns, tokens)
    rows = [check_logprobs(f"mode {config.mode}", questions, each.logprobs) for each in asked]
    mixed = rows[0] if len(rows) == 1 else mixture(rows, parts_of(config.teacher_weights, len(rows)))
    save_scores(draft.folder / SCORES, mixed, asked[0].top)
    draft.metrics = {"turns": len(mixed), "tokens": sum(map(len, mixed))}
    if mode.comparable:
        differences = np.concatenate(tokens.sample_logprobs) - np.concatenate(mixed)
        draft.metrics["thought_kl_k1"] = mean(differences[np.concatenate(tokens.thought_mask)].tolist())
    draft.renderer = _renderer(config)


def _scores_of(
    config: DistillConfig, mode: Mode, teacher: Teacher | None, turns: Sequence[Turn], tokens: TurnTokens, draft: Draft
) -> Scores:
    if teacher and not group().world.first:
        return Scores([])
    questions = questions_of(config, turns, tokens, task=task_of(config) if teacher else None, hints=hints_of(config, turns))
    with progress_bar("distill", len(turns)) as bar, ExitStack() as ending:
        opened = teacher or open_teacher(config, mode, bar.advance, ending, AnswerLog({}, lambda *_: None))
        found = _annotate(config, mode, opened, questions)
    if opened.policy:
        draft.timing |= opened.policy.policy.machine()
    return found if isinstance(found, Scores) else Scores([np.asarray(row) for row in found])


@dataclass(frozen=True)
class Said:
    """What the teacher said of one legal turn, counted from 0: in the end, whether it parses or not; None: nothing. With
    what was `asked` it is one answer of a checkpoint, which is not asked for again, and of a server it says who spoke. With an
    `attempt` it did not parse, and the turn is asked about once more."""

    row: int
    text: str | None
    asked: AskedWords | None = None
    speaker: str | None = None
    attempt: int | None = None


def _teach(config: DistillConfig, mode: Mode, teachers: Sequence[Named], draft: Draft, resume_log: ResumeLog[Said]) -> None:
    """Write the teacher's thought for each legal turn, with the student's action in place of the teacher's."""
    task, every = task_of(config), read_turns(config.rollouts)
    turns = [turn for turn in every if turn.legal]
    hints = [hint for turn, hint in zip(every, hints_of(config, every), strict=True) if turn.legal]
    _require_own_actions(config, task, turns)
    questions = questions_of(config, turns, None, task=task, hints=hints)
    drawn = shares(len(turns), parts_of(config.teacher_weights, len(teachers)), seed=config.seed)
    taught: dict[int, Taught] = {}
    accounts: list[tuple[str, Account]] = []
    with TemporaryDirectory() as folder:
        ledger = config.ledger or Path(folder) / "calls.jsonl"  # Bounds are of all teachers together.
        for place, (alone, teacher) in enumerate(teachers):
            own = [question for question in questions if drawn[question.row] == place]
            name = name_of(alone)
            texts, account = _replies(replace(alone, ledger=ledger), mode, teacher, task, own, resume_log)
            accounts.append((name, account))
            for question, text in zip(own, texts, strict=True):
                taught[question.row] = heard(task, turns[question.row], text, name)
    if group().world.first:
        _write(config, task, [taught[row] for row in range(len(turns))], accounts, draft)


def _require_own_actions(config: DistillConfig, task: Task, turns: Sequence[Turn]) -> None:
    """Refuse turns that name another action than their reply: it is what a demo keeps.

    Raises:
        GtrTurboError: names the first.
    """
    for turn in turns:
        said = task.read(turn.reply, turn.info)
        if said is None or said.action != turn.action:
            read = "none that the task allows" if said is None else repr(said.action)
            raise GtrTurboError(
                f"{config.rollouts} is damaged: turn {turn.turn} of episode {turn.episode} names action {turn.action!r}, and its "
                f"reply {read}.",
                "play again: gtrturbo rollout …",
            )


def _write(
    config: DistillConfig, task: Task, taught: Sequence[Taught], accounts: Sequence[tuple[str, Account]], draft: Draft
) -> None:
    draft.metrics = usefulness(task, taught)
    parts: dict[str, np.ndarray] = {}
    for name, account in accounts:
        own = [each for each in taught if each.teacher == name]
        example = account.example or next(unread(own), "")
        require_useful(name, draft.metrics if len(accounts) == 1 else usefulness(task, own), example=example)
        for metric, value in account.metrics.items():
            draft.metrics[metric] = draft.metrics.get(metric, 0.0) + value
        for metric, share in account.parts.items():
            parts[metric] = parts.get(metric, np.zeros(2)) + share
        draft.timing |= {name: _together(draft.timing.get(name), value) for name, value in account.timing.items()}
        _tell_paid(name, account)
    draft.metrics |= {metric: float(part / whole) for metric, (part, whole) in parts.items() if whole}
    write_rows(
        draft.folder / DEMOS,
        [
            keep_action(
                task, each.turn, each.text, each.reply, _copy_pictures(config.rollouts, draft.folder, each.turn), each.teacher
            )
            for each in taught
            if each.text is not None and each.reply
        ],
    )
    if about := [account.about for _, account in accounts if account.about]:
        save_json(draft.folder / TEACHER, about)
    draft.renderer = _renderer(config)


def _together(before: Any, value: Any) -> Any:
    """Add up what teachers took; what is no number, such as a currency, they share."""
    return round(before + value, 6) if isinstance(value, int | float) and before is not None else value


def _tell_paid(name: str, account: Account) -> None:
    paid = account.timing.get("paid_calls")
    if paid is None:
        return
    calls, kept = int(account.metrics["teacher_calls"]), account.timing
    money = f", {kept['paid']:.4g} of {kept['cost']:.4g} {kept['currency']}" if "cost" in kept else ""
    stderr.print(
        f"{name}: {paid} of {calls} answers were paid for now{money}; the others were kept.", style="dim", soft_wrap=True
    )


def _replies(
    config: DistillConfig,
    mode: Mode,
    teacher: Teacher | None,
    task: Task,
    questions: Sequence[Question],
    resume_log: ResumeLog[Said],
) -> tuple[list[str | None], Account]:
    """Ask about turns, as each kind of teacher is asked, and return what it said and tells of its work."""
    if teacher is None and (is_served(config) or mode.needs == "corrections"):
        return _asked_once(config, mode, questions, resume_log)
    with ExitStack() as ending:
        opened = teacher or open_teacher(config, mode, lambda _: None, ending, _answers(resume_log))
        if opened.remembers:
            raise ValueError("a teacher that remembers is asked once.")
        return _shared(config, mode, opened, task, questions, resume_log), _account_of(opened)


def _account_of(teacher: Teacher) -> Account:
    """Return what a teacher tells of its work, and what the manifest says of who answered."""
    account = teacher.account() if teacher.account else Account()
    return replace(account, metrics=account.metrics | teacher.metrics())


def _answers(resume_log: ResumeLog[Said], on_answer: Callable[[], object] = lambda: None) -> AnswerLog:
    """Keep a checkpoint's answers in the resume log, each as soon as it is there."""

    def keep(asked: AskedWords, text: str, speaker: str | None) -> None:
        resume_log.append(Said(asked.row, text, asked, speaker))
        on_answer()

    return AnswerLog({each.asked: each.text or "" for each in resume_log.found if each.asked}, keep)


def _asked_once(
    config: DistillConfig, mode: Mode, questions: Sequence[Question], resume_log: ResumeLog[Said]
) -> tuple[list[str | None], Account]:
    """Let the first process ask: a server answers many at once, and what it answered is kept."""
    told: tuple[list[str | None], Account] = ([], Account())
    if group().world.first:
        with progress_bar("distill", len(questions)) as bar, ExitStack() as ending:
            teacher = open_teacher(config, mode, bar.advance, ending, _answers(resume_log, on_answer=bar.advance))
            texts: list[str | None] = []
            for start in range(0, len(questions), teacher.at_once):
                part = questions[start : start + teacher.at_once]
                texts += check_thoughts(f"mode {config.mode}", part, _annotate(config, mode, teacher, part))
            told = (texts, _account_of(teacher))
    texts = group().broadcast(told[0])
    return texts, told[1]


def _shared(
    config: DistillConfig, mode: Mode, teacher: Teacher, task: Task, questions: Sequence[Question], resume_log: ResumeLog[Said]
) -> list[str | None]:
    """Ask about those turns that the resume log does not hold, and again while replies do not parse and the teacher tries again.

    Several processes share the turns.
    """
    said = [each for each in resume_log.found if not each.asked]
    there, in_vain = {each.row for each in said if each.attempt is None}, {(each.row, each.attempt) for each in said}
    missing = [question for question in questions if question.row not in there]
    waiting = [missing[place] for place in group().world.share(len(missing))]
    with progress_bar("distill", len(waiting)) as bar:
        for attempt in range(teacher.retries + 1):
            asked = [replace(question, attempt=attempt) for question in waiting if (question.row, attempt) not in in_vain]
            waiting = [question for question in waiting if (question.row, attempt) in in_vain]
            for start in range(0, len(asked), teacher.at_once):
                part = asked[start : start + teacher.at_once]
                texts = check_thoughts(f"mode {config.mode}", part, _annotate(config, mode, teacher, part))
                for question, text in zip(part, texts, strict=True):
                    if attempt == teacher.retries or text is None or task.read(text, question.info):
                        resume_log.append(Said(question.row, text))
                        bar.advance()
                    else:
                        resume_log.append(Said(question.row, text, attempt=attempt))
                        waiting.append(question)
    group().barrier()
    found = {each.row: each.text for each in resume_log.read() if not each.asked and each.attempt is None}
    return [found[question.row] for question in questions]


def _copy_pictures(source: Path, folder: Path, turn: Turn) -> list[str]:
    return [save_image(folder, load_picture(source, image)) for image in turn.images]


def _renderer(config: DistillConfig) -> str | None:
    checkpoints = [each for alone in each_alone(config) if (each := checkpoint_of(alone))]
    return renderer_hash(checkpoints[0]) if checkpoints else None
