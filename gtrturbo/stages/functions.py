"""Stages as functions, for scripts and notebooks: `gtrturbo.merge(…)` does what `gtrturbo merge` does, by its names and defaults.

A function is made of its stage's config class, as the command is, so the two cannot differ.
"""

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from gtrturbo.config.building import build
from gtrturbo.config.fields import Field, Role, fields
from gtrturbo.config.renamed import refuse_old
from gtrturbo.errors import GtrTurboError, of_system
from gtrturbo.stages.hub import execute
from gtrturbo.stages.table import STAGES
from gtrturbo.store.draft import Result
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.names import TURNS
from gtrturbo.store.records import Turn
from gtrturbo.store.turns import read_turns

# What only tells what would be done, and so returns no artifact.
OF_THE_COMMAND_ALONE = ("dry_run",)


def function_of(name: str, config: type, action: Callable[[Any], Result]) -> Callable[..., Result]:
    """Make a function of a config class: artifacts that the command takes without a name come first, all else by keyword.

    It returns where the artifact lies (`path`), its `id` and its `metrics`, and raises `GtrTurboError` where the command would
    end with that sentence. A list of numbers stands for `0.2,0.8`, a mapping for several KEY=VALUE, a result for its path.
    """
    out = [field for field in fields(config) if field.name not in OF_THE_COMMAND_ALONE and not field.rest_of]
    known = {field.name: field for field in out}
    signature = inspect.Signature([_parameter(field) for field in sorted(known.values(), key=_order)], return_annotation=Result)

    def function(*positional: Any, **options: Any) -> Result:
        for option in options.keys() - known.keys():
            refuse_old(config, frozenset(known), option)
        given = signature.bind_partial(*positional, **options).arguments
        try:
            return action(
                build(config, {key: _as_written(known[key], value) for key, value in given.items() if value is not None})
            )
        except OSError as error:
            raise of_system(error) from error

    function.__name__ = function.__qualname__ = name
    function.__signature__ = signature  # type: ignore[attr-defined]
    lines = [f"    {field.name}: {field.help}" for field in known.values()]
    function.__doc__ = "\n".join([f"{config.__doc__}\n", "Args:", *lines, "", "Returns: its path, its id and its metrics."])
    return function


def _order(field: Field) -> tuple[bool, bool]:
    return Role.POSITIONAL not in field.roles, not field.required


def _parameter(field: Field) -> inspect.Parameter:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD if Role.POSITIONAL in field.roles else inspect.Parameter.KEYWORD_ONLY
    default = inspect.Parameter.empty if field.default is MISSING else field.default
    return inspect.Parameter(field.name, kind, default=default, annotation=field.kind)


def _as_written(field: Field, value: Any) -> Any:
    """Write a value as a person would on the command line."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, Mapping) and not field.is_list:
        raise GtrTurboError(
            f"{field.name} must be {'the path of a file' if field.name == 'recipe' else 'text'}, got a dictionary.",
            "write it to a file, and give its path.",
        )
    if isinstance(value, Mapping):
        return [f"{key}={_numbers(each)}" for key, each in sorted(value.items())]
    if field.is_list or (field.more and isinstance(value, list | tuple)):
        return [_plain(each) for each in (value if isinstance(value, Iterable) and not isinstance(value, str) else [value])]
    return _numbers(value) if isinstance(value, list | tuple) else _plain(value)


def _plain(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _numbers(value: Any) -> str:
    listed = value if isinstance(value, list | tuple) else [value]
    return ",".join(str(each).lower() if isinstance(each, bool) else str(each) for each in listed)


def _stage(name: str, called: str = "") -> Callable[..., Result]:
    return function_of(called or name.replace("-", "_"), STAGES[name].config, execute)


init = _stage("init")
sft = _stage("sft")
rollout = _stage("rollout")
distill = _stage("distill")
ppo_step = _stage("ppo-step")
merge = _stage("merge")
evaluate = _stage("eval", "evaluate")  # eval is Python's own.


def load_turns(path: str | os.PathLike[str]) -> list[Turn]:
    """Read the turns that a rollout or an evaluation wrote, episode by episode, verified and validated.

    Args:
        path: the artifact's folder, or the result that named it; `Turn.images` are files inside it.

    Raises:
        GtrTurboError: there are none, or they are changed, damaged, or do not fit together.
    """
    folder = Path(os.fspath(path))
    if not (folder / TURNS).is_file():
        read_manifest(folder, "turns")  # Which says what is there instead.
    return read_turns(folder)
