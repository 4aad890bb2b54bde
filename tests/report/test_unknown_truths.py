"""Of a turn whose task knows no truth nobody says that its thought is unreadable."""

from gtrturbo.report.episodes import _facts
from gtrturbo.store.records import Turn, chat


def turn(*, legal: bool, correct: bool | None) -> Turn:
    action = "on" if legal else None
    messages = chat("back or on?", "on")
    ends = {"terminated": False, "truncated": True, "won": False}
    return Turn(0, 0, 0, messages, ["a.png"], action, action, legal, correct, 0.0, {"environment": 0.0}, **ends, info={})


def told(each: Turn) -> str:
    return list(_facts(each, 0, None, None))[-1]


def test_a_thought_is_unreadable_only_where_its_reply_is():
    assert told(turn(legal=True, correct=None)) == "thought unknown: the task knows no truth; executed on"
    assert told(turn(legal=False, correct=None)).startswith("thought unreadable; nothing executed")
    assert told(turn(legal=True, correct=True)) == "thought true; executed on"
    assert told(turn(legal=True, correct=False)) == "thought not true; executed on"
