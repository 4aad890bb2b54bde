"""distill: a teacher annotates turns. It writes guidance, not weights."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gtrturbo.config import DistillConfig
from gtrturbo.config.addresses import kind_of, served_model
from gtrturbo.config.choices import AUTO, REPLIES_AT_ONCE
from gtrturbo.console import progress_bar, stderr
from gtrturbo.distributed.processes import group
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.batches import token_budget
from gtrturbo.models.checkpoint_files import renderer_hash
from gtrturbo.models.policy import Policy
from gtrturbo.play.agents import ENGINES, Endpoint, Opening, ask_agent, is_in_process, make_agent
from gtrturbo.play.checkpoint_teacher import LocalPolicy, logprobs_of, thoughts_of
from gtrturbo.play.teachers import (
    EXPERT,
    Account,
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
from gtrturbo.stages.resolve import prompt_texts, teachers_of
from gtrturbo.store.draft import Draft, Result
from gtrturbo.store.files import save_json
from gtrturbo.store.ids import artifact_id, short
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.names import DEMOS, SCORES, TEACHER
from gtrturbo.store.pictures import load_picture
from gtrturbo.store.records import Turn, mean, write_rows
from gtrturbo.store.resume_log import ResumeLog
from gtrturbo.store.saved_pictures import save_image
from gtrturbo.store.tensors import TurnTokens, save_scores
from gtrturbo.store.turns import has_tokens, read_turn_tokens, read_turns
from gtrturbo.store.writing import writing
from gtrturbo.tasks.loading import KIND as TASK
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.task import Task
from gtrturbo.teachers.mixing import mixture, parts_of, shares
from gtrturbo.teachers.opening import Asking, Paying, open_local, open_served
from gtrturbo.teachers.taught import Taught, keep_action, require_useful, unread, usefulness
from gtrturbo.teachers.templates import read_templates

ASKED_IN_WORDS = ("hints", "prompt", "repair_prompt")
ASKED_ON_SERVER = ("address", "prices", "max_calls", "max_cost", "answers", "ledger")
REQUESTS_AT_ONCE = 64  # to a server, or of an agent of the user's own


def run(config: DistillConfig) -> Result:
    """Let a teacher annotate turns as the mode says: scores of the student's tokens, or demos of its own."""
    if config.expert == (config.teacher is not None):
        raise GtrTurboError("distill needs either --teacher or --expert.", "give one of the two.")
    mode = find_mode(config.mode)
    _check_options(config, mode)
    teachers = [(each, _named(each, mode)) for each in each_alone(config)]
    for each, teacher in teachers:
        _check_checkpoint(each, mode, teacher)
    read_manifest(config.rollouts, "turns")
    work, resume_log = provenance(config), None
    with writing(config.out, work, overwrite=config.overwrite) as draft:
        if mode.writes == "scores":
            _score(config, mode, teachers, draft)
        else:
            with ResumeLog(config.out, work, Said) as resume_log:
                _teach(config, mode, teachers, draft, resume_log)
    if resume_log:
        resume_log.remove()
    return done(draft)


def each_alone(config: DistillConfig) -> list[DistillConfig]:
    """Return the config of each of several teachers, as if it were the only one."""
    alone = {"more_teachers": (), "teacher_weights": None}
    return [replace(config, teacher=teacher, **alone) for teacher in teachers_of(config)] or [config]


def is_served(config: DistillConfig) -> bool:
    """Tell whether the teacher is a model on a server, which is asked in words."""
    return config.teacher is not None and served_model(config.teacher) is not None


def checkpoint_of(config: DistillConfig) -> Path | None:
    """Return the checkpoint that teaches; None where the expert does, a model on a server, or code of the user's own."""
    return None if config.teacher is None or names_code(config.teacher) or is_served(config) else config.teacher


def _check_options(config: DistillConfig, mode: Mode) -> None:
    """Refuse options that the teachers have no use for."""
    served = any(map(is_served, each_alone(config)))
    given = {field: getattr(config, field) not in (None, False) for field in (*ASKED_IN_WORDS, *ASKED_ON_SERVER)}
    odd = [] if served else [name for name in ASKED_ON_SERVER if given[name]]
    odd += [] if served or mode.needs == "corrections" else [name for name in ASKED_IN_WORDS if given[name]]
    if odd:
        needs = "a teacher on a server" if odd[0] in ASKED_ON_SERVER else "a teacher on a server, or --mode correct"
        raise GtrTurboError(f"--{odd[0].replace('_', '-')} is for {needs}.", "leave it out, or name one: --teacher openai:MODEL")
    if config.teacher_weights and not config.more_teachers:
        raise GtrTurboError("--teacher-weights is for several teachers.", "leave it out, or give --teacher once more.")
    parts_of(config.teacher_weights, len(each_alone(config)))


def _named(config: DistillConfig, mode: Mode) -> Teacher | None:
    """Return the expert or the user's own teacher; None where it is a model, which is opened when the work begins."""
    if config.expert and mode.needs not in ("thoughts", "corrections"):
        raise GtrTurboError("a scripted expert has no log-probs.", "use --mode thoughts with --expert, or give --teacher.")
    if checkpoint_of(config) or is_served(config):
        return None
    return find_teacher(EXPERT if config.expert else str(config.teacher), mode.needs)


def _check_checkpoint(config: DistillConfig, mode: Mode, teacher: Teacher | None) -> None:
    words = mode.needs in ("thoughts", "corrections")
    if is_served(config) and not words:
        raise GtrTurboError(
            f"{config.teacher} gives no log-probs of the student's tokens, which --mode {config.mode} needs.",
            "use --mode correct or --mode thoughts, or name a checkpoint with the student's tokenizer as --teacher.",
        )
    if teacher is None and not words and not is_in_process(config.engine):
        raise GtrTurboError(
            "scores are the teacher's log-probs, computed here.", f"leave out --engine {config.engine}, or --mode {config.mode}."
        )
    if config.top_logprobs and not mode.comparable:
        raise GtrTurboError("--top-logprobs is for --mode kl.", "leave out one of the two.")
    if config.top_logprobs and teacher:
        raise GtrTurboError("--top-logprobs is for checkpoints that teach.", "leave it out, or name a checkpoint as --teacher.")


def _open(config: DistillConfig, mode: Mode, on_progress: Callable[[int], None], ending: ExitStack) -> Teacher:
    """Open the model that teaches. Only where log-probs are asked for is a policy needed in this process."""
    if is_served(config):
        model = served_model(str(config.teacher)) or ""
        return open_served(model, _asking(config, mode), _paying(config), on_answer=partial(on_progress, 1))
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
        if mode.needs == "corrections":
            ask = partial(_ask_unseeded, agent)
            return open_local(ask, _asking(config, mode), name=name_of(config), at_once=REQUESTS_AT_ONCE)
        return Teacher(thoughts=partial(ask_agent, agent), at_once=REQUESTS_AT_ONCE)
    engine = ENGINES[kind_of(config.engine)]
    policy = engine.open(checkpoint, opening)
    ask = partial(engine.ask, policy, max_new_tokens=config.max_new_tokens)
    at_once = engine.asked_at_once or _replies_at_once(config)
    if mode.needs == "corrections":
        return open_local(ask, _asking(config, mode), name=name_of(config), at_once=at_once)
    return Teacher(
        thoughts=thoughts_of(ask, **sampling),
        at_once=at_once,
        retries=config.retries,
        metrics=policy.metrics,
        **(_scoring(config, policy, on_progress) if engine.in_process and mode.writes == "scores" else {}),
    )


def _ask_unseeded(agent: Any, questions: Sequence[Question], **_: Any) -> list[str]:
    return ask_agent(agent, questions)


def _asking(config: DistillConfig, mode: Mode) -> Asking:
    return Asking(
        corrects=mode.needs == "corrections",
        templates=read_templates(prompt_texts(config)),
        hints=config.hints,
        temperature=config.temperature,
        max_tokens=config.max_new_tokens,
        seed=config.seed,
    )


def _paying(config: DistillConfig) -> Paying:
    return Paying(
        address=config.address,
        reply_format=config.reply_format,
        prices=config.prices,
        max_calls=config.max_calls,
        max_cost=config.max_cost,
        answers=config.answers,
        ledger=config.ledger,
        at_once=config.at_once,
        timeout=config.answer_timeout,
    )


def name_of(config: DistillConfig) -> str:
    """Name the teacher of a config as demos and errors do."""
    if config.expert:
        return EXPERT
    checkpoint = checkpoint_of(config)
    if checkpoint:
        return f"checkpoint {artifact_id(checkpoint)[:12]}"
    return config.teacher.name if config.teacher and names_code(config.teacher) else str(config.teacher)


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


Named = tuple[DistillConfig, Teacher | None]


def _score(config: DistillConfig, mode: Mode, teachers: Sequence[Named], draft: Draft) -> None:
    """Write the teacher's log-prob of every token that the student sampled."""
    if all(teacher for _, teacher in teachers) and not group().world.first:
        return  # Who computes nothing here is asked once.
    if len(teachers) > 1 and config.top_logprobs:
        raise GtrTurboError("--top-logprobs keeps the likeliest tokens of one teacher.", "leave it out, or name one --teacher.")
    turns = read_turns(config.rollouts)
    tokens = read_turn_tokens(config.rollouts, turns)
    asked = [_scores_of(each, mode, teacher, turns, tokens, draft) for each, teacher in teachers]
    if not group().world.first and not all(asked):
        return
    rows = [check_logprobs(f"mode {config.mode}", _questions(config, turns, tokens, task=None), each.logprobs) for each in asked]
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
    questions = _questions(config, turns, tokens, task=_task(config) if teacher else None)
    with progress_bar("distill", len(turns)) as bar, ExitStack() as ending:
        opened = teacher or _open(config, mode, bar.advance, ending)
        found = _annotate(config, mode, opened, questions)
    if opened.policy:
        draft.timing |= opened.policy.policy.machine()
    return found if isinstance(found, Scores) else Scores([np.asarray(row) for row in found])


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


def _teach(config: DistillConfig, mode: Mode, teachers: Sequence[Named], draft: Draft, resume_log: ResumeLog[Said]) -> None:
    """Write the teacher's thought for each legal turn, with the student's action in place of the teacher's."""
    task, turns = _task(config), [turn for turn in read_turns(config.rollouts) if turn.legal]
    _require_own_actions(config, task, turns)
    questions = _questions(config, turns, None, task=task)
    drawn = shares(len(turns), parts_of(config.teacher_weights, len(teachers)), seed=config.seed)
    taught: dict[int, Taught] = {}
    accounts: dict[str, Account] = {}
    for place, (alone, teacher) in enumerate(teachers):
        own = [question for question in questions if drawn[question.row] == place]
        name = name_of(alone)
        texts, accounts[name] = _replies(alone, mode, teacher, task, own, resume_log)
        for question, text in zip(own, texts, strict=True):
            turn = turns[question.row]
            reply = task.read(text, turn.info) if text is not None else None
            taught[question.row] = Taught(turn, text, reply, name)
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


def _write(config: DistillConfig, task: Task, taught: Sequence[Taught], accounts: dict[str, Account], draft: Draft) -> None:
    draft.metrics = usefulness(task, taught)
    for name, account in accounts.items():
        own = [each for each in taught if each.teacher == name]
        example = account.example or next(unread(own), "")
        require_useful(name, draft.metrics if len(accounts) == 1 else usefulness(task, own), example=example)
        for metric, value in account.metrics.items():
            draft.metrics[metric] = draft.metrics.get(metric, 0.0) + value
        draft.timing |= account.timing
        _tell_paid(name, account)
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
    if about := [account.about for account in accounts.values() if account.about]:
        save_json(draft.folder / TEACHER, about)
    draft.renderer = _renderer(config)


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
        return _asked_once(config, mode, questions)
    with ExitStack() as ending:
        opened = teacher or _open(config, mode, lambda _: None, ending)
        if opened.remembers:
            raise ValueError("a teacher that remembers is asked once.")
        return _shared(config, mode, opened, task, questions, resume_log), _account_of(opened)


def _account_of(teacher: Teacher) -> Account:
    """Return what a teacher tells of its work, and what the manifest says of who answered."""
    account = teacher.account() if teacher.account else Account()
    return replace(account, metrics=account.metrics | teacher.metrics())


def _asked_once(config: DistillConfig, mode: Mode, questions: Sequence[Question]) -> tuple[list[str | None], Account]:
    """Let the first process ask: a server answers many at once, and what it answered is kept."""
    told: tuple[list[str | None], Account] = ([], Account())
    if group().world.first:
        with progress_bar("distill", len(questions)) as bar, ExitStack() as ending:
            teacher = _open(config, mode, bar.advance, ending)
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


def _copy_pictures(source: Path, folder: Path, turn: Turn) -> list[str]:
    return [save_image(folder, load_picture(source, image)) for image in turn.images]


def _renderer(config: DistillConfig) -> str | None:
    checkpoints = [each for alone in each_alone(config) if (each := checkpoint_of(alone))]
    return renderer_hash(checkpoints[0]) if checkpoints else None
