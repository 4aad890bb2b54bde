"""Ways to damage JSON and rows of JSON: a value at a drawn place becomes another, or rows are moved."""

import copy
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from campaign.damage import Inapplicable, Mutation, by_bytes

DEEP = 100_000
SEAL = re.compile(r"[0-9a-f]{64} ")


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the places of a JSON value, deepest included."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:8]) if isinstance(value, list) else ()
    return [path, *(place for key, each in inner for place in places(each, (*path, key)))]


def _at(content: Any, place: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    if not place:
        return change(content)
    changed = copy.copy(content)
    changed[place[0]] = _at(content[place[0]], place[1:], change)
    return changed


def _value(change: Callable[[Any, Random], Any], wanted: Callable[[Any], bool] = lambda _: True) -> Callable[[Any, Random], Any]:
    def changed(content: Any, draw: Random) -> Any:
        fitting = [place for place in places(content) if place and wanted(_look(content, place))]
        if not fitting:
            raise Inapplicable
        return _at(content, draw.choice(fitting), lambda value: change(value, draw))

    return changed


def _look(content: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        content = content[key]
    return content


def _without_a_key(content: Any, draw: Random) -> Any:
    def less(value: Any) -> Any:
        gone = draw.choice(list(value))
        return {key: each for key, each in value.items() if key != gone}

    return _value(lambda value, _: less(value), lambda value: isinstance(value, dict) and bool(value))([content], draw)[0]


def _swapped(value: Any, draw: Random) -> Any:
    """Give a value of another type that says the same where it can."""
    if isinstance(value, bool):
        return draw.choice([str(value).lower(), int(value), [value], None])
    if isinstance(value, int | float):
        return draw.choice([str(value), [value], {"value": value}, None, True])
    if isinstance(value, str):
        return draw.choice([5, [value], {"text": value}, None, True, list(value[:3])])
    if value is None:
        return draw.choice(["null", 0, [], {}])
    return draw.choice(["", 0, None, {}] if isinstance(value, list) else ["", 0, None, list(value)])


def _json(change: Callable[[Any, Random], Any]) -> Callable[[Path, Random], None]:
    def changed(path: Path, draw: Random) -> None:
        before = json.loads(path.read_text(encoding="utf-8"))
        after = change(before, draw)
        if after == before and type(after) is type(before) and json.dumps(after) == json.dumps(before):
            raise Inapplicable
        path.write_text(_written(after), encoding="utf-8", errors="surrogatepass")

    return changed


@dataclass(frozen=True)
class Raw:
    """Text that is put into JSON as it stands."""

    text: str


def _written(content: Any) -> str:
    raw: list[str] = []

    def lay(value: Any) -> str:
        raw.append(value.text)
        return f"\0{len(raw) - 1}\0"

    text = json.dumps(content, default=lay, ensure_ascii=True)
    for number, each in enumerate(raw):
        text = text.replace(json.dumps(f"\0{number}\0"), each)
    return text


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def raw(*texts: str) -> Callable[[Any, Random], Any]:
    return lambda _, draw: Raw(draw.choice(texts))


NESTED = "[" * DEEP + "]" * DEEP
NUMBERS = {
    "not a number": ("NaN", "Infinity", "-Infinity"),
    "huge number": ("1e999", "-1e999", "1" + "0" * 400, "9223372036854775808", "1e308", "-1" + "0" * 5000),
    "odd number": ("-1", "0", "-0.0", "0.5", "1e-320", "2147483648", "-2147483649"),
}
TEXTS = {
    "path outside": ["../../victim.txt", "/etc/passwd", "..", "", ".", "a/../../b", "/dev/zero"],
    "control characters": ["\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "a\u202egnp.exe", "[red]x[/blue]", "\x00", "a\nb\rc"],
    "odd text": ["", " ", "x" * 100_000, "\ud800", "ß" * 300, "%s%n{0}", "=1+1", "null", "<script>alert(1)</script>"],
}
JSON_VALUES = {
    "type swapped": (_value(_swapped), True),
    "key missing": (_without_a_key, True),
    "key unknown": (lambda content, _: {**_mapping(content), "unknown": [1, {"a": None}]}, False),
    "null somewhere": (_value(lambda *_: None), True),
    **{name: (_value(raw(*texts), is_number), name != "odd number") for name, texts in NUMBERS.items()},
    **{name: (_value(lambda _, draw, t=texts: draw.choice(t), is_text), False) for name, texts in TEXTS.items()},
    "deep value": (_value(raw(NESTED)), True),
    "list shorter": (_value(lambda value, _: value[:-1], lambda value: isinstance(value, list) and bool(value)), False),
    "list longer": (_value(lambda value, _: [*value, value[-1]], lambda value: isinstance(value, list) and bool(value)), False),
}


def _mapping(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise Inapplicable
    return content


WHOLE_JSON = {
    "nothing inside": lambda content, _: [] if isinstance(content, list) else {},
    "other top": lambda content, draw: draw.choice([[content], {"": content}, None, 3, "text", True]),
    "deep": lambda *_: Raw(NESTED),
    "deep objects": lambda *_: Raw('{"a":' * DEEP + "1" + "}" * DEEP),
    "huge": lambda *_: Raw("1" + "0" * 5000),
    "NaN": lambda *_: Raw("NaN"),
    "lone surrogate": lambda *_: Raw('"\\ud800"'),
}


def _doubled(path: Path, draw: Random) -> None:
    """Write the first key of the file a second time, with another value."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not content:
        raise Inapplicable
    key = draw.choice(list(content))
    path.write_text(f"{json.dumps(content)[:-1]}, {json.dumps(key)}: null}}", encoding="utf-8")


JSON = [
    *(Mutation(name, _json(change), breaks) for name, (change, breaks) in JSON_VALUES.items()),
    *(Mutation(name, _json(change)) for name, change in WHOLE_JSON.items()),
    Mutation("key twice", _doubled),
]

# Rows of JSON: one drawn row is changed like JSON, or rows are moved.


def _row(change: Callable[[Any, Random], Any]) -> Callable[[Path, Random], None]:
    def changed(path: Path, draw: Random) -> None:
        lines = path.read_text(encoding="utf-8").splitlines()
        if not lines:
            raise Inapplicable
        number = draw.randrange(len(lines))
        seal = SEAL.match(lines[number])  # As rows of resume logs have one.
        start = seal[0] if seal else ""
        before = json.loads(lines[number].removeprefix(start))
        after = change(before, draw)
        if not isinstance(after, Raw) and json.dumps(after, default=str) == json.dumps(before):
            raise Inapplicable
        lines[number] = start + _written(after)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    return changed


def _rows(change: Callable[[list[bytes], Random], Sequence[bytes]]) -> Callable[[Path, Random], None]:
    return by_bytes(lambda content, draw: b"".join(change(content.splitlines(keepends=True), draw)))


def _shuffled(lines: list[bytes], draw: Random) -> list[bytes]:
    if len(lines) < 2:
        raise Inapplicable
    place = draw.randrange(len(lines) - 1)
    return [*lines[:place], lines[place + 1], lines[place], *lines[place + 2 :]]


ROWS = [
    *(Mutation(f"row: {name}", _row(change), breaks) for name, (change, breaks) in JSON_VALUES.items()),
    *(Mutation(f"row: {name}", _row(change)) for name, change in WHOLE_JSON.items()),
    Mutation("row twice", _rows(lambda lines, draw: [*lines, draw.choice(lines)])),
    Mutation("row missing", _rows(lambda lines, draw: _less(lines, draw))),
    Mutation("rows moved", _rows(_shuffled)),
    Mutation("blank row", _rows(lambda lines, draw: [*lines[:1], b"\n", *lines[1:]])),
    Mutation("junk row", _rows(lambda lines, draw: [*lines[:1], b"junk\n", *lines[1:]])),
    Mutation("last row cut", _rows(lambda lines, draw: [*lines[:-1], lines[-1][: len(lines[-1]) // 2]])),
    Mutation("no rows", _rows(lambda lines, draw: [])),
]


def _less(lines: list[bytes], draw: Random) -> list[bytes]:
    if not lines:
        raise Inapplicable
    gone = draw.randrange(len(lines))
    return lines[:gone] + lines[gone + 1 :]


def _in_turn(change: Callable[[dict[str, Any], Random], None]) -> Callable[[Path, Random], None]:
    def changed(row: Any, draw: Random) -> Any:
        after = copy.deepcopy(row)
        change(after, draw)
        return after

    return _row(changed)


def _sets(**values: Any) -> Callable[[dict[str, Any], Random], None]:
    return lambda row, _: row.update(values)


def _says(text: str) -> Callable[[dict[str, Any], Random], None]:
    def change(row: dict[str, Any], _: Random) -> None:
        row["messages"][-1]["content"][0]["text"] = text

    return change


# What is wrong with a turn although each of its fields is of the right type.
TURNS = [
    Mutation("turn: terminated and truncated", _in_turn(_sets(terminated=True, truncated=True))),
    Mutation("turn: reward is not its terms' sum", _in_turn(_sets(reward=123.0))),
    Mutation("turn: another reply", _in_turn(_says("something else"))),
    Mutation("turn: empty reply", _in_turn(_says(""))),
    Mutation("turn: no messages", _in_turn(_sets(messages=[]))),
    Mutation("turn: empty message", _in_turn(_sets(messages=[{}]))),
    Mutation(
        "turn: no content", _in_turn(_sets(messages=[{"role": "user", "content": []}, {"role": "assistant", "content": []}]))
    ),
    Mutation("turn: negative episode", _in_turn(_sets(episode=-1))),
    Mutation("turn: far turn", _in_turn(_sets(turn=99))),
    Mutation("turn: illegal with an action", _in_turn(_sets(legal=False, action="+"))),
    Mutation("turn: legal without an action", _in_turn(_sets(legal=True, action=None))),
    Mutation("turn: missing picture", _in_turn(_sets(images=["images/" + "0" * 32 + ".png"]))),
    Mutation("turn: no picture", _in_turn(_sets(images=[]))),
    Mutation("turn: a picture more", _in_turn(lambda row, _: row["images"].append(row["images"][0]))),
    Mutation("turn: picture outside", _in_turn(_sets(images=["../elsewhere.png"]))),
    Mutation("turn: absolute picture", _in_turn(_sets(images=["/etc/passwd"]))),
    Mutation("turn: huge reward", _in_turn(_sets(reward=1e308, reward_terms={"environment": 1e308}))),
]
DEMOS = [
    Mutation("demo: span beyond the reply", _in_turn(_sets(masked_spans=[[0, 10**6]]))),
    Mutation("demo: span backwards", _in_turn(_sets(masked_spans=[[5, 2]]))),
    Mutation("demo: negative span", _in_turn(_sets(masked_spans=[[-5, 2]]))),
    Mutation("demo: no messages", _in_turn(_sets(messages=[]))),
    Mutation("demo: picture outside", _in_turn(_sets(images=["../elsewhere.png"]))),
    Mutation("demo: no picture", _in_turn(_sets(images=[]))),
    Mutation("demo: empty reply", _in_turn(_says(""))),
]
