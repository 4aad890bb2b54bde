"""Actions that a task accepts beside those that it lists: they are read, executed, and what a teacher may answer."""

import json
import string
from dataclasses import replace

import own_tasks
import pytest

from gtrturbo.errors import GtrTurboError
from gtrturbo.play.episodes import Response, play_episodes
from gtrturbo.play.teachers import Question
from gtrturbo.play.teaching.answers import thought_schema
from gtrturbo.play.teaching.templates import filled
from gtrturbo.tasks.task import Task


def leaps(text: str, info) -> bool:
    return text.startswith("leap ") and text[5:].isdecimal()


LEAPS = replace(
    own_tasks.WALK,
    name="leaps",
    reads=(),
    truth=None,
    accepts=leaps,
    act=lambda action, info: 1 if action == "on" or leaps(action, info) else 0,
)


def said(action: object) -> str:
    return json.dumps({"thoughts": "", "action": action})


def asked(task: Task) -> Question:
    return Question(row=0, messages=[], images=[], reply="", action=None, info={}, perception_correct=None, task=task)


def test_an_accepted_action_is_read_from_a_usual_reply_and_executed():
    [episode] = play_episodes(
        lambda states: [Response(said("leap 2")) for _ in states],
        LEAPS,
        seed=0,
        episodes=range(1),
        num_envs=1,
        on_invalid_reply="noop",
    )
    assert {each.turn.executed for each in episode} == {"leap 2"} and episode[-1].turn.won


@pytest.mark.parametrize(
    ("action", "legal"), [("on", True), ("leap 2", True), ("leap", False), ("leap far", False), ("fly", False), (["on"], False)]
)
def test_what_is_neither_listed_nor_accepted_is_no_action(action, legal):
    assert (LEAPS.read(said(action), {}) is not None) is legal
    assert (replace(LEAPS, accepts=None).read(said(action), {}) is not None) is (action == "on")


def test_whole_numbers_are_accepted_as_texts():
    counts = replace(LEAPS, accepts=lambda text, info: text.isdecimal(), act=lambda action, info: 1)
    assert counts.read(said(12), {}).action == "12" and counts.read(said(1.5), {}) is None


def test_what_is_accepted_must_be_given_to_the_environment_somehow():
    with pytest.raises(GtrTurboError, match="leaps accepts actions that are not listed, and does not say") as error:
        replace(LEAPS, act=None)
    assert error.value.fix == "give it act, too."


@pytest.mark.parametrize("parse", [None, own_tasks.read_tags])
def test_a_teacher_is_not_held_to_the_actions_that_are_listed(parse):
    task, template = replace(LEAPS, parse=parse), string.Template("$actions")
    assert filled(template, asked(task)) == '"back", "on", or another of the form that was asked for'
    assert filled(template, asked(replace(task, accepts=None))) == '"back", "on"'
    if parse is None:
        assert thought_schema(asked(task))["properties"]["action"] == {"type": "string"}
        assert thought_schema(asked(replace(task, accepts=None)))["properties"]["action"]["enum"] == ["back", "on"]
