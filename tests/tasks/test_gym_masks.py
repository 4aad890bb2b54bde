"""gym:ID: which actions a mask allows, how long an episode may be, and how an environment is made where nobody looks at it."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from odd_environments import Plain

from gtrturbo.errors import GtrTurboError
from gtrturbo.play.environment_checks import endings
from gtrturbo.play.trial import play
from gtrturbo.tasks.chance import chance, turn_limit
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.panels import panel_id

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Flags(Plain):
    """Four actions; masked as it is told to, after so many steps."""

    actions, after = 4, 0
    mask: object = (1, 0, 0, 1)

    def told(self):
        return {"action_mask": self.mask} if self.count >= self.after else {}


class Observing(Plain):
    """Has its mask in the dict that it observes, as is usual for games of several players."""

    actions = 3

    def observed(self):
        return {"hand": "a king", "action_mask": np.array([0, 1, 1], np.int8)}


class Drawing(Plain):
    """Cannot be made without pictures."""

    def __init__(self, render_mode=None):
        if render_mode != "rgb_array":
            raise ValueError("render_mode must be rgb_array")
        super().__init__(render_mode=render_mode)


for each in (Flags, Observing, Drawing):
    gym.register(f"masks/{each.__name__}-v0", each, max_episode_steps=20)
gym.register("masks/Vector-v0", vector_entry_point=Plain)


@pytest.mark.parametrize("mask", [[0, 3], [1, 0, 1], [1, 0, 1, 2], "1001", 3, [True] * 5, [0.5, 0, 0, 1], {0, 3}])
def test_a_mask_that_is_no_flag_for_each_action_is_refused(mask, monkeypatch):
    monkeypatch.setattr(Flags, "mask", mask)
    with pytest.raises(GtrTurboError, match="action_mask of gym:masks/Flags-v0 is ") as error:
        play(load_task("gym:masks/Flags-v0"), num_envs=1, episodes=1)
    assert error.value.fix.startswith("let it be 4 flags")


@pytest.mark.parametrize("mask", [[1, 0, 0, 1], np.array([[1, 0], [0, 1]]), (True, False, False, True), [1.0, 0.0, 0.0, 1.0]])
@pytest.mark.parametrize("after", [0, 1])
def test_a_mask_counts_from_where_it_is_told(mask, after, monkeypatch):
    monkeypatch.setattr(Flags, "mask", mask)
    monkeypatch.setattr(Flags, "after", after)
    task = load_task("gym:masks/Flags-v0")
    [episode] = play(task, num_envs=1, episodes=1)
    everything = ("0", "1", "2", "3")
    assert [task.allowed(turn.state.info) for turn in episode] == [everything] * after + [("0", "3")] * (3 - after)


def test_a_mask_of_none_allows_everything(monkeypatch):
    monkeypatch.setattr(Flags, "mask", None)
    task = load_task("gym:masks/Flags-v0")
    [episode] = play(task, num_envs=1, episodes=1)
    assert len(task.allowed(episode[0].state.info)) == 4


def test_a_mask_that_is_observed_counts_and_is_not_put_into_words():
    task = load_task("gym:masks/Observing-v0")
    [episode] = play(task, num_envs=1, episodes=1)
    assert task.allowed(episode[0].state.info) == ("1", "2")
    text = episode[0].state.messages[0]["content"][-1]["text"]
    assert "You observe: hand: a king. Reply" in text and '"action": "1 or 2"' in text


def test_an_environment_that_insists_on_pictures_is_played_by_chance_with_them():
    task = load_task("gym:masks/Drawing-v0")
    assert chance(task, episodes=2, seed=0) is not None and len(panel_id(task, "fixed")) == 64


def test_an_environment_of_many_at_once_alone_is_refused():
    with pytest.raises(GtrTurboError, match="gym:masks/Vector-v0 is made as a vector of many alone"):
        load_task("gym:masks/Vector-v0")


def test_no_more_turns_are_asked_for_than_an_environment_goes_on_for(tmp_path):
    with pytest.raises(GtrTurboError, match="horizon is 1000, and gym:CartPole-v1 cuts its episodes after 500 turns itself"):
        load_task("gym:CartPole-v1", ["horizon=1000"])
    (tmp_path / "long.yaml").write_text("horizon: 1000\nmake: {max_episode_steps: 1000}\n")
    task = load_task("gym:CartPole-v1", [f"file={tmp_path / 'long.yaml'}"])
    assert turn_limit(task, task.open()) == 1000


def test_the_limit_that_is_told_is_the_one_that_cuts():
    task = replace(load_task("gym:masks/Flags-v0"), max_turns=1000)
    assert turn_limit(task, task.open()) == 20
    assert "the limit is 20 turns" in endings(task, play(task, num_envs=1, episodes=3)).said


@pytest.mark.parametrize(
    ("text", "told", "fix"),
    [
        ('prompt: "\\ud800"', "prompt in .* must be text of UTF-8", ""),
        ('actions: ["\\ud800", b]', "actions in .* must be text of UTF-8", ""),
        ("make:", "make in .* is empty", "by name, or leave make out"),
        ("actions:", "actions in .* are empty", "give a list"),
        ("actions: [1.5, 2]", "actions in .* hold 1.5, which is no text", "quote it, or leave it out"),
        ("actions: [yes, no]", "actions in .* hold True, which is no text", "YAML reads no"),
    ],
)
def test_a_setting_that_cannot_be_written_down_is_refused_with_what_mends_it(tmp_path, text, told, fix):
    (tmp_path / "odd.yaml").write_text(text)
    with pytest.raises(GtrTurboError, match=told) as error:
        load_task("gym:masks/Observing-v0", [f"file={tmp_path / 'odd.yaml'}"])
    assert fix in error.value.fix


@pytest.mark.parametrize(
    ("name", "told", "fix"),
    [
        ("gym:mods/odd.py:Cost-v0", "gym: takes a module, and mods/odd.py is a file", "mods and write: gym:odd:Cost-v0"),
        ("gym:ALE/Pong-v5", "no environment 'ALE/Pong-v5'", "gym:ale_py:ALE/Pong-v5."),
        ("gym:Pk-v0", "no environment 'Pk-v0'", "of your own makes known is gym:MODULE:Pk-v0."),
    ],
)
def test_where_an_environment_may_come_from_is_said_where_there_is_none(name, told, fix):
    with pytest.raises(GtrTurboError, match=told) as error:
        load_task(name)
    assert error.value.fix.endswith(fix)
