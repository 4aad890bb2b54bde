"""JSON as it is written here: UTF-8, each key once, numbers that are numbers. Whatever else a parser lets through is refused."""

import json
import math
from typing import Any


def parse_json(content: bytes) -> Any:
    """Read one JSON value.

    Raises:
        ValueError: it is none, is not UTF-8, names a key twice, holds NaN or Infinity, nests too deeply, or has anything around
            it but the newline at its end.
    """
    text = content.decode("utf-8")
    if text.strip() != text.removesuffix("\n"):
        raise ValueError("there is more than one value with a newline")
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("it nests too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it names {next(name for name in names if names.count(name) > 1)!r} twice")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"it holds {text}, which is no number")


def is_number(value: object) -> bool:
    """Tell whether a value of JSON is a number that a float can hold: a whole one may have thousands of digits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
