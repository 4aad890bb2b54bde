"""Who teaches, as distill's config says: what each is called, and how a model that teaches is opened."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
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
from gtrturbo.play.agents import ENGINES, ask_agent, make_agent
from gtrturbo.play.checkpoint_teacher import Ask, LocalPolicy, logprobs_of, thoughts_of
from gtrturbo.play.teachers import EXPERT, Mode, Teacher
from gtrturbo.play.teaching.opening import AnswerLog, Asking, Paying, open_local, open_served
from gtrturbo.plugins import names_code
from gtrturbo.stages.opening import opening_of
from gtrturbo.stages.teaching_options import checkpoint_of, is_served, words_of
from gtrturbo.store.ids import artifact_id
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.turns import has_tokens, read_turn_tokens, read_turns

WORDS = "use --mode correct or --mode thoughts, which ask in words"
REQUESTS_AT_ONCE = 64  # to a server, or of an agent of the user's own


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
    return Asking(
        corrects=mode.needs == "corrections",
        templates=words_of(config),
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
