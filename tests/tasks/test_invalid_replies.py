"""What a reply costs that cannot be read, against what turns of each task pay."""

from dataclasses import replace

import numpy as np
import pytest

from gtrturbo.config.games import FAMILIES, TURN_REWARDS, WORLDS, invalid_reply_cost
from gtrturbo.play.environment_checks import rewards
from gtrturbo.play.trial import play
from gtrturbo.plugins import NOT_MODULES, is_outside
from gtrturbo.tasks.built_in import GAMES
from gtrturbo.tasks.loading import load_task


@pytest.mark.parametrize("name", [*GAMES, *WORLDS])
def test_turns_pay_no_less_and_no_more_than_is_said(name):
    task, rng, paid = load_task(name, ["image=tiny"]), np.random.default_rng(0), set()
    env = task.blind()
    for seed in range(120):
        observation, info = env.reset(seed=seed)
        for _ in range(task.max_turns):
            known = task.know(env, observation, info)
            allowed = task.allowed(known)
            reply = task.read(task.expert_reply(known), known)
            action = reply.action if seed % 2 else allowed[rng.integers(len(allowed))]
            observation, reward, ended, cut, info = env.step(task.given(action, known))
            paid.add(reward)
            if ended or cut:
                break
    lowest, highest = TURN_REWARDS[name]
    assert min(paid) >= lowest and max(paid) <= highest
    assert (min(paid), max(paid)) == (lowest, highest) or name == "sokoban"  # Where to lose a box that was home is rare.


def test_an_invalid_reply_costs_the_width_of_what_turns_pay_and_1_where_that_is_not_known():
    costs = {name: invalid_reply_cost(name) for name in ("numberline", "gtrturbo/EZPoints-v0", "blackjack", "points24")}
    assert list(costs.values()) == [2, 11, 2, 11]
    assert [invalid_reply_cost(name) for name in ("frozenlake", "sokoban", "minigrid:MiniGrid-Empty-5x5-v0")] == [1, 3, 1]
    assert invalid_reply_cost("MiniGrid:MiniGrid-Dynamic-Obstacles-Random-6x6-v0") == 2  # It pays -1 to run into one.
    assert [invalid_reply_cost(name) for name in ("gym:CartPole-v1", "mine.py:TASK")] == [1, 1]


def test_names_before_a_colon_that_are_tasks_are_no_modules():
    assert set(FAMILIES) <= set(NOT_MODULES)
    assert not any(is_outside(name) for name in ("gym:Any", "GYM:module:Any", "minigrid:Any"))
    assert is_outside("gymnasium:make")


def test_a_check_says_of_a_task_that_is_known_too_where_its_turns_pay_more_than_is_known():
    task = replace(load_task("numberline", ["image=tiny"]), name="minigrid:MiniGrid-Of-Mine-v0")
    episodes = play(task, num_envs=1, episodes=6)
    assert "A turn pays -1 to 1, and an invalid reply costs 1, less than a wrong move may" in rewards(task, episodes).said
    assert "invalid" not in rewards(replace(task, name="numberline"), episodes).said
