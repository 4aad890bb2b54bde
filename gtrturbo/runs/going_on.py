"""Whether a run that is there may be gone on with: asked of run.json before any work, in the options that the user gave."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gtrturbo.analysis.record import UNRECORDED, Record, is_recorded, read_record
from gtrturbo.config import RunConfig
from gtrturbo.config.fields import Field, Role, fields, parse
from gtrturbo.errors import GtrTurboError
from gtrturbo.plugins import is_outside, load
from gtrturbo.runs.overrides import EXPERT
from gtrturbo.runs.plan import Step, plan
from gtrturbo.runs.presets import PRESETS
from gtrturbo.store.names import MANIFEST


def require_same_run(config: RunConfig, steps: Sequence[Step]) -> bool:
    """Refuse to go on with a run of which something was made otherwise than these settings say; with --overwrite anything goes.

    Both sets of settings are planned, and what they say of the artifacts that are there is compared. Ids of inputs and texts of
    code are not: each stage looks at its own.

    Returns: whether run.json says another plan than this one, such as one of fewer iterations.

    Raises:
        GtrTurboError: names the first option that differs.
    """
    if config.overwrite or not is_recorded(config.out):
        return config.overwrite
    before = _recorded(read_record(config.out), config)
    planned = _planned(before)
    if planned is None:  # Settings of an earlier version may be none today.
        return False
    if differing := _differing(planned, steps):
        raise GtrTurboError(
            f"{config.out} exists and was made {_told(before, config, planned, *differing)}.",
            "choose another --out, or add --overwrite.",
        )
    return planned != list(steps)


def _recorded(record: Record, config: RunConfig) -> RunConfig:
    """Return the settings of run.json, in the words of those that are given now where only their content counts."""
    values: dict[str, Any] = {}
    for field in fields(RunConfig):
        now = getattr(config, field.name)
        if field.name in UNRECORDED:
            values[field.name] = now
        elif field.name in record.config:
            was = parse(field, record.config[field.name])
            values[field.name] = now if _may_be_the_same(field.name, was, now) else was
        elif not field.required:
            values[field.name] = field.absent.value if field.absent else field.default
    return RunConfig(**values)


def _may_be_the_same(name: str, was: Any, now: Any) -> bool:
    """Tell whether two values of a setting may stand for the same folder, model or code, by which name however."""
    if name in ("start", "teacher"):
        return None not in (was, now)
    if name == "more_teachers":
        return len(was) == len(now)
    if name == "model":
        return was not in PRESETS and now not in PRESETS
    if name == "method":
        return is_outside(now) and load("method", now).name == was
    return name == "task" and is_outside(was) and is_outside(now)


def _planned(config: RunConfig) -> list[Step] | None:
    try:
        return plan(config)
    except GtrTurboError:
        return None


def _differing(planned: Sequence[Step], steps: Sequence[Step]) -> tuple[Step, Step] | None:
    """Return the first step of two plans that is done and was to be made otherwise, as it was planned and as it is now."""
    now = {step.config.out: step for step in steps}
    for step in planned:
        other = now.get(step.config.out)
        if other and (step.config.out / MANIFEST).is_file() and _compared(step) != _compared(other):
            return step, other
    return None


def _compared(step: Step) -> dict[str, Any]:
    return {
        field.name: getattr(step.config, field.name) for field in fields(type(step.config)) if Role.RUNTIME not in field.roles
    }


def _told(before: RunConfig, config: RunConfig, planned: Sequence[Step], was: Step, now: Step) -> str:
    """Say of the option that makes a step another one what it was and is; of a stage's own option that of the stage."""
    for field in fields(RunConfig):
        values = getattr(before, field.name), getattr(config, field.name)
        if field.name in UNRECORDED or field.name == "set" or values[0] == values[1]:
            continue
        changed = _planned(replace(before, **{field.name: values[1]}))
        if changed is None or _differing(planned, changed):
            return _otherwise(field, *values)
    name = next(name for name, value in _compared(was).items() if value != _compared(now).get(name))
    stage = EXPERT if was.stage == "rollout" and not was.iteration else was.stage
    option = f"--set {stage}.{name.replace('_', '-')}"
    return f"with {option}={_value(getattr(was.config, name))}, not {_value(getattr(now.config, name, None))}"


def _otherwise(field: Field, was: Any, now: Any) -> str:
    if was in (None, ()):
        return f"without {field.option}, not with {field.option} {_value(now)}"
    if now in (None, ()):
        return f"with {field.option} {_value(was)}, not without"
    return f"with {field.option} {_value(was)}, not {_value(now)}"


def _value(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
