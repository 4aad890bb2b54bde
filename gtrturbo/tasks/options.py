"""The settings of an environment: what each one may be, read from `name=value` or checked as a keyword argument."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gtrturbo.config.digits import real, whole
from gtrturbo.errors import GtrTurboError

SWITCH = {"true": True, "false": False}


@dataclass(frozen=True)
class Choice:
    """One of a few words; the first is the default."""

    words: tuple[str | int, ...]


@dataclass(frozen=True)
class Whole:
    """A whole number from `low` to `high`."""

    default: int | None
    low: int
    high: int


@dataclass(frozen=True)
class Switch:
    """True or false."""

    default: bool | None


@dataclass(frozen=True)
class Number:
    """Any finite number."""

    default: float | None


@dataclass(frozen=True)
class Text:
    """Any text."""

    default: str | None


Option = Choice | Whole | Switch | Number | Text
IMAGE = Choice(("full", "tiny"))


def default(option: Option) -> str | float | bool | None:
    """Return the value that an option has when nobody sets it; None of one that then says nothing."""
    return option.words[0] if isinstance(option, Choice) else option.default


def read_option(name: str, text: str, option: Option) -> str | float | bool:
    """Turn the text after `name=` into a value.

    Raises: GtrTurboError: The text is not a value of this option.
    """
    value: str | float | bool = text
    if isinstance(option, Choice):
        value = next((word for word in option.words if str(word) == text), text)
    if isinstance(option, Switch):
        value = SWITCH.get(text.lower(), text)
    if isinstance(option, Whole | Number):
        number = whole(text) if isinstance(option, Whole) else real(text)
        value = text if number is None else number  # What is no number is refused below, as it was written.
    check_option(name, value, option)
    return value


def check_option(name: str, value: object, option: Option) -> None:
    """Refuse a value that an option cannot have.

    Raises: GtrTurboError: With the value, and what may stand there.
    """
    if isinstance(option, Choice):
        fine, wanted = value in option.words, " or ".join(map(str, option.words))
    elif isinstance(option, Switch):
        fine, wanted = isinstance(value, bool), "true or false"
    elif isinstance(option, Text):
        fine, wanted = isinstance(value, str) and is_encodable(value), "text" if not isinstance(value, str) else "text of UTF-8"
    elif isinstance(option, Number):
        fine, wanted = isinstance(value, float) and math.isfinite(value), "a number"
    else:
        fine = isinstance(value, int) and not isinstance(value, bool) and option.low <= value <= option.high
        wanted = f"a whole number from {option.low} to {option.high}"
    if not fine:
        raise GtrTurboError(f"{name} must be {wanted}, got {value!r}.")


def is_encodable(text: str) -> bool:
    """Tell whether a file can hold a text: halves of characters, as YAML writes \\ud800, none can."""
    return text == text.encode(errors="replace").decode()


def check_options(values: Mapping[str, Any], options: Mapping[str, Option]) -> None:
    """Refuse the first of `values` that its option cannot have."""
    for name, value in values.items():
        check_option(name, value, options[name])


def check_action(action: Any, actions: Sequence[str]) -> None:
    """Refuse a number that stands for no action, which Python would else count from the end or take for another.

    Raises: GtrTurboError: With the numbers that do.
    """
    if not isinstance(action, int | np.integer) or not 0 <= action < len(actions):
        last = len(actions) - 1
        raise GtrTurboError(f"{action!r} is not an action.", f"choose from 0 ({actions[0]}) to {last} ({actions[last]}).")


def check_reset_keys(given: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    """Refuse reset options that the environment does not know, or that come without their partner.

    Raises: GtrTurboError: With the keys that must be given together.
    """
    if given and set(given) != set(allowed):
        raise GtrTurboError(
            f"reset options are {', '.join(map(repr, given))}, not {' and '.join(map(repr, allowed))}.",
            "leave options out to deal at random.",
        )
