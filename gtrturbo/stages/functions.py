"""Stages as functions, for scripts and notebooks: `gtrturbo.merge(…)` does what `gtrturbo merge` does, by its names and defaults.

A function is made of its stage's config class, as the command is, so the two cannot differ.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from gtrturbo.config.fields import Field, Role, build, fields
from gtrturbo.stages.hub import execute
from gtrturbo.stages.table import STAGES
from gtrturbo.store.draft import Result


def stage_function(name: str) -> Callable[..., Result]:
    """Make a function of a stage: artifacts that the command takes without an option name come first, all else by keyword.

    It returns where the artifact lies (`out`), its `id` and its `metrics`, and raises `GtrTurboError` where the command would end
    with that sentence. A list of numbers stands for `0.2,0.8`, a mapping for several KEY=VALUE.
    """
    config = STAGES[name].config
    known = {field.name: field for field in fields(config) if not field.rest_of}
    signature = inspect.Signature([_parameter(field) for field in sorted(known.values(), key=_order)], return_annotation=Result)

    def stage(*positional: Any, **options: Any) -> Result:
        given = signature.bind_partial(*positional, **options).arguments
        return execute(build(config, {key: _as_written(known[key], value) for key, value in given.items() if value is not None}))

    stage.__name__ = stage.__qualname__ = name.replace("-", "_")
    stage.__signature__ = signature  # type: ignore[attr-defined]
    lines = [f"    {field.name}: {field.help}" for field in known.values()]
    stage.__doc__ = "\n".join([f"{config.__doc__}\n", "Args:", *lines, "", "Returns: where it lies, its id and its metrics."])
    return stage


def _order(field: Field) -> tuple[bool, bool]:
    return Role.POSITIONAL not in field.roles, not field.required


def _parameter(field: Field) -> inspect.Parameter:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD if Role.POSITIONAL in field.roles else inspect.Parameter.KEYWORD_ONLY
    default = inspect.Parameter.empty if field.default is MISSING else field.default
    return inspect.Parameter(field.name, kind, default=default, annotation=field.kind)


def _as_written(field: Field, value: Any) -> Any:
    """Write a value as a person would on the command line."""
    if isinstance(value, Mapping):
        return [f"{key}={_numbers(each)}" for key, each in value.items()]
    if field.is_list or field.more:
        return [value] if isinstance(value, str | Path) else list(value)
    return _numbers(value) if isinstance(value, list | tuple) else value


def _numbers(value: Any) -> str:
    listed = value if isinstance(value, list | tuple) else [value]
    return ",".join(str(each).lower() if isinstance(each, bool) else str(each) for each in listed)


merge = stage_function("merge")
