"""Parameters of a merge method's own, as the command line and recipes write them: KEY=VALUE."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gtrturbo.config.choices import Sign
from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.method import MergeMethod

NUMBER = re.compile(r"[+-]?(\d{1,40}(\.\d{0,40})?|\.\d{1,40})([eE][+-]?\d{1,3})?")
# Parameters of all methods that vote, and of every merge of adapters.
COUNT, FACTORS = "count", "factors"
INTEGER = re.compile(r"[+-]?\d{1,15}")
# As YAML 1.1 and pydantic, hence mergekit, read them.
TRUTHS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
KINDS_OF_NUMBERS: Mapping[str, Callable[[Any], bool]] = {
    "bool": lambda value: isinstance(value, bool),
    "int": lambda value: type(value) is int and value >= 1,
    "float": lambda value: type(value) in (int, float) and 0 <= value < math.inf,
}
NAMES_OF_NUMBERS = {"bool": "true or false", "int": "a whole number of at least 1", "float": "a number of at least 0"}


def parse_parameters(texts: Sequence[str]) -> dict[str, Any]:
    """Read KEY=VALUE texts; a VALUE of several numbers is one per checkpoint.

    Raises:
        GtrTurboError: one is no such text, or names what another names.
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise GtrTurboError(f"parameters must be KEY=VALUE, got {text}.", "for example: --parameters epsilon=0.1")
        if key in found:
            raise GtrTurboError(f"parameters set {key} twice.", "leave one out.")
        numbers = [_value(key, part) for part in value.split(",")]
        found[key] = numbers[0] if len(numbers) == 1 else tuple(numbers)
    return found


def without_sign(method: MergeMethod, parameters: Mapping[str, Any]) -> tuple[Sign, dict[str, Any]]:
    """Say how a method that votes elects signs, by the weighted sum or by the number of votes, and which parameters remain.

    Raises:
        GtrTurboError: count is neither true nor false.
    """
    if not method.votes or COUNT not in parameters or COUNT in method.settings:
        return "total", dict(parameters)
    chosen = "count" if _truth(COUNT, parameters) else "total"
    return chosen, {key: value for key, value in parameters.items() if key != COUNT}


def without_factors(method: MergeMethod, parameters: Mapping[str, Any]) -> tuple[bool, dict[str, Any]]:
    """Say whether the factors of adapters are merged apart, and which parameters remain.

    Raises:
        GtrTurboError: factors is neither true nor false.
    """
    if FACTORS not in parameters or FACTORS in method.settings:
        return False, dict(parameters)
    return _truth(FACTORS, parameters), {key: value for key, value in parameters.items() if key != FACTORS}


def _truth(key: str, parameters: Mapping[str, Any]) -> bool:
    value = parameters[key]
    if not isinstance(value, bool):
        raise GtrTurboError(f"parameter {key} must be true or false, got {value}.")
    return value


def _value(key: str, text: str) -> bool | int | float:
    if text.lower() in TRUTHS:
        return TRUTHS[text.lower()]
    number = as_number(text)
    if number is None:
        raise GtrTurboError(f"parameter {key} must be a finite number or true or false, got {text!r}.")
    return int(text) if INTEGER.fullmatch(text) else number


def as_number(text: str) -> float | None:
    """Read a finite decimal number such as 6e-1; None where a text is none."""
    number = float(text) if NUMBER.fullmatch(text) else math.nan
    return number if math.isfinite(number) else None


def require_kind(name: str, key: str, value: Any, kind: str, k: int) -> None:
    """Refuse a parameter of a built-in method that is of another kind than the method says, or not one for each checkpoint.

    Raises:
        GtrTurboError: names both.
    """
    each = isinstance(value, tuple) and "Tensor" in kind
    if each and len(value) != k:
        raise GtrTurboError(f"parameter {key} has {len(value)} numbers for {k} checkpoints.", "give one, or one per checkpoint.")
    word = kind.split(" ")[0]
    for one in value if each else (value,):
        if not KINDS_OF_NUMBERS[word](one):
            more = ", or such a number for each checkpoint" if "Tensor" in kind else ""
            raise GtrTurboError(f"parameter {key} of {name} must be {NAMES_OF_NUMBERS[word]}{more}, got {one}.")
