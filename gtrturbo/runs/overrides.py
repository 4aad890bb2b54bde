"""What a user sets of the stages of a run: `run --set STAGE.OPTION=VALUE`."""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

from gtrturbo.config.fields import Field, Role, fields, parse
from gtrturbo.config.renamed import ALSO_CALLED_OPTIONS, refuse_old
from gtrturbo.errors import GtrTurboError
from gtrturbo.stages import STAGES

EXPERT = "expert"
ADAPTER = "adapter"
WARM_START = ("init", "sft", EXPERT, ADAPTER)
# Steps of a run that have a name of their own beside that of their stage.
NAMED = {EXPERT: "rollout", ADAPTER: "init"}
# Options of a stage that are of another one's step in a run, and why.
MEANT = {
    "rollout": (
        EXPERT,
        ("hints", "hinted_share", "random_expert_share"),
        "is of an expert's turns, and a checkpoint plays there",
    ),
    "init": (ADAPTER, ("lora_alpha", "lora_target"), "is of an adapter, which a built-in model gets after its warm start"),
}


def overrides(settings: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Sort STAGE.OPTION=VALUE by stage; a repeated option collects a list, or counts as last given.

    Raises:
        GtrTurboError: no such stage or option, or one that is not the user's to set.
    """
    chosen: dict[str, dict[str, Any]] = {}
    for setting in settings:
        stage, dot, rest = setting.partition(".")
        name, equals, value = rest.partition("=")
        if stage not in (*STAGES, *NAMED) or not dot or not equals:
            raise GtrTurboError(
                f"--set {setting} is not STAGE.OPTION=VALUE.",
                f"stages: {', '.join((*STAGES, *NAMED))}; expert is the rollout for sft, adapter the LoRA of a built-in model",
            )
        _collect(chosen.setdefault(stage, {}), _settable(stage, name), value)
    return chosen


def require_meant(chosen: Mapping[str, Mapping[str, Any]], named: Collection[str]) -> None:
    """Refuse options that are of another step than the one they are given for, where the run has that step.

    Args:
        chosen: options by stage, see `overrides`.
        named: the stages, and steps with a name of their own, that the run has.

    Raises:
        GtrTurboError: names the first.
    """
    for stage, (other, options, why) in MEANT.items():
        for option in [each for each in _changed(chosen, stage) if each in options and other in named]:
            value, name = chosen[stage][option], option.replace("_", "-")
            words = [f"--set {other}.{name}={each}" for each in (value if isinstance(value, tuple) else (value,))]
            raise GtrTurboError(f"--set {stage}.{name} {why}.", f"give: {' '.join(words)}")
    if "expert" in _changed(chosen, "rollout"):
        raise GtrTurboError("--set rollout.expert cannot be set: a checkpoint plays what it learns from.", "leave it out.")


def _changed(chosen: Mapping[str, Mapping[str, Any]], stage: str) -> list[str]:
    """List the options of a stage that are given another value than they have without."""
    known = {field.name: field for field in fields(STAGES[stage].config)}
    return [name for name, value in chosen.get(stage, {}).items() if parse(known[name], value) != known[name].default]


def _settable(stage: str, name: str) -> Field:
    """Return an option that a user may set.

    Raises:
        GtrTurboError: there is none of that name, or it says what the stage reads and writes.
    """
    told = f"--set {stage}.{name}"
    command = NAMED.get(stage, stage)
    known = {field.name: field for field in fields(STAGES[command].config)}
    field = known.get(name.replace("-", "_"))
    if field is None:
        refuse_old(STAGES[command].config, frozenset(known), name)
        options = [known_name.replace("_", "-") for known_name in known]
        meant = [ALSO_CALLED_OPTIONS[name]] if name in ALSO_CALLED_OPTIONS else get_close_matches(name, options, n=1)
        mend = f"did you mean {stage}.{meant[0]}?" if meant and meant[0] in options else f"see: gtrturbo {command} --help"
        raise GtrTurboError(f"{told}: {stage} has no such option.", mend)
    if field.name in ("out", "recipe") or field.roles & {Role.INPUT, Role.POSITIONAL}:
        raise GtrTurboError(f"{told} cannot be set: the run decides what its stages read and write.")
    if (stage, field.name) == ("init", "model"):
        raise GtrTurboError(f"{told} cannot be set: what the other stages learn with follows from the run's.", "give: --model")
    return field


def _collect(values: dict[str, Any], field: Field, value: str) -> None:
    """Put a value beside those that a list has already, or in the place of the one before."""
    values[field.name] = (*values.get(field.name, ()), value) if field.is_list else value
