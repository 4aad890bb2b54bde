"""ALFWorld's task without its engine: what a turn pays, exact commands, prompts, pictures, panels, and what is refused."""

import importlib.util
from itertools import pairwise

import numpy as np
import pytest

from gtrturbo.analysis.summary import success_by_kind
from gtrturbo.errors import GtrTurboError
from gtrturbo.store.records import Turn
from gtrturbo.tasks.alf import house_env
from gtrturbo.tasks.alf.house_env import drawn_words, paid
from gtrturbo.tasks.alf.library import library
from gtrturbo.tasks.alf.scenes import Scene
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.view import Past, View

COMMANDS = ("go to shelf 1", "go to shelf 10", "look", "stow mug 1")


class Scripted:
    """An engine of three rooms: every command but `look` comes nearer to the end."""

    def __init__(self, *, plans=True):
        self.closed = 0

    def start(self, game):
        self.at = 0
        return self._scene("You see a shelf 1. Your task is to: put a mug away.")

    def act(self, command):
        self.at += command != "look"
        return self._scene(f"You did {command}.")

    def close(self):
        self.closed += 1

    def _scene(self, text):
        return Scene(text, COMMANDS, self.at == 2, self.at / 2, ("stow mug 1",) if self.at < 2 else ())


@pytest.fixture
def task(monkeypatch):
    """The task as it is loaded, with an engine of our own in the place of TextWorld's."""
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)
    known = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name in ("textworld", "fast_downward") or known(name))
    monkeypatch.setattr("gtrturbo.tasks.alf.alfworld.textworld_engine", Scripted)
    return lambda *options: load_task("alfworld", options)


def scene(rate, won=False):
    return Scene("", COMMANDS, won, rate, ())


def test_increments_pay_a_win_and_what_is_reached_and_idling_pays_nothing():
    rates = [0.0, 0.5, 0.5, 0.0, 0.5, 1.0]
    turns = [paid(scene(a), scene(b, b == 1), "increment") for a, b in pairwise(rates)]
    assert turns == [0.5, 0, -0.5, 0.5, 50.5]
    assert sum(turns) == 51  # 50 for the win, and the rate at the end less that at the beginning.
    levels = [paid(scene(a), scene(b, b == 1), "level") for a, b in pairwise(rates)]
    assert levels == [0.5, 0.5, 0, 0.5, 51]  # The original's: a turn that changes nothing is paid for.


def test_a_command_is_taken_whole_and_never_for_one_that_it_begins_with(task):
    found = task()
    info = {"commands": list(COMMANDS)}
    said = '{{"thoughts": "", "action": "{}"}}'.format
    for command in COMMANDS:
        assert found.read(said(command), info).action == command
    for other in ("go to shelf", "go to shelf 100", "go to shelf 1 now", "Go to shelf 1", "go to  shelf 1", ""):
        assert found.read(said(other), info) is None
    assert found.read(said("go to shelf 10"), {"commands": ["go to shelf 1"]}) is None


def test_an_action_outside_the_set_names_those_that_are_possible(task):
    env = task().make()
    env.reset(seed=0)
    with pytest.raises(GtrTurboError, match="'go to shelf 2' is not possible here") as error:
        env.step("go to shelf 2")
    assert error.value.fix == "4 commands are, such as: go to shelf 1, go to shelf 10."
    with pytest.raises(GtrTurboError, match="not possible here"):
        task().make().step("look")


def test_an_episode_ends_when_it_is_won_and_is_cut_when_turns_run_out(task):
    found = task("horizon=3")
    assert found.max_turns == 3
    env = found.make()
    env.reset(seed=0)
    assert [env.step(command)[2:4] for command in ("look", "stow mug 1")] == [(False, False), (False, False)]
    _, reward, terminated, truncated, info = env.step("stow mug 1")
    assert (reward, terminated, truncated, info["won"]) == (50.5, True, False, True)


def test_goal_history_and_todays_commands_stand_in_the_prompt(task):
    found = task("history=2")
    env = found.make()
    observation, info = env.reset(seed=0)
    assert (info["goal"], observation) == ("put a mug away", "You see a shelf 1.")
    past = [Past({}, "", action, 0, []) for action in ("look", "go to shelf 1", None)]
    text = found.ask(View(observation, info, tuple(past))).messages[0]["content"][-1]["text"]
    assert text == (
        "You are in a house. Your task is to: put a mug away. You are told: You see a shelf 1. Your actions so far: "
        'go to shelf 1, nothing. You may: "go to shelf 1", "go to shelf 10", "look", "stow mug 1". '
        'Reply with JSON only: {"thoughts": "what to do", "action": "one of what you may do"}'
    )
    assert found.expert_reply(info) == '{"thoughts": "next is stow mug 1", "action": "stow mug 1"}'
    assert found.expert(info | {"plan": []}) == ("next is go to shelf 1", "go to shelf 1")


@pytest.mark.parametrize(("look", "pictures", "told"), [("text", 0, True), ("picture", 1, False), ("both", 1, True)])
def test_what_is_told_stands_in_the_prompt_or_in_the_picture(task, look, pictures, told):
    found = task(f"look={look}", "image=tiny")
    env = found.make()
    observation, info = env.reset(seed=0)
    asked = found.ask(View(observation, info, render=env.render))
    assert len(asked.images) == pictures
    assert ("You see a shelf 1." in asked.messages[0]["content"][-1]["text"]) is told
    if pictures:
        assert np.array_equal(asked.images[0], drawn_words("You see a shelf 1.", "tiny"))


def test_words_are_drawn_whole_and_the_same_each_time():
    short, long = drawn_words("a", "full"), drawn_words("shelf 10 " * 60, "full")
    assert short.shape == (308, 308, 3) and long.shape[1:] == (308, 3) and long.shape[0] % 28 == 0 and long.shape[0] > 308
    for picture in (short, long, drawn_words("shelf 10 " * 60, "tiny")):
        assert picture[-2:].min() == 255 and picture.min() < 90  # Nothing is cut off at the bottom, and there is ink.
        assert picture[:, -2:].min() == 255
    assert not np.array_equal(drawn_words("shelf 1", "tiny"), drawn_words("shelf 10", "tiny"))
    assert np.array_equal(drawn_words("shelf 1", "tiny"), drawn_words("shelf 1", "tiny"))


def dealt(env, seeds):
    return [env.reset(seed=seed)[1]["game"] for seed in seeds]


def test_panels_play_each_game_of_their_split_once_and_training_none_of_them(task):
    found = task()
    env = found.make()
    for name in ("seen", "unseen"):
        assert dealt(env, found.panel(name)) == list(library(name, "written").names)
    trained = set(dealt(env, range(300)))
    assert trained <= set(library("train", "written").names) and len(trained) > 60
    assert dealt(env, range(20)) == dealt(found.make(), range(20))
    assert set(dealt(task("split=unseen").make(), range(50))) <= set(library("unseen", "written").names)


def test_types_are_dealt_alone_and_panels_hold_no_others(task):
    found = task("types=pick_heat_then_place_in_recep,look_at_obj_in_light")
    games = dealt(found.make(), [*range(30), *found.panel("seen")])
    assert {name.split("/")[1] for name in games} == {"pick_heat_then_place_in_recep", "look_at_obj_in_light"}
    assert len(found.panel("seen")) == 8


def test_closing_an_environment_closes_its_engine(task):
    env = task().make()
    env.reset(seed=0)
    env.close()
    assert env.engine.closed == 1 and env.scene is None


def test_without_the_package_the_line_that_installs_it_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(GtrTurboError, match="alfworld needs the package textworld, which is not installed") as error:
        load_task("alfworld")
    assert error.value.fix == "run: pip install 'gtrturbo[alfworld]'"
    with pytest.raises(GtrTurboError, match="alfworld needs the package alfworld") as error:
        load_task("alfworld", ["engine=thor"])
    assert error.value.fix == "see the documentation: alfworld-thor"


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("split=valid", "split must be train or seen or unseen, got 'valid'"),
        ("horizon=0", "horizon must be a whole number from 1 to 1000"),
        ("types=pick", "'pick' is no task type"),
        ("look=video", "look must be text or picture or both"),
        ("games=mine", "games must be auto or written or data"),
    ],
)
def test_what_an_option_cannot_be_is_refused(task, option, said):
    with pytest.raises(GtrTurboError, match=said):
        task(option)


def test_success_is_told_for_each_kind_of_episode():
    def turn(episode, number, kind, won):
        return Turn(
            episode=episode, turn=number, seed=0, messages=[], images=[], action=None, executed=None, legal=False,
            perception_correct=None, reward=0.0, reward_terms={}, terminated=won, truncated=not won, won=won, info={"type": kind},
        )  # fmt: skip

    turns = [turn(0, 0, "heat", False), turn(0, 1, "heat", True), turn(1, 0, "heat", False), turn(2, 0, "cool", True)]
    assert success_by_kind(turns, lambda info: info["type"]) == {
        "success_rate_heat": 0.5,
        "success_rate_cool": 1.0,
        "episodes_heat": 2,
        "episodes_cool": 1,
    }
    assert success_by_kind(turns, None) == {}


def test_sizes_of_pictures_are_whole_cells():
    assert all(side % house_env.CELL == 0 for side in house_env.SIDES.values())
