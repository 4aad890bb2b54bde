"""Read a model's reply: strict JSON, with the places of the thoughts and of the action."""

import json
import math
import re
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

from gtrturbo.config.digits import real, whole

FENCED = re.compile(r"\s*```(?:json)?\s*(?P<object>\{.*\})\s*```\s*", re.DOTALL)
BARE = re.compile(r"\s*(?P<object>\{.*\})\s*", re.DOTALL)
SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True)
class Reply:
    """A reply that could be read.

    Attributes:
        fields: every field in the order of the text, the action too.
        action: one of the task's actions.
        action_start: the character at which `"action"` begins; what comes before is thought, or `thought_span` is.
        action_span: first and past-the-last character of the action's value, without its quotes.
        thought_span: first and past-the-last character of the thought, where it does not stand before the action.
    """

    fields: dict[str, Any]
    action: str
    action_start: int
    action_span: tuple[int, int]
    thought_span: tuple[int, int] | None = None


@dataclass(frozen=True)
class Member:
    """One field of a JSON object: its name and value, and the characters where each begins and ends."""

    name: str
    value: Any
    name_span: tuple[int, int]
    value_span: tuple[int, int]


def plain_action(value: Any) -> str | None:
    """Return the text of an action that is a text or a whole number."""
    return str(value) if isinstance(value, str) or type(value) is int else None


def read_reply(
    text: str,
    *,
    required: Sequence[str],
    actions: Container[str] | None = None,
    written: Callable[[Any], str | None] = plain_action,
) -> Reply | None:
    """Read a reply, or return None.

    The text must be one JSON object, bare or in a ``` or ```json fence, with every required field, text as `thoughts`,
    and `action` last and exactly one of the actions. A name that occurs twice, NaN, infinities and text that is not
    Unicode are refused, as is anything around the object.

    Args:
        text: the whole reply.
        required: names of the fields that must be there; others may be.
        actions: legal actions; any if not given.
        written: the action's text from its JSON value, None where it is none; if not given, texts and whole numbers are.
    """
    match = FENCED.fullmatch(text) or BARE.fullmatch(text)
    if match is None:
        return None
    try:
        members = _members(text, match.start("object"), match.end("object"))
    except (ValueError, RecursionError):
        return None
    fields = {member.name: member.value for member in members}
    last = members[-1] if members else None
    if last is None or any(name not in fields for name in required):
        return None
    start, end = last.value_span
    quoted = isinstance(last.value, str)
    action = written(last.value)
    if action is None or (actions is not None and action not in actions) or not isinstance(fields["thoughts"], str):
        return None
    if text[slice(*last.name_span)] != '"action"':
        return None
    return Reply(fields, action, last.name_span[0], (start + 1, end - 1) if quoted else (start, end))


def _members(text: str, start: int, end: int) -> list[Member]:
    """Split a JSON object into its fields.

    Raises: ValueError: It is no JSON object, or not one that `read_reply` accepts.
    """
    members: list[Member] = []
    at = _skip(text, start + 1)
    while members or text[at] != "}":
        name, name_end = DECODER.raw_decode(text, at)
        value_start = _skip(text, _expect(text, _skip(text, name_end), ":"))
        value, value_end = DECODER.raw_decode(text, value_start)
        members.append(Member(name, value, (at, name_end), (value_start, value_end)))
        at = _skip(text, value_end)
        if text[at : at + 1] == "}":
            break
        at = _skip(text, _expect(text, at, ","))
    if at + 1 != end:
        raise ValueError("text after the object")
    named = _without_duplicates([(member.name, member.value) for member in members])
    json.dumps(named, ensure_ascii=False).encode()  # refuses half of a surrogate pair
    return members


def _skip(text: str, at: int) -> int:
    match = SPACE.match(text, at)
    return match.end() if match else at


def _expect(text: str, at: int, mark: str) -> int:
    if text[at : at + 1] != mark:
        raise ValueError(f"no {mark}")
    return at + 1


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ValueError("a name that is no text, or occurs twice")
    return dict(pairs)


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


def _finite(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _refuse(digits)


DECODER = json.JSONDecoder(object_pairs_hook=_without_duplicates, parse_constant=_refuse, parse_float=_finite)


def same(read: Any, true: Any) -> bool:
    """Compare a field that was read with its true value, both JSON.

    Lists and dicts are compared item by item, texts without case and spaces, true, false and null as they are. A number may stand
    as text, and the other way round; one with a fraction is compared as a number, so that 0.50 is 0.5, but a whole number that
    is no float is written without a fraction: 7.0 is not 7.
    """
    if isinstance(true, list):
        return isinstance(read, list) and len(read) == len(true) and all(map(same, read, true))
    if isinstance(true, dict):
        return isinstance(read, dict) and read.keys() == true.keys() and all(same(read[name], true[name]) for name in true)
    if isinstance(true, bool) or true is None:
        return read is true
    plain = _plain(true)
    if isinstance(true, float) or (isinstance(read, float) and plain is not None and whole(plain) is None):
        number = _number(true)
        return number is not None and _number(read) == number
    return plain is not None and _plain(read) == plain


def _number(value: Any) -> float | None:
    """Return the number that a value is, or that it is a text of."""
    plain = _plain(value)
    return value if isinstance(value, float) else real(plain) if plain is not None else None


def _plain(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    plain = "".join(str(value).split()).upper()
    return "10" if plain == "T" else plain
