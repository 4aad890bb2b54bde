"""Panels: the same episodes everywhere, apart from those that are trained on, and named by a hash."""

import subprocess
import sys
from dataclasses import replace

import played
import pytest
from played import digest

from gtrturbo.tasks.deals import PANEL_SEEDS, held_out, panel_seeds
from gtrturbo.tasks.games.solver import solve
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.panels import panel_id

# Taken once. Another value is another panel: say so in CHANGELOG.md, results on the one before cannot be compared with it.
IDS = {
    ("numberline", "fixed"): "342559e59651ea2310d3c591a985410aebd36a3f7ee6d1625f99e962287efede",
    ("ezpoints", "fixed"): "3d3352a322d71680dda9974c4a55abbe411f73bcca0fcf33a6e01bcd0dcde2b3",
    ("blackjack", "fixed"): "13e4ad5ced1490c2225628b8750109a6346b62f2119c417f5441748d2c9ac0b3",
    ("points24", "held-out"): "53164ddf39c34d69c1d8018c459799428ffdb8b295fad627a4165afeb4fe387a",
    ("points24", "solvable"): "160d17bc5417aa0650532065f36a6387372754b204b2eef21ab09c89d6f9883b",
    ("points24", "unsolvable"): "2d3961e380215a931d006ca059403c00c074eabfe1f5fd01a562ff7e07b97f2c",
    ("frozenlake", "held-out"): "521c49b895cffaedb353203a2da49b2a8bd44665778f0cec4ddea61c88bf3935",
    ("sokoban", "held-out"): "c7e23b954a26ac0ad9a8bff55f7d6d4a193e963e971efd5ae1b9fd87bab29574",
}


def first(task, seed):
    env = task.blind()
    observation, info = env.reset(seed=seed)
    return task.know(env, observation, info)


@pytest.mark.parametrize(("name", "panel"), IDS)
def test_a_panel_is_the_one_that_it_was(name, panel):
    assert panel_id(load_task(name, ["image=tiny"]), panel) == IDS[name, panel]
    assert panel_id(load_task(name), panel) == IDS[name, panel]  # Of whatever size the pictures are.


@pytest.mark.parametrize(("name", "key"), [("frozenlake", "lake"), ("sokoban", "level")])
def test_deals_of_panels_are_none_that_are_trained_on(name, key):
    task = load_task(name)
    panel = {"".join(first(task, seed)[key]) for seed in task.panel("held-out")[:60]}
    trained = {"".join(first(task, seed)[key]) for seed in range(300)}
    assert all(map(held_out, panel)) and not any(map(held_out, trained))
    assert len(panel) > 40


def test_hands_of_points24_that_can_be_solved_and_those_that_cannot_are_panels_apart():
    task = load_task("points24", ["image=tiny"])
    assert list(task.panels) == ["held-out", "solvable", "unsolvable"]
    values = {name: [tuple(sorted(first(task, seed)["Numbers"])) for seed in task.panel(name)[:25]] for name in task.panels}
    solved = {name: [solve(hand, 24, "+-*/") is not None for hand in hands] for name, hands in values.items()}
    assert all(solved["solvable"]) and not any(solved["unsolvable"]) and len(set(solved["held-out"])) == 2
    trained = load_task("points24", ["image=tiny", "deals=train"])
    dealt = {tuple(sorted(first(trained, seed)["Numbers"])) for seed in range(200)}
    assert not dealt & {hand for hands in values.values() for hand in hands}
    assert list(load_task("points24", ["family=sums"]).panels) == ["held-out"]


def test_a_panel_depends_on_seeds_name_and_how_episodes_begin():
    task = load_task("frozenlake")
    small = replace(task, panels={"a": (1, 2), "b": (1, 2), "c": (2, 1)})
    harder = replace(load_task("frozenlake", ["ice=0.5"]), panels=small.panels)
    ids = [panel_id(small, name) for name in "abc"] + [panel_id(harder, "a")]
    assert len(set(ids)) == 4 and panel_id(small, "a") == ids[0]


def test_seeds_of_panels_are_above_those_of_episodes_and_apart():
    assert min(panel_seeds()) == PANEL_SEEDS == 2**32
    assert not set(panel_seeds(0)) & set(panel_seeds(1))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("frozenlake", ["image=tiny", "slippery=true"]),
        ("sokoban", ["image=tiny", "boxes=2"]),
        ("gym:CliffWalking-v1", ["size=56", "frames=2", "history=2", "horizon=12"]),
        ("gym:CartPole-v1", ["size=56", "horizon=12"]),
    ],
)
def test_the_same_seed_gives_the_same_turns_with_1_and_16_environments_and_in_another_process(name, options):
    one = digest(name, options, 1)
    assert digest(name, options, 16) == one
    done = subprocess.run([sys.executable, played.__file__, name, "16", *options], capture_output=True, text=True, timeout=200)
    assert done.stdout.strip() == one, done.stderr
