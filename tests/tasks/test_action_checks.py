"""What an environment is given for an action is what its action space holds; check-task compares the two."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest

from gtrturbo.errors import GtrTurboError
from gtrturbo.play.action_checks import actions
from gtrturbo.play.trial import Check, check, play
from gtrturbo.runs.check_task import checks
from gtrturbo.tasks import Task, ask
from gtrturbo.tasks.loading import load_task

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
BOX = gym.spaces.Box(-1, 1, (2,), np.float32)


class Takes(gym.Env):
    """Takes whatever it is given, whatever it says that it takes; ends after three steps."""

    observation_space = gym.spaces.Discrete(10)

    def __init__(self, space):
        if space is not None:
            self.action_space = space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return 0, {"count": 0}

    def step(self, action):
        self.count += 1
        return self.count, 1.0, self.count == 3, False, {"count": self.count}


def takes(space, **more) -> Task:
    shown = {"prompt": lambda view: ask("?"), "actions": ("a", "b", "c"), "max_turns": 5}
    return Task(name="takes", make=lambda: Takes(space), **shown | more)


@pytest.mark.parametrize(
    "space", [gym.spaces.Discrete(3, start=1), gym.spaces.Discrete(3, start=-1), BOX, gym.spaces.MultiDiscrete([3, 3])], ids=str
)
def test_places_among_the_actions_are_given_to_none_but_those_that_count_from_0(space):
    with pytest.raises(GtrTurboError, match=r"takes has the action space .*, which does not count actions from 0") as error:
        play(takes(space), num_envs=1, episodes=1)
    assert "act=" in error.value.fix
    assert [each.name for each in checks(takes(space))[0] if each.passed is False] == ["environment"]


@pytest.mark.parametrize(
    ("space", "act"),
    [
        (gym.spaces.Discrete(3), None),
        (gym.spaces.Discrete(3, start=1), lambda action, info: 1 + "abc".index(action)),
        (gym.spaces.Discrete(3), lambda action, info: np.int64("abc".index(action))),
        (BOX, lambda action, info: np.array([0.5, -1.0])),  # Numbers of twice the width.
        (BOX, lambda action, info: [0, 1]),
        (gym.spaces.Text(9), lambda action, info: f"go {action}!"),
        (gym.spaces.Dict(move=BOX, jump=gym.spaces.Discrete(2)), lambda action, info: {"move": [0.0, 0.5], "jump": 1}),
        (gym.spaces.Tuple([BOX, gym.spaces.Discrete(2)]), lambda action, info: (np.zeros(2), 1)),
        (None, None),
    ],
)
def test_what_a_space_holds_passes(space, act):
    task = takes(space, act=act)
    found = actions(task, play(task, num_envs=1, episodes=3))
    # Episodes are asked about in three states, alike in each: 3 · 3 actions.
    assert found == Check("actions", True, "the environment takes each that is allowed, 9 tried.")


@pytest.mark.parametrize(
    ("space", "given"),
    [
        (gym.spaces.Discrete(3), 3),
        (gym.spaces.Discrete(3), 1.0),
        (gym.spaces.Discrete(3), "b"),
        (BOX, np.zeros(3)),
        (BOX, [0.0, 1.5]),
        (BOX, float("nan")),
        (gym.spaces.Text(9), 1),
        (gym.spaces.Dict(move=BOX), {"moves": [0.0, 0.5]}),
        (gym.spaces.Tuple([BOX, gym.spaces.Discrete(2)]), (np.zeros(2), 2)),
    ],
)
def test_what_no_space_holds_fails_and_names_the_action(space, given):
    task = takes(space, act=lambda action, info: given if action == "b" and info["count"] == 2 else space.sample())
    found = actions(task, play(task, num_envs=1, episodes=1))
    assert found.passed is False and found.said.startswith("for 'b' the environment is given ")
    assert str(space) in found.said and "act" in found.fix


def test_fewer_names_than_there_are_actions_are_told():
    task = takes(gym.spaces.Discrete(5))
    found = actions(task, play(task, num_envs=1, episodes=1))
    assert found.passed is None and "2 of the environment's 5 actions have no name" in found.said
    more = replace(task, make=lambda: Takes(gym.spaces.Discrete(2)))
    assert check("environment", lambda: next(iter(checks(more)[0]))).said == "there are 3 actions for the environment's 2."


@pytest.mark.parametrize("name", ["numberline", "blackjack", "frozenlake", "sokoban", "gym:CartPole-v1"])
def test_built_in_tasks_pass(name):
    task = load_task(name)
    assert actions(task, play(task, num_envs=1, episodes=2)).passed
