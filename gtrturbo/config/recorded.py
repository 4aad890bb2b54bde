"""Settings as manifests record them: of the kinds that their options are, whoever wrote the manifest."""

import functools
import typing
from numbers import Real
from typing import Any

from gtrturbo.config.fields import Field, fields
from gtrturbo.config.merging import MergeConfig
from gtrturbo.config.playing import DistillConfig, EvalConfig, RolloutConfig
from gtrturbo.config.training import InitConfig, PpoStepConfig, SftConfig

CONFIGS = {
    "init": InitConfig,
    "sft": SftConfig,
    "rollout": RolloutConfig,
    "distill": DistillConfig,
    "ppo-step": PpoStepConfig,
    "merge": MergeConfig,
    "eval": EvalConfig,
}


def require_recorded(stage: str, recorded: dict[str, Any]) -> None:
    """Refuse settings that no option of the stage may have been; names that it does not know are of other versions.

    Raises:
        ValueError: names the first such setting.
    """
    for name, value in recorded.items():
        field = _knobs(stage).get(name)
        if field and not _may_be(field, value):
            raise ValueError(f"its setting {name.replace('_', '-')} is {value!a:.60}, which is none")


@functools.cache
def _knobs(stage: str) -> dict[str, Field]:
    return {field.name: field for field in fields(CONFIGS[stage]) if not field.roles}


def _may_be(field: Field, value: Any) -> bool:
    """Tell whether a value of JSON is one of a field: of its kind, and where that is a number within its bounds."""
    if field.is_list:
        kind = typing.get_args(field.kind)[0]
        return isinstance(value, list) and all(_is_of(kind, item) for item in value)
    if value is None:
        return field.optional
    kind = str if field.choices else field.kind
    bounded = field.bounds if kind in (int, float) else None
    return _is_of(kind, value) and (bounded is None or value in bounded)


def _is_of(kind: type, value: Any) -> bool:
    if kind is float:
        return isinstance(value, Real) and not isinstance(value, bool)
    return type(value) is kind
