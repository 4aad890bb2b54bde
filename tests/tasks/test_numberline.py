"""NumberLine event by event."""

from collections import Counter

import numpy as np
import pytest

from gtrturbo.errors import GtrTurboError
from gtrturbo.tasks.games.numberline import NumberLineEnv

DOWN, UP = 0, 1


def started(start: int, goal: int, **options) -> NumberLineEnv:
    env = NumberLineEnv(image="tiny", **options)
    env.reset(seed=0, options={"start": start, "goal": goal})
    return env


def test_a_step_nearer_costs_nothing():
    _, reward, terminated, truncated, info = started(1, 4).step(UP)
    assert (reward, terminated, truncated) == (0, False, False)
    assert info == {"Target": 4, "Current": 2, "won": False}


def test_reaching_the_target_pays_one_and_ends():
    _, reward, terminated, truncated, info = started(3, 4).step(UP)
    assert (reward, terminated, truncated, info["won"]) == (1, True, False, True)


def test_the_wrong_way_costs_one_and_goes_on():
    _, reward, terminated, truncated, info = started(3, 4).step(DOWN)
    assert (reward, terminated, truncated, info["Current"]) == (-1, False, False, 2)


@pytest.mark.parametrize(("start", "goal", "action"), [(0, 3, DOWN), (5, 3, UP)])
def test_a_bump_into_a_wall_costs_one_and_moves_nothing(start, goal, action):
    _, reward, terminated, _, info = started(start, goal).step(action)
    assert (reward, terminated, info["Current"]) == (-1, False, start)


def test_the_tenth_move_truncates():
    env = started(0, 5)
    ends = [env.step(DOWN)[2:4] for _ in range(10)]
    assert ends == [(False, False)] * 9 + [(False, True)]


def test_a_target_reached_on_the_last_move_is_a_win_and_no_truncation():
    env = started(0, 2, horizon=2)
    env.step(UP)
    assert env.step(UP)[1:4] == (1.0, True, False)


def test_targets_are_drawn_with_the_originals_quirk():
    # P(goal = g) = 1/6 + P(start = goal = g - 1 mod 5) - P(start = goal = g); 36 equally likely pairs:
    # goal 5 keeps 5 of 6 pairs; goal 1 gets those of (0,0) and (5,5); the others lose one and get one.
    env = NumberLineEnv(image="tiny")
    env.reset(seed=0)
    draws = 6000
    goals = Counter(env.reset()[1]["Target"] for _ in range(draws))
    expected = {0: 6 / 36, 1: 7 / 36, 2: 6 / 36, 3: 6 / 36, 4: 6 / 36, 5: 5 / 36}
    for goal, share in expected.items():
        assert abs(goals[goal] / draws - share) < 4 * (share * (1 - share) / draws) ** 0.5


def test_start_never_equals_target():
    env = NumberLineEnv(image="tiny", line=2)
    env.reset(seed=1)
    infos = [env.reset()[1] for _ in range(300)]
    assert all(info["Target"] != info["Current"] for info in infos)


def test_a_longer_line_uses_all_of_itself():
    env = NumberLineEnv(image="tiny", line=12)
    env.reset(seed=0)
    assert {env.reset()[1]["Current"] for _ in range(500)} == set(range(13))


@pytest.mark.parametrize(
    "options", [{"start": 1}, {"start": 1, "goal": 9}, {"start": 2, "goal": 2}, {"cards": []}, {"start": "1", "goal": 2}]
)
def test_bad_reset_options_are_named(options):
    with pytest.raises(GtrTurboError):
        NumberLineEnv().reset(options=options)


@pytest.mark.parametrize("action", [-1, 2, 1.0, "+"])
def test_what_is_no_action_is_refused(action):
    with pytest.raises(GtrTurboError, match="is not an action"):
        started(1, 4).step(action)


def test_numpy_actions_count():
    assert started(1, 4).step(np.int64(1))[4]["Current"] == 2
