"""Strict reading of replies, and where the action stands."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gtrturbo.tasks.built_in import TASKS
from gtrturbo.tasks.loading import load_task

NUMBERLINE = load_task("numberline")
POINTS24 = load_task("points24")
GOOD = '{"current number": 1, "target number": 2, "thoughts": "up", "action": "+"}'


def replaced(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"  \n{GOOD}\n ",
        f"```json\n{GOOD}\n```",
        f"```\n{GOOD}\n```  ",
        replaced(": ", ":").replace(", ", ","),
        replaced(", ", "\n,\t"),
        replaced("1", '"1"'),
        replaced('"up"', r'"\u2191 say \"action\": \"-\" {}"'),
        replaced('"thoughts"', '"extra": {"action": "-", "deep": [1.5, null]}, "thoughts"'),
        replaced('"+"', r'"\u002b"'),
    ],
)
def test_what_parses(text):
    reply = NUMBERLINE.read(text, {})
    assert reply is not None and reply.action == "+"
    assert text[reply.action_start :].startswith('"action"')
    assert json.loads(f'"{text[slice(*reply.action_span)]}"') == "+"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "{",
        "go up",
        "[1]",
        GOOD[:-1],
        GOOD[1:],
        GOOD + "}",
        GOOD + GOOD,
        f"Answer: {GOOD}",
        f"{GOOD} done",
        f"```python\n{GOOD}\n```",
        f"```json\n{GOOD}",
        f"```json\n{GOOD}\n``` done",
        replaced('"+"}', '"+",}'),
        replaced('"+"}', '"+", "more": 1}'),  # action is not last
        replaced('"+"', '"up"'),
        replaced('"+"', '" +"'),
        replaced('"+"', "+"),
        replaced('"+"', '["+"]'),
        replaced('"+"', "null"),
        replaced('"+"', "true"),
        replaced('"up"', "null"),
        replaced('"up"', '"u\np"'),  # a raw line break inside a text is not JSON
        replaced('"up"', r'"\ud800"'),  # half of a pair
        replaced('"action"', r'"\u0061ction"'),
        replaced('"action"', '"Action"'),
        replaced('"thoughts": "up", ', ""),
        replaced('"current number": 1, ', ""),
        replaced("1", "NaN"),
        replaced("1", "-Infinity"),
        replaced("1", "1e999"),
        replaced("1", '{"a": 1, "a": 2}'),
        replaced('"current number"', '"target number"'),  # twice
        replaced('"thoughts"', '"action": "+", "thoughts"'),
        replaced('"thoughts"', "thoughts"),
        replaced('"thoughts"', "1"),
        replaced("1", "[" * 100_000),
        replaced("1", "9" * 5000),
        '{"a": {}',
        '{"a": "}',
    ],
)
def test_what_does_not_parse(text):
    assert NUMBERLINE.read(text, {}) is None


@pytest.mark.parametrize(("value", "action"), [("10", "10"), ('"10"', "10"), ("7", "7")])
def test_a_number_may_stand_without_quotes(value, action):
    text = f'{{"cards": [], "formula": "", "thoughts": "", "action": {value}}}'
    reply = POINTS24.read(text, {})
    assert reply is not None and reply.action == action and text[slice(*reply.action_span)] == action


@pytest.mark.parametrize("value", ["11", "10.0", "1e1", '"010"', '"T"', "-1", "0"])
def test_other_numbers_are_no_action(value):
    assert POINTS24.read(f'{{"cards": [], "formula": "", "thoughts": "", "action": {value}}}', {}) is None


spaces = st.text(" \t\r\n", max_size=3)
thoughts = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(
    ['"action": "+"', '{"action": "="}', "```", "\\", '\\"action\\": "', "思考 🂡"]
)


@pytest.mark.parametrize("name", TASKS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_spans_are_exact(name, data):
    task = load_task(name)
    action = data.draw(st.sampled_from(task.actions))
    ascii_only = data.draw(st.booleans())
    parts = {field: json.dumps("x") for field in task.truth(info_of(name))}
    parts["thoughts"] = json.dumps(data.draw(thoughts), ensure_ascii=ascii_only)
    escaped = r"\/" if action == "/" and ascii_only else action
    parts["action"] = f'"{escaped}"'
    gaps = [data.draw(spaces) for _ in range(4)]
    members = [f'{gaps[0]}"{key}"{gaps[1]}:{gaps[2]}{value}{gaps[3]}' for key, value in parts.items()]
    before, after = data.draw(st.sampled_from([("", ""), ("\n", " "), ("```json\n", "\n```\n"), (" ```", "```")]))
    text = f"{before}{{{','.join(members)}}}{after}"
    reply = task.read(text, {})
    assert reply is not None and reply.action == action
    assert text[slice(*reply.action_span)] == escaped
    assert text[reply.action_start :].startswith('"action"')
    assert text[reply.action_start :].count('"action"') == 1
    assert list(reply.fields) == list(parts) and reply.fields["thoughts"] == json.loads(parts["thoughts"])


def info_of(name: str) -> dict:
    return load_task(name, ["image=tiny"]).make().reset(seed=0)[1]


@settings(max_examples=100, deadline=None)
@given(text=st.text('{}[]":, \n`ja+-10tionu\\', max_size=60) | st.text())
def test_parsing_never_raises(text):
    NUMBERLINE.read(text, {})
