"""What an environment of others observes and tells: put into words for a prompt, and kept where JSON can hold it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gtrturbo.tasks.options import is_encodable
from gtrturbo.tasks.view import is_picture

MOST_NUMBERS = 64  # Of an array or a list; longer ones are left out.
MOST_DIGITS = 4


def in_words(observation: Any) -> str:
    """Put an observation into words: a text, or the texts and numbers of a dict or tuple.

    Pictures, bytes, objects, and arrays and lists of more than 64 entries are left out. A single number or array says nothing in
    words, and is left out too.
    """
    observation = _unpacked(observation)
    if isinstance(observation, str):
        return _encodable(observation)
    if isinstance(observation, Mapping):
        return _named(observation)
    return _value(observation) if isinstance(observation, tuple | list) else ""


def _named(values: Mapping[Any, Any]) -> str:
    parts = {name: _value(value) for name, value in values.items()}
    return "; ".join(f"{name}: {value}" for name, value in parts.items() if value)


def _value(value: Any) -> str:
    if is_picture(value) or _count(value) > MOST_NUMBERS:
        return ""
    value = _unpacked(value)
    if isinstance(value, Mapping):
        inner = _named(value)
        return f"({inner})" if inner else ""
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)  # A set of texts has another order in every process.
    if isinstance(value, list | tuple):
        parts = [_value(each) for each in value]
        return f"[{', '.join(filter(None, parts))}]" if any(parts) or not parts else ""
    if isinstance(value, float):
        return f"{value:.{MOST_DIGITS}g}"
    if isinstance(value, str):
        return _encodable(value)
    return str(value) if value is None or isinstance(value, int) else ""


def _unpacked(value: Any) -> Any:
    """Turn numpy's numbers, texts and arrays into Python's; a picture stays what it is."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) and not is_picture(value) else value


def _count(value: Any) -> int:
    """Count what an array or a list holds, all the way down."""
    if isinstance(value, np.ndarray):
        return value.size
    return sum(map(_count, value)) if isinstance(value, list | tuple | set | frozenset) else 1


def _encodable(text: str) -> str:
    """Replace what no file can hold, halves of characters, by question marks."""
    return text.encode(errors="replace").decode()


def is_plain(value: Any) -> bool:
    """Tell whether JSON can hold a value of an info, and it is small."""
    if isinstance(value, np.ndarray | np.generic):
        return is_plain(value.tolist()) if value.dtype.kind in "biufU" and value.size <= MOST_NUMBERS else False
    if isinstance(value, float):
        return bool(np.isfinite(value))
    if isinstance(value, str):
        return is_encodable(value)
    return value is None or isinstance(value, int) or (isinstance(value, list) and all(map(is_plain, value)))
