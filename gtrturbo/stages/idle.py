"""Options that have no part in what a stage does under its other options: refused by name where a user gives them.

Where a preset says them a run leaves them out, and an artifact that is there is found whatever it says of them.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from gtrturbo.config import DistillConfig, EvalConfig, InitConfig, PpoStepConfig, RolloutConfig
from gtrturbo.config.addresses import kind_of, served_model
from gtrturbo.config.choices import AMONG_GROUPS, BUILT_IN_ENGINES, GROUP, GROUP_MEAN, HF, VLLM
from gtrturbo.config.fields import fields
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.sizes import BUILT_IN
from gtrturbo.play.teachers import find_mode
from gtrturbo.plugins import is_outside, names_code
from gtrturbo.stages.resolve import teachers_of

Idle = dict[str, tuple[str, str]]  # By field: why it has no part, after its name in a sentence, and what mends it.
LEAVE = "leave it out."
OF_VALUES = ("value_learning_rate", "value_coef", "value_clip_range", "detach_value")
OF_WRITING = ("temperature", "max_new_tokens", "retries")
OF_REQUESTS = ("at_once", "answer_timeout", "reply_format")
OF_SERVERS = ("served_model", "probe", "probe_turns")
OF_ENGINES = ("engine", "dtype", "vllm_python", *OF_SERVERS)


def require_effect(config: Any) -> None:
    """Refuse an option that has no part in a stage under its other options.

    Raises:
        GtrTurboError: names the first.
    """
    idle = idle_options(config)
    for field in fields(type(config)):
        if field.name in idle and getattr(config, field.name) != field.default:
            why, fix = idle[field.name]
            option = field.option.replace("--", "--no-", 1) if field.kind is bool and field.default else field.option
            raise GtrTurboError(f"{option} {why}.", fix)


def idle_options(config: Any) -> Idle:
    """Return the fields of a stage's config that have no part in what it does, whatever their values.

    Raises:
        GtrTurboError: a credit of the user's own cannot be imported, which is asked whether it needs values.
    """
    return OF_STAGE[type(config)](config) if type(config) in OF_STAGE else {}


def _each(names: tuple[str, ...], why: str, fix: str = LEAVE) -> Idle:
    return dict.fromkeys(names, (why, fix))


def _of_init(config: InitConfig) -> Idle:
    idle: Idle = {}
    if not config.lora_rank:
        idle |= _each(
            ("lora_alpha", "lora_target"), "is of an adapter, and none is made", "leave it out, or add: --lora-rank 128"
        )
    if config.model in BUILT_IN:
        idle |= _each(("revision",), f"is of a model on the hub, and {config.model} is built in")
    return idle


def _of_update(config: PpoStepConfig) -> Idle:
    idle: Idle = {}
    if not config.schedule_updates:
        mend = "leave it out, or add: --schedule-updates 25"
        idle |= _each(("final_learning_rate",), "is where a schedule ends, and the learning rate is constant", mend)
        idle |= _each(("schedule_start",), "is where a schedule begins, and the learning rate is constant", mend)
    if lacks_values(config.credit):
        idle |= _each(OF_VALUES, f"is of values, and --credit {config.credit} has none")
    if config.credit in AMONG_GROUPS:
        idle |= _each(("gae_lambda",), f"is of values, and --credit {config.credit} has none")
    if config.credit in (GROUP, GROUP_MEAN):
        idle |= _each(("gamma",), f"has no part in --credit {config.credit}, which discounts nothing")
    return idle


def lacks_values(credit: str) -> bool:
    """Tell whether a credit makes no use of the value head.

    Raises:
        GtrTurboError: it is of the user's own, and cannot be imported.
    """
    if is_outside(credit):
        return not importlib.import_module("gtrturbo.train.credit").find_credit(credit).needs_values
    return credit in AMONG_GROUPS


def _of_rollout(config: RolloutConfig) -> Idle:
    if config.expert and config.checkpoint is None:
        names = ("temperature", "max_new_tokens", "on_invalid_reply", *OF_ENGINES)
        return _each(names, "is for a checkpoint that plays, and the expert does")
    return _of_engine(config)


def _of_eval(config: EvalConfig) -> Idle:
    counted = _each(("episodes",), f"is for deals, and --panel {config.panel} says how many it has") if config.panel else {}
    return counted | _of_engine(config)


def _of_engine(config: Any) -> Idle:
    idle, kind = Idle(), kind_of(config.engine)
    if kind == HF or kind not in BUILT_IN_ENGINES:
        idle |= _each(OF_SERVERS, f"is for a server, and --engine {config.engine} is none")
    elif not config.probe:
        idle |= _each(("probe_turns",), "says how to prove what a server serves, and --no-probe leaves that out")
    if config.engine != VLLM:
        idle |= _each(("vllm_python",), f"is for a server that is started, and --engine {config.engine} starts none")
    if kind not in BUILT_IN_ENGINES:
        idle |= _each(("dtype",), f"is of weights that are loaded here, which --engine {config.engine} does itself")
    return idle


def _of_distill(config: DistillConfig) -> Idle:
    named = teachers_of(config)
    served = any(served_model(each) is not None for each in named)
    here = any(served_model(each) is None and not names_code(each) for each in named)
    idle = _of_engine(config)
    if not served:
        idle |= _each(OF_REQUESTS, "is for a teacher on a server", "leave it out, or name one: --teacher openai:MODEL")
    if not here:
        idle |= _each((*OF_ENGINES, "micro_batch_tokens"), "is for a checkpoint that teaches, and none does")
    if not here or find_mode(config.mode).needs == "corrections" or kind_of(config.engine) not in BUILT_IN_ENGINES:
        idle |= _each(("retries",), "is for thoughts of a checkpoint that --engine hf or a server runs")
    if not here and not served:
        idle |= _each(OF_WRITING, "is for a model that teaches, and none does")
    elif find_mode(config.mode).comparable and not is_outside(config.mode):
        idle |= _each(OF_WRITING, f"has no part in --mode {config.mode}, in which the teacher writes nothing")
    if not find_mode(config.mode).comparable:
        idle |= _each(("top_logprobs",), "is for --mode kl", "leave out one of the two.")
    if not config.more_teachers:
        idle |= _each(("teacher_weights",), "is for several teachers", "leave it out, or give --teacher once more.")
    return idle


OF_STAGE: Mapping[type, Callable[[Any], Idle]] = {
    InitConfig: _of_init,
    PpoStepConfig: _of_update,
    RolloutConfig: _of_rollout,
    DistillConfig: _of_distill,
    EvalConfig: _of_eval,
}
