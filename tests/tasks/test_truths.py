"""When a field that was read is its true value, of every kind that JSON has."""

import json
from dataclasses import replace

import numpy as np
import own_tasks
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gtrturbo.errors import GtrTurboError
from gtrturbo.play.hints import in_words
from gtrturbo.play.reply_checks import perception
from gtrturbo.play.teachers import TEACHERS, Question, is_right
from gtrturbo.play.teaching.answers import thought_schema
from gtrturbo.play.trial import play
from gtrturbo.tasks.built_in import TASKS
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.reply import same

BUILT_IN = [*TASKS, "frozenlake", "sokoban"]


@pytest.mark.parametrize(
    ("true", "read", "others"),
    [
        (0.5, [0.5, "0.5", "0.50", " .5 ", "5e-1"], [0.7, "0.7", 0, 1, True, None, [0.5], {"a": 0.5}, "half", ""]),
        (2.0, [2.0, 2, "2", "2.0"], [2.5, "two", True, None, "1_0"]),
        (10.0, [10.0, "T"], [1_0.5, "1_0"]),
        (1.0, [1], [True, "true"]),
        ("0.5", [0.5, "0.5"], [0.7, "0.50", None, True]),
        ("5e-1", [0.5, "5E-1"], [0.7]),
        ("go", ["go", " G O"], [0.5, None, True, False, ["go"], {}, "stop"]),
        (7, [7, "7", " 7"], [7.0, 7.5, "7.0", "07", True, None, 8]),
        ("7", [7, "7"], [7.0, "7.0", None]),
        (1, [1, "1"], [True, 1.0]),
        (0, [0, "0"], [False, None, "", 0.0]),
        (True, [True], [False, 1, "true", "True", None, [], {}]),
        (False, [False], [True, 0, "false", None, 0.0, [], {}]),
        (None, [None], [0, "", "null", False, 0.5, [], {}]),
        ([0.5, True], [[0.5, True], ["0.5", True]], [[0.7, True], [0.5, False], [0.5], [0.5, True, 1], None, "0.5"]),
        ([], [[]], [None, {}, "", False]),
        ({"a": 0.5, "b": [None]}, [{"b": [None], "a": "0.5"}], [{"a": 0.5}, {"a": 1, "b": [None]}, {"a": 0.5, "b": [0]}, []]),
        ({}, [{}], [[], None, False, {"a": 1}]),
        ({1, 2}, [], [None, 0.5, [1, 2], {}, True]),
    ],
)  # fmt: skip
def test_a_field_is_compared_with_its_true_value(true, read, others):
    assert [value for value in read if not same(value, true)] == []
    assert [value for value in others if same(value, true)] == []


def as_the_games_compare(read, true) -> bool:
    """What texts, whole numbers and lists of them are equal to: the text without case and spaces, a ten also as T."""
    if isinstance(true, list):
        return isinstance(read, list) and len(read) == len(true) and all(map(as_the_games_compare, read, true))
    if isinstance(read, bool) or not isinstance(read, str | int):
        return False
    plain, wanted = ("".join(str(each).split()).upper() for each in (read, true))
    return ("10" if plain == "T" else plain) == ("10" if wanted == "T" else wanted)


@pytest.mark.parametrize("name", BUILT_IN)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_what_is_equal_in_a_built_in_game_is_what_was(name, data):
    task = load_task(name, ["image=tiny"] if name in TASKS else [])
    info = task.know(env := task.make(), *env.reset(seed=data.draw(st.integers(0, 50))))
    true = data.draw(st.sampled_from(list(task.true_values(info).values())))
    near = st.sampled_from([true, str(true), f" {true} ".lower(), [true], true[::-1] if isinstance(true, list) else f"{true}.0"])
    plain = (
        st.none() | st.booleans() | st.integers(-3, 30) | st.floats(allow_nan=False) | st.text("0123456789.TAK+ t", max_size=4)
    )
    floats = [float(each) if isinstance(each, int) else each for each in true] if isinstance(true, list) else true
    read = data.draw(near | st.just(floats) | st.recursive(plain, lambda inner: st.lists(inner, max_size=4), max_leaves=8))
    assert same(read, true) is as_the_games_compare(read, true)


def drives(true: object = 0.5, **more):
    """The corridor, where something is read off the picture."""
    expert = {"expert": lambda info: ("on", "on")}
    return replace(own_tasks.WALK, reads=("speed",), truth=lambda info: {"speed": true}, **{**expert, **more})


@pytest.mark.parametrize(
    ("true", "wrong"), [(0.5, 0.7), (True, False), (None, 1), ({"now": 0.5}, {"now": 1.5}), (np.float32(0.5), 0.7), ((1, 2), [1])]
)
def test_a_wrong_reading_is_wrong_whatever_its_kind(true, wrong):
    task = drives(true)
    text = json.dumps({"speed": wrong, "thoughts": "", "action": "on"})
    found = [task.read(each, {}) for each in (task.expert_reply({}), text)]
    assert [task.perception_correct(reply, {}) for reply in found if reply] == [True, False]


@pytest.mark.parametrize(("speed", "right"), [(0.5, True), ("0.5", True), (0.7, False)])
def test_the_scripted_corrector_is_silent_only_where_a_number_with_a_fraction_is_read_truly(speed, right):
    task, text = drives(), json.dumps({"speed": speed, "thoughts": "", "action": "on"})
    correct = task.perception_correct(task.read(text, {}), {})
    question = Question(row=0, messages=[], images=[], reply=text, action="on", info={}, perception_correct=correct, task=task)
    assert is_right(question) is right


@pytest.mark.parametrize(("action", "right"), [("on", True), ("back", False)])
def test_of_a_task_without_a_truth_the_corrector_is_silent_where_the_student_acts_as_the_expert_does(action, right):
    task, text = replace(own_tasks.WALK, reads=(), truth=None), json.dumps({"thoughts": "", "action": action})
    question = Question(row=0, messages=[], images=[], reply=text, action=action, info={}, perception_correct=None, task=task)
    assert TEACHERS["expert"].corrections([question]) == [None if right else task.expert_reply({})]


def test_a_schema_is_of_the_kinds_of_the_true_values():
    task = drives({"now": 0.5, "held": None, "open": True})
    question = Question(row=0, messages=[], images=[], reply="", action=None, info={}, perception_correct=None, task=task)
    speed = thought_schema(question)["properties"]["speed"]
    assert speed["required"] == ["now", "held", "open"] and speed["type"] == "object"
    assert [each["type"] for each in speed["properties"].values()] == ["number", "null", "boolean"]


@pytest.mark.parametrize("true", [0.5, -0.5, 0.0, True, None, "here", 3, [], [0.5], {}, {"now": True}])
def test_a_check_changes_a_field_to_another_value_of_its_kind(true):
    task = drives(true)
    found = perception(task, play(task, num_envs=1, episodes=3))
    assert found.passed and found.said == "true of the expert's replies, false where one of speed is changed."


class Whatever(float):
    """A number that is equal to every number."""

    __hash__ = float.__hash__

    def __eq__(self, other):
        return isinstance(other, int | float)


def test_a_check_fails_where_another_number_counts_as_read_truly():
    task = drives(Whatever(0.5))
    found = perception(task, play(task, num_envs=1, episodes=1))
    assert found.passed is False and found.said == "a wrong speed, 2.0, counts as read truly."


@pytest.mark.parametrize(
    ("true", "told"),
    [
        ({"speed": {1, 2}}, "the truth of walk holds speed, a set, which is no JSON."),
        ({"speed": {"now": float("nan")}}, "the truth of walk holds speed.now, which is nan."),
        (None, "the truth of walk is NoneType."),
        ({}, "the truth of walk gives no 'speed', which a reply has to read: what is said of it would count as true."),
        ({"Speed": 1}, "the truth of walk gives no 'speed', which a reply has to read: what is said of it would count as true."),
    ],
)
def test_a_truth_that_no_reply_can_have_is_refused(true, told):
    task = replace(drives(), truth=lambda info: true)
    with pytest.raises(GtrTurboError) as error:
        task.expert_reply({})
    assert error.value.what == told


def test_numbers_of_numpy_are_written_and_told_as_numbers():
    task = drives(np.array([1, 2]))
    assert task.expert_reply({}) == '{"speed": [1, 2], "thoughts": "on", "action": "on"}'
    assert in_words(["truth"], task, {}, None) == 'What the picture shows: {"speed": [1, 2]}'
