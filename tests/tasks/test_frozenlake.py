"""FrozenLake: lakes by seed, a planner that is right, and what the picture tells."""

import json
from collections import deque

import numpy as np
import pytest

from gtrturbo.errors import GtrTurboError
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.view import View
from gtrturbo.tasks.worlds.moves import MOVES


def start(task, env, seed):
    observation, info = env.reset(seed=seed)
    return task.know(env, observation, info)


def shortest(lake):
    """Count the moves of a shortest way from the upper left corner to the flag, by hand."""
    waiting, seen = deque([(0, 0, 0)]), {(0, 0)}
    while waiting:
        row, column, moves = waiting.popleft()
        if lake[row][column] == "G":
            return moves
        for down, right in MOVES.values():
            place = row + down, column + right
            if place not in seen and min(place) >= 0 and max(place) < len(lake) and lake[place[0]][place[1]] != "H":
                seen.add(place)
                waiting.append((*place, moves + 1))
    raise AssertionError("no way")


def played(task, env, seed):
    """Let the expert play; return the turns and the return."""
    known, total = start(task, env, seed), 0.0
    for turn in range(1, task.max_turns + 1):
        reply = task.read(task.expert_reply(known), known)
        assert reply is not None and task.perception_correct(reply, known)
        observation, reward, ended, _, info = env.step(task.given(reply.action, known))
        known, total = task.know(env, observation, info), total + reward
        if ended:
            return turn, total
    return task.max_turns, total


@pytest.mark.parametrize("options", [[], ["size=7"], ["lake=4x4"], ["lake=8x8"]])
def test_the_expert_takes_a_shortest_way_on_every_lake(options):
    task = load_task("frozenlake", options)
    env = task.blind()
    for seed in range(25):
        lake = start(task, env, seed)["lake"]
        assert played(task, env, seed) == (shortest(lake), 1.0)


def test_on_slippery_ice_the_expert_does_about_as_well_as_can_be():
    # On Gymnasium's 4 x 4 lake the best policy reaches the flag in 82 % of episodes, in 74 % of those cut after 100 moves.
    task = load_task("frozenlake", ["lake=4x4", "slippery=true"])
    env = task.blind()
    won = [played(task, env, seed)[1] for seed in range(300)]
    assert abs(np.mean(won) - 0.74) < 0.08
    assert task.max_turns == 100


def test_a_seed_decides_the_lake_and_where_one_slips():
    task = load_task("frozenlake", ["slippery=true"])
    ends = []
    for _ in range(2):
        env = task.blind()
        known = start(task, env, 5)
        ends.append((known, [env.step(1)[0] for _ in range(3)]))
    assert ends[0] == ends[1]
    assert len({tuple(start(task, env, seed)["lake"]) for seed in range(20)}) > 15


def test_the_picture_is_gymnasiums_and_tiny_has_a_cell_of_28_pixels_each():
    from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv

    task = load_task("frozenlake", ["lake=4x4"])
    env = task.make()
    env.reset(seed=0)
    own = FrozenLakeEnv(map_name="4x4", render_mode="rgb_array")
    own.reset(seed=0)
    assert np.array_equal(env.render(), own.render())
    for size in (4, 6):
        small = load_task("frozenlake", ["image=tiny", f"size={size}"])
        from gtrturbo.tasks.view import View

        env = small.make()
        known = start(small, env, 0)
        assert small.ask(View(0, known, render=env.render)).images[0].shape == (28 * size, 28 * size, 3)


def test_a_lake_drawn_with_the_tiles_of_the_one_before_looks_as_one_of_its_own():
    task = load_task("frozenlake")
    env, fresh = task.make(), task.make()
    for seed in (1, 2):
        env.reset(seed=seed)
        env.render()
    fresh.reset(seed=2)
    assert np.array_equal(env.render(), fresh.render())


def test_what_lies_around_is_told_in_the_order_of_the_moves():
    task = load_task("frozenlake")
    info = {"row": 0, "column": 1, "lake": ["SFG", "FHF", "FFF"]}
    assert task.truth(info) == {"row": 0, "column": 1, "around": ["ice", "hole", "flag", "edge"]}
    assert json.loads(task.expert_reply(info))["action"] == "right"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("size=1", "size must be a whole number from 2 to 16"),
        ("lake=4x4 size=8", "lake=4x4 has a size of its own"),
        ("ice=0.05 size=8", "of 1000 lakes of 8 by 8 with ice=0.05 none can be crossed"),
        ("ice=0", r"ice must be in \(0, 1\]"),
        ("lake=5x5", "random or 4x4"),
    ],
)
def test_options_out_of_range_are_refused(option, message):
    with pytest.raises(GtrTurboError, match=message):
        load_task("frozenlake", option.split())


@pytest.mark.parametrize(
    ("options", "panel"),
    [
        ([], "held-out"),
        (["ice=1"], "fixed"),
        (["ice=0.999"], "fixed"),  # Of 100 lakes one has a hole.
        (["ice=0.9999"], "fixed"),
        (["size=2"], "fixed"),  # There are 3.
        (["lake=8x8"], "fixed"),
    ],
)
def test_a_panel_is_held_out_where_there_are_lakes_that_only_it_has(options, panel):
    task = load_task("frozenlake", options)
    [name] = task.panels
    env = task.blind()

    def lakes(seeds):
        return {"".join(task.know(env, *env.reset(seed=seed))["lake"]) for seed in seeds}

    apart = not lakes(task.panel(name)[:60]) & lakes(range(200))
    assert apart is (name == "held-out") and name == panel


def test_without_pygame_the_line_that_installs_it_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(GtrTurboError, match="pygame, which is not installed") as error:
        load_task("frozenlake")
    assert error.value.fix == "run: pip install 'gymnasium[toy-text]'"


@pytest.mark.parametrize(("look", "pictures"), [("picture", 1), ("text", 0), ("both", 1)])
def test_a_lake_is_shown_as_a_picture_as_lines_or_both(look, pictures):
    task = load_task("frozenlake", [f"look={look}", "lake=4x4"])
    env = task.make()
    info = start(task, env, seed=0)
    observation, *_, info = env.step(1)
    prompt = task.prompt(View(observation, task.know(env, observation, info), (), env.render))
    text = prompt.messages[0]["content"][-1]["text"]
    # Gymnasium's own map, with the player one down.
    assert len(prompt.images) == pictures and text.endswith("\nSFFF\n@HFH\nFFFH\nHFFG") == (look != "picture")
    assert ("image" in text) == (look != "text")
    env.close()
