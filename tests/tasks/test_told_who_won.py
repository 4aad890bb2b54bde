"""What an info says of who won is true or false, and a return alone wins only where the environment's rules ended the episode."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from odd_environments import Plain

from gtrturbo.errors import GtrTurboError
from gtrturbo.play.environment_checks import success
from gtrturbo.play.episodes import Response, play_episodes
from gtrturbo.play.trial import play
from gtrturbo.tasks.chance import chance
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.task import Task
from gtrturbo.tasks.view import Ending, WonByReturn, ask, won_by_info

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
ODD = [-1, 2, 0.3, "no", "True", "", None, [], [True, False], [[1], [1, 2]], {"won": True}]


@pytest.mark.parametrize("name", ["won", "is_success", "success"])
def test_an_info_says_true_or_false(name):
    told = lambda value: won_by_info(Ending({name: value}, 0.0, True))  # noqa: E731
    assert all(told(value) is True for value in (True, 1, 1.0, [True], np.True_, np.float32(1), np.array([1])))
    assert all(told(value) is False for value in (False, 0, 0.0, [0], np.False_, np.int64(0), np.array(False)))


@pytest.mark.parametrize("value", ODD, ids=repr)
@pytest.mark.parametrize("won", [won_by_info, WonByReturn(5.0, "reward_threshold", info_first=True)])
def test_what_is_neither_true_nor_false_is_refused(value, won):
    with pytest.raises(GtrTurboError) as error:
        won(Ending({"success": value}, 9.0, True, "lake"))
    assert error.value.what == f"success in an info of lake is {value!r}, which is neither true nor false."
    assert error.value.fix == "say what wins: --env win_return=RETURN of gym:ID, `won` of a task of your own."


def test_what_was_asked_for_is_not_told_by_an_info():
    assert WonByReturn(5.0, "win_return")(Ending({"success": 0.3}, 9.0, True))


class ShareReached(Plain):
    """Says how much of the way was made."""

    def told(self):
        return {"success": self.count / 4}


class PaysOn(Plain):
    """Pays 1 a turn and never ends."""

    steps = 10**6

    def pays(self, action):
        return 1.0


gym.register("told/ShareReached-v0", ShareReached, max_episode_steps=5)
gym.register("told/PaysOn-v0", PaysOn, max_episode_steps=5)


def played(task: Task):
    asked = {"seed": 0, "episodes": range(1), "num_envs": 1, "on_invalid_reply": "random"}
    return next(play_episodes(lambda states: [Response("") for _ in states], task, **asked))


@pytest.mark.parametrize("way", [played, lambda task: chance(task, episodes=1, seed=0)])
def test_an_environment_that_tells_a_share_is_named_with_what_mends_it(way):
    told = "success in an info of gym:told/ShareReached-v0 is 0[.].*5, which is neither true nor false"
    with pytest.raises(GtrTurboError, match=told):
        way(load_task("gym:told/ShareReached-v0"))
    assert way(load_task("gym:told/ShareReached-v0", ["win_return=2"]))


def test_a_check_tells_of_cut_episodes_whose_return_would_have_won():
    task = load_task("gym:told/PaysOn-v0")
    assert not played(task)[-1].turn.won
    said = success(task, play(task, num_envs=1, episodes=3)).said
    assert (
        "An episode is won from a return above 0, once its environment ends it: 3 of the 3 that were cut had such a return"
        in said
    )
    assert said.endswith("and count as lost; to let them win: --env win_return=RETURN of gym:ID, `won` of a task of your own.")
    task = load_task("gym:told/PaysOn-v0", ["win_return=5"])
    assert played(task)[-1].turn.won
    assert "count as lost" not in success(task, play(task, num_envs=1, episodes=3)).said


def test_chance_says_of_a_task_of_ones_own_that_it_tells_no_winner():
    odd = replace(load_task("gym:told/PaysOn-v0"), won=lambda end: "no")
    with pytest.raises(GtrTurboError, match="whether gym:told/PaysOn-v0 is won is said by 'no'"):
        chance(odd, episodes=1, seed=0)


class Costs(Plain):
    """Says at the end alone who won, which is not what the return says."""

    said: object = True

    def pays(self, action):
        return -1.0 if np.all(self.said) else 1.0

    def told(self):
        return {"success": self.said} if self.count == self.steps else {}


def silent(said: object, **more) -> Task:
    """A task whose `known` leaves out what the info says."""
    make = type("Said", (Costs,), {"said": said})
    shown = {"prompt": lambda view: ask("?", view.picture), "actions": ("0", "1"), "max_turns": 5}
    return Task(name="silent", make=make, **shown | {"known": lambda env, observation, info: {"seen": observation}} | more)


@pytest.mark.parametrize("won", [won_by_info, lambda end: won_by_info(end), WonByReturn(5.0, "x", info_first=True)])
@pytest.mark.parametrize("said", [True, False, 1, np.True_, np.array([0])], ids=repr)
def test_an_info_says_who_won_where_known_leaves_it_out(said, won):
    task = silent(said, won=won)
    assert [played(task)[-1].turn.won, chance(task, episodes=1, seed=0)["random"] == 1] == [bool(said)] * 2


def test_what_an_info_says_is_recorded_where_known_leaves_it_out():
    told = silent(True, known=lambda env, observation, info: {}).know
    assert told(None, 0, {"is_success": np.False_, "more": 1}) == {"is_success": False}
    assert told(None, 0, {}) == {}
    says = silent(True, known=lambda env, observation, info: {"won": False}).know
    assert says(None, 0, {"success": True}) == {"won": False}


@pytest.mark.parametrize(
    ("said", "told"), [(float("nan"), "'nan'"), (0.3, "0.3"), (np.zeros(2), r"'float64 \[2\]'"), ({1}, "'set'")]
)
@pytest.mark.parametrize("way", [played, lambda task: chance(task, episodes=1, seed=0)])
def test_an_info_that_says_neither_is_refused_where_known_leaves_it_out(said, told, way):
    with pytest.raises(GtrTurboError, match=f"success in an info of silent is {told}, which is neither true nor false"):
        way(silent(said))
    assert way(silent(said, won=lambda end: abs(end.total) == 3))


def test_a_number_that_is_none_is_refused_of_an_environment_by_its_id():
    gym.register("told/Nan-v0", type("Nan", (Costs,), {"said": float("nan")}), max_episode_steps=5)
    with pytest.raises(GtrTurboError, match="which is neither true nor false"):
        played(load_task("gym:told/Nan-v0"))
