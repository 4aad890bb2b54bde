"""Who teaches, as distill's config says: what is refused, what each is called, and how a model that teaches is opened."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from gtrturbo.config import DistillConfig
from gtrturbo.config.addresses import kind_of, served_model
from gtrturbo.config.choices import AUTO, REPLIES_AT_ONCE
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.batches import token_budget
from gtrturbo.models.policy import Policy
from gtrturbo.models.vocabularies import contents_of
from gtrturbo.play.agents import ENGINES, ask_agent, is_in_process, make_agent
from gtrturbo.play.checkpoint_teacher import Ask, LocalPolicy, logprobs_of, thoughts_of
from gtrturbo.play.teachers import (
    EXPERT,
    Mode,
    Teacher,
    find_teacher,
)
from gtrturbo.play.teaching.mixing import parts_of
from gtrturbo.play.teaching.opening import AnswerLog, Asking, Paying, open_local, open_served
from gtrturbo.play.teaching.templates import read_templates
from gtrturbo.plugins import names_code
from gtrturbo.stages.opening import opening_of
from gtrturbo.stages.resolve import prompt_texts, teachers_of
from gtrturbo.store.ids import artifact_id
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.turns import has_tokens, read_turn_tokens, read_turns

ASKED_IN_WORDS = ("prompt", "repair_prompt")
ASKED_ON_SERVER = ("address", "prices", "max_calls", "max_cost", "answers", "ledger")
WORDS = "use --mode correct or --mode thoughts, which ask in words"
REQUESTS_AT_ONCE = 64  # to a server, or of an agent of the user's own


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


def check_options(config: DistillConfig, mode: Mode) -> None:
    """Refuse options that the teachers have no use for."""
    served = any(map(is_served, each_alone(config)))
    worded = served or (mode.needs == "corrections" and any(map(checkpoint_of, each_alone(config))))
    given = {field: getattr(config, field) not in (None, False) for field in (*ASKED_IN_WORDS, *ASKED_ON_SERVER)}
    odd = [] if served else [name for name in ASKED_ON_SERVER if given[name]]
    odd += [] if worded else [name for name in ASKED_IN_WORDS if given[name]]
    if odd:
        needs = "a teacher on a server" if odd[0] in ASKED_ON_SERVER else "a teacher on a server, or a model with --mode correct"
        raise GtrTurboError(f"--{odd[0].replace('_', '-')} is for {needs}.", "leave it out, or name one: --teacher openai:MODEL")
    if config.hints and (config.expert or mode.needs == "policy"):
        who = "the expert, who knows all" if config.expert else f"--mode {config.mode}, which asks nothing of the teacher"
        raise GtrTurboError(f"--hints are not for {who}.", "leave it out, or name a checkpoint as --teacher.")
    parts_of(config.teacher_weights, len(each_alone(config)))


def find_named(config: DistillConfig, mode: Mode) -> Teacher | None:
    """Return the expert or the user's own teacher; None where it is a model, which is opened when the work begins."""
    if config.expert and mode.needs not in ("thoughts", "corrections"):
        raise GtrTurboError("a scripted expert has no log-probs.", "use --mode thoughts with --expert, or give --teacher.")
    if checkpoint_of(config) or is_served(config):
        return None
    return find_teacher(EXPERT if config.expert else str(config.teacher), mode.needs)


def check_able(config: DistillConfig, mode: Mode, teacher: Teacher | None) -> None:
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


def open_teacher(
    config: DistillConfig, mode: Mode, on_progress: Callable[[int], None], ending: ExitStack, log: AnswerLog
) -> Teacher:
    """Open the model that teaches. Only where log-probs are asked for is a policy needed in this process.

    Args:
        log: of a checkpoint's answers, where it is asked in words.
    """
    if is_served(config):
        model = served_model(str(config.teacher)) or ""
        return open_served(model, _asking(config, mode), _paying(config), on_answer=partial(on_progress, 1))
    checkpoint = checkpoint_of(config)
    assert checkpoint is not None
    opening = opening_of(config, at_once=REQUESTS_AT_ONCE, for_training=False, ending=ending)
    sampling = {"temperature": config.temperature, "seed": config.seed}
    if kind_of(config.engine) not in ENGINES:
        agent = make_agent(config.engine, checkpoint, for_training=False, max_new_tokens=config.max_new_tokens, **sampling)
        if mode.needs == "corrections":
            return _in_words(config, mode, partial(ask_agent, agent), at_once=REQUESTS_AT_ONCE, log=log)
        return Teacher(thoughts=thoughts_of(log.remembering(partial(ask_agent, agent)), **sampling), at_once=REQUESTS_AT_ONCE)
    engine = ENGINES[kind_of(config.engine)]
    policy = engine.open(checkpoint, opening)
    ask = partial(engine.ask, policy, max_new_tokens=config.max_new_tokens)
    at_once = engine.asked_at_once or _replies_at_once(config)
    if mode.needs == "corrections":
        return _in_words(config, mode, ask, at_once=at_once, log=log)
    return Teacher(
        thoughts=thoughts_of(log.remembering(ask), **sampling),
        at_once=at_once,
        retries=config.retries,
        metrics=policy.metrics,
        **(_scoring(config, policy, on_progress) if engine.in_process and mode.writes == "scores" else {}),
    )


def _in_words(config: DistillConfig, mode: Mode, ask: Ask, *, at_once: int, log: AnswerLog) -> Teacher:
    return open_local(ask, _asking(config, mode), name=name_of(config), at_once=at_once, log=log)


def _asking(config: DistillConfig, mode: Mode) -> Asking:
    templates = read_templates(prompt_texts(config))
    if config.hints and "hints" not in templates.question.get_identifiers():
        raise GtrTurboError(f"--hints has no place in {config.prompt}.", "write $hints there, or leave out --hints.")
    return Asking(
        corrects=mode.needs == "corrections",
        templates=templates,
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


def require_tokenizer(
    teacher: Path | None, own: Mapping[str, str], was: Mapping[Any, str] | None, student: str, *, mend: str
) -> None:
    """Refuse a teacher whose ids mean other tokens than the student's: its log-probs of them would be nonsense.

    Args:
        own, was: contents of the teacher's tokenizer and of the student's, see `contents_of`; None where these are not known.
        student: how to tell whose they are.
        mend: what to do instead.

    Raises:
        GtrTurboError: names the parts that differ.
    """
    other = [name for name in own if was and was[name] != own[name]]
    if other:
        told = {"vocabulary": "vocabulary", "merges": "merges", "special": "special tokens"}
        raise GtrTurboError(
            f"the tokenizer of {teacher} has not the {' and '.join(told[name] for name in other)} of the student's, {student}.",
            f"{mend}, or a teacher with the student's tokenizer.",
        )


def _scoring(config: DistillConfig, policy: Policy, on_progress: Callable[[int], None]) -> dict[str, Any]:
    own = contents_of(policy.renderer.processor.tokenizer, policy.renderer.end_id)
    was = read_manifest(config.rollouts).tokenizer
    require_tokenizer(config.teacher, own, was, f"which played {config.rollouts}", mend=WORDS)
    local = LocalPolicy(
        policy,
        config.rollouts,
        temperature=read_manifest(config.rollouts).config["temperature"],
        tokens=token_budget(config.micro_batch_tokens, policy, recomputes=False),
        on_progress=on_progress,
    )
    return {"policy": local, "logprobs": logprobs_of(local, top=config.top_logprobs)}
