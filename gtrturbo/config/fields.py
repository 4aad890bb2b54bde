"""What a config class says about its fields, read off their annotations: kinds, bounds, roles, and how text becomes a value."""

import dataclasses
import os
import reprlib
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from numbers import Real
from pathlib import Path
from typing import Any, Literal

from gtrturbo.config.addresses import served_model
from gtrturbo.config.bounds import Between, WordOrWhole
from gtrturbo.config.digits import real, whole
from gtrturbo.errors import GtrTurboError


class Role(Enum):
    """What a field is to the artifact that a stage writes; fields without a role are knobs and go into the manifest."""

    INPUT = "an artifact that is read; the manifest names its id"
    POSITIONAL = "a list of artifacts that are read, given without an option name"
    RUNTIME = "says where or whether to work, not what comes out; not in the manifest"


@dataclass(frozen=True)
class Seam:
    """The field names something built in, or the user's own code (gtrturbo/plugins.py); `kind` is what errors call it."""

    kind: str


@dataclass(frozen=True)
class Absent:
    """What the field was before it existed: a manifest without it means `value`, not the default of today.

    silent: a manifest leaves it out while it is `value`, so that what is made without it keeps the id that it had.
    """

    value: Any
    silent: bool = False

    def hides(self, value: Any) -> bool:
        """A manifest says nothing of the field while it has this value."""
        return self.silent and value == self.value


@dataclass(frozen=True)
class Checked:
    """A value of the field is looked at by a function, which raises GtrTurboError where it is none."""

    by: Callable[[Any], object]


@dataclass(frozen=True)
class More:
    """The option may be given several times: the first value is this field's, the others go into the list called `rest`."""

    rest: str


@dataclass(frozen=True)
class RestOf:
    """The field holds further values of another one's option, by that field's name, and has no option of its own."""

    first: str


@dataclass(frozen=True)
class Field:
    """One setting, read off its annotation. `kind` is the type without Annotated; `optional` says that None is allowed."""

    name: str
    kind: Any
    help: str
    default: Any
    roles: frozenset[Role]
    bounds: Between | WordOrWhole | None
    optional: bool
    seam: Seam | None = None
    absent: Absent | None = None
    checked: Checked | None = None
    more: More | None = None
    rest_of: RestOf | None = None

    @property
    def required(self) -> bool:
        return self.default is dataclasses.MISSING

    @property
    def option(self) -> str:
        return "--" + (self.rest_of.first if self.rest_of else self.name).replace("_", "-")

    @property
    def shown(self) -> str:
        """The field as the usage line names it: OUT of a list, --out of an option."""
        return self.name.upper() if Role.POSITIONAL in self.roles else self.option

    @property
    def placeholder(self) -> str:
        """What stands for a value of the field in an example."""
        return {int: "INT", float: "FLOAT", Path: "PATH"}.get(self.kind, "NAME")

    @property
    def choices(self) -> tuple[str, ...]:
        return typing.get_args(self.kind) if typing.get_origin(self.kind) is Literal else ()

    @property
    def is_list(self) -> bool:
        return typing.get_origin(self.kind) is tuple


def fields(config: type) -> list[Field]:
    """List the settings of a config class in the order in which they are declared."""
    hints = typing.get_type_hints(config, include_extras=True)
    return [_field(f, hints[f.name]) for f in dataclasses.fields(config)]


def _field(field: dataclasses.Field, hint: Any) -> Field:
    kind, *notes = typing.get_args(hint)
    optional = typing.get_origin(kind) is types.UnionType
    if optional:
        kind = next(arm for arm in typing.get_args(kind) if arm is not type(None))
    return Field(
        name=field.name,
        kind=kind,
        help=next(note for note in notes if isinstance(note, str)),
        default=field.default,
        roles=frozenset(note for note in notes if isinstance(note, Role)),
        bounds=next((note for note in notes if isinstance(note, Between | WordOrWhole)), None),
        optional=optional,
        seam=next((note for note in notes if isinstance(note, Seam)), None),
        absent=next((note for note in notes if isinstance(note, Absent)), None),
        checked=next((note for note in notes if isinstance(note, Checked)), None),
        more=next((note for note in notes if isinstance(note, More)), None),
        rest_of=next((note for note in notes if isinstance(note, RestOf)), None),
    )


def check(field: Field, value: Any) -> None:
    """Refuse a value outside its field's bounds or choices.

    Raises:
        GtrTurboError: names the option, the range and the value.
    """
    if value is None and field.optional:
        return
    name = field.name.replace("_", "-")
    if field.choices and value not in field.choices:
        raise GtrTurboError(f"{name} must be one of {', '.join(field.choices)}, got {shortened(value)}.")
    if field.bounds and value not in field.bounds:
        raise GtrTurboError(f"{name} must be {field.bounds}, got {shortened(value)}.")
    if field.checked:
        field.checked.by(value)


def knobs(config: Any) -> dict[str, Any]:
    """Return what decides a stage's result besides its inputs: every field that is neither an artifact nor runtime."""
    chosen = [f for f in fields(type(config)) if not f.roles]
    named = {f: getattr(config, f.name) for f in chosen}
    return {f.name: _plain(value) for f, value in named.items() if not (f.absent and f.absent.hides(value))}


def absent_knobs(config: type) -> dict[str, Any]:
    """Return what a knob means that a manifest does not hold: its default of the time when the manifest was written."""
    known = [f for f in fields(config) if not f.roles]
    return {f.name: _plain(f.absent.value if f.absent else f.default) for f in known if f.absent or not f.required}


def seams(config: Any) -> dict[str, tuple[str, str]]:
    """Return the fields that name something built in or outside: by field name the kind of thing, and the name that is chosen."""
    found = {}
    for field in [f for f in fields(type(config)) if f.seam]:
        value = getattr(config, field.name)
        listed = value if isinstance(value, tuple) else (value,)
        names = (
            {field.name: listed[0]} if not field.is_list else {f"{field.name}.{place}": each for place, each in enumerate(listed)}
        )
        kind = field.seam.kind if field.seam else ""
        found |= {name: (kind, str(each)) for name, each in names.items() if each is not None and served_model(each) is None}
    return found


def input_paths(config: Any) -> dict[str, Path | tuple[Path, ...]]:
    """Return the artifacts that a stage reads, by field name; those not given are left out, and models on servers."""
    wanted = {Role.INPUT, Role.POSITIONAL}
    named = {f.name: getattr(config, f.name) for f in fields(type(config)) if f.roles & wanted}
    here = {name: _not_served(value) for name, value in named.items()}
    return {name: value for name, value in here.items() if value not in (None, ())}


def _not_served(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(each for each in value if served_model(each) is None)
    return value if value is None or served_model(value) is None else None


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def parse(field: Field, text: Any) -> Any:
    """Turn the text of an option, or a value from YAML, into the field's type.

    Raises:
        GtrTurboError: the text is no such value.
    """
    if field.is_list:
        items = text if isinstance(text, list | tuple) else [text]
        item_kind = typing.get_args(field.kind)[0]
        return tuple(_scalar(field, item_kind, item) for item in items)
    if text is None and field.optional:
        return None
    return _scalar(field, str if field.choices else field.kind, text)


def _scalar(field: Field, kind: type, value: Any) -> Any:
    name = field.name.replace("_", "-")
    refusal = GtrTurboError(f"{name} must be {_KINDS[kind]}, got {_SHORT.repr(value)}.")
    if value == "":
        refusal = GtrTurboError(f"{name} must be {_KINDS[kind]}, and is empty.", f"leave out --{name}, or give it a value.")
    if kind is bool:
        if str(value).lower() not in ("true", "false"):
            raise refusal
        return str(value).lower() == "true"
    # YAML has more kinds than options have: sets, bytes, maps.
    if isinstance(value, bool) or not isinstance(value, str | Real if kind in (int, float) else str | Real | Path):
        raise refusal
    if kind in (int, float):
        if (number := _number(kind, value)) is None:
            raise refusal
        return number
    text = str(value)
    if not text.strip() or "\0" in text or text != text.encode(errors="replace").decode():
        raise refusal
    return kind(os.path.expanduser(text) if kind is Path else text)


def _number(kind: type, value: Any) -> int | float | None:
    """Return a number of the kind, from a text in plain digits or from YAML; None where it is none."""
    if isinstance(value, str):
        return whole(value.strip()) if kind is int else real(value.strip())
    try:
        exact = float(value)
    except OverflowError:
        return None
    return exact if kind is float else int(value) if exact.is_integer() else None


def shortened(value: Any) -> str:
    """Write a value that is refused so that it fits on a line."""
    text = str(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}… ({len(text)} characters)"


MOST_SHOWN = 60  # characters of a value
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = MOST_SHOWN
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
