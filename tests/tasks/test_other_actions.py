"""Another action in the place of a reply's own is written so that the task reads it, whatever its letters."""

import json
from dataclasses import replace

import own_tasks
import pytest

from gtrturbo.play.reply_checks import spans
from gtrturbo.play.teaching.taught import corrected, heard, keep_action, usefulness
from gtrturbo.play.trial import play
from gtrturbo.store.records import Turn, chat
from gtrturbo.tasks.reply import Reply, read_reply
from gtrturbo.tasks.wording import reply_with

ODD = ('say "hi"', "back\\slash", "two\nlines", "ein Fuß 👣", "7", "on")
INFO = {"place": 1, "won": False}


def parse_json(text: str, info) -> Reply | None:
    """A parser of one's own that reads JSON, numbers too."""
    return read_reply(text, required=("thoughts",), actions=ODD)


USUAL = replace(own_tasks.WALK, actions=ODD, expert=lambda info: ("go", "on"), act=lambda action, info: 1)
OWN_JSON = replace(
    USUAL, parse=parse_json, reads=(), truth=None, expert=lambda info: '{"thoughts": "go", "action": "on"}', random_expert=None
)
MARKED = replace(
    OWN_JSON,
    parse=lambda text, info: Reply({}, text[4:], 3, (4, len(text))) if text.startswith("go: ") and text[4:] in ODD else None,
    expert=lambda info: "go: on",
)


def turn(task, action: str) -> Turn:
    said = reply_with(task, INFO, action)
    ends = {"terminated": False, "truncated": True, "won": False}
    return Turn(0, 0, 0, chat("?", said), ["a.png"], action, action, True, True, 0.0, {"environment": 0.0}, **ends, info=INFO)


def teachers(task):
    """Yield replies of a teacher: the expert's, and in JSON one that chose a number and wrote it without quotes."""
    yield task.expert_reply(INFO)
    if task is not MARKED:
        yield '{"place": 1, "thoughts": "so", "action": 7}'


@pytest.mark.parametrize("action", ODD)
@pytest.mark.parametrize("task", [USUAL, OWN_JSON, MARKED], ids=["usual", "own json", "marked"])
def test_a_demo_with_the_students_action_is_read_by_its_own_task(task, action):
    for text in teachers(task):
        taught = heard(task, turn(task, action), text, "teacher")
        assert taught.reply is not None
        demo = keep_action(task, taught.turn, text, taught.reply, [], "teacher")
        whole = demo.messages[-1]["content"][0]["text"]
        read, [(start, end)] = task.read(whole, INFO), demo.masked_spans
        assert read is not None and read.action == action and corrected(task, taught)[0] == whole
        quoted = json.dumps(action, ensure_ascii=False)
        assert whole[start:end] in (action, quoted, quoted[1:-1])
        # What stands before the action and behind it is the teacher's.
        assert text.startswith(whole[:start]) and text.endswith(whole[end:])


@pytest.mark.parametrize("task", [USUAL, OWN_JSON, MARKED], ids=["usual", "own json", "marked"])
def test_the_parser_is_tried_on_every_action_as_it_is_written(task):
    found = spans(task, play(task, num_envs=1, episodes=3))
    assert found.passed, found.said
    assert all(task.read(reply_with(task, INFO, action), INFO).action == action for action in ODD)


def test_a_reply_that_cannot_be_read_with_the_students_action_is_none_that_can_be_used():
    first = lambda text, info: MARKED.parse(text, info) if text == "go: on" else None  # noqa: E731
    task = replace(MARKED, parse=first)
    taught = heard(task, turn(MARKED, "7"), "go: on", "teacher")
    assert taught.reply is None and usefulness(task, [taught]) == {"turns": 1, "demos": 0, "unparsed": 1, "usable_share": 0.0}
    assert heard(task, turn(MARKED, "7"), None, "teacher").reply is None
    assert heard(task, turn(MARKED, "on"), "go: on", "teacher").reply is not None
