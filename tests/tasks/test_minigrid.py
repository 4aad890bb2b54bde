"""MiniGrid: the package's environments untouched, a planner that wins, and what the picture tells."""

import importlib.util

import gymnasium as gym
import pytest

from gtrturbo.errors import GtrTurboError
from gtrturbo.tasks.deals import held_out
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.view import View
from gtrturbo.tasks.worlds.grids import goal_of, has_plan, lines_of, planned

needs_minigrid = pytest.mark.skipif(importlib.util.find_spec("minigrid") is None, reason="the package minigrid is not installed")
EMPTY, WALL, GOAL = [1, 0, 0], [2, 5, 0], [8, 1, 0]


def state(*lines, row=1, column=1, facing="right", carrying="nothing", mission="get to the green goal square"):
    """Write a grid by marks: # wall, G goal, D locked yellow door, K yellow key, B red ball, L lava."""
    kinds = {"#": WALL, " ": EMPTY, "G": GOAL, "D": [4, 4, 2], "K": [5, 4, 0], "B": [6, 0, 0], "L": [9, 0, 0]}
    grid = [[kinds[mark] for mark in line] for line in lines]
    return {"row": row, "column": column, "facing": facing, "carrying": carrying, "mission": mission, "grid": grid}


@pytest.mark.parametrize(
    ("info", "action"),
    [
        (state("#####", "#  G#", "#####"), "forward"),
        (state("#####", "#  G#", "#####", facing="left"), "left"),
        (state("#####", "#   #", "#G  #", "#####"), "right"),
        (state("######", "# KDG#", "######"), "pickup"),
        (state("######", "# DG##", "######", carrying="yellow key"), "toggle"),
        (state("######", "# B  #", "######", mission="go fetch a red ball"), "pickup"),
        (state("######", "# B  #", "######", mission="go to the red ball"), "done"),
        (state("#####", "# LG#", "#   #", "#####"), "right"),
    ],
)
def test_the_first_action_of_a_shortest_plan(info, action):
    assert planned(info)[0] == action


def test_missions_that_the_planner_does_not_know_have_no_goal():
    assert goal_of("put the red ball near the green box") is None
    assert goal_of("open the red door then the blue door") is None


def test_without_the_package_the_line_that_installs_it_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(GtrTurboError, match="needs the package minigrid, which is not installed") as error:
        load_task("minigrid:MiniGrid-Empty-5x5-v0")
    assert error.value.fix == "run: pip install 'gtrturbo[minigrid]'"


@needs_minigrid
@pytest.mark.parametrize("name", ["Empty-Random-6x6", "DoorKey-5x5", "LavaGapS5", "Fetch-5x5-N2", "GoToDoor-5x5", "Unlock"])
def test_the_expert_wins(name):
    task = load_task(f"minigrid:MiniGrid-{name}-v0", ["image=tiny"])
    env = task.blind()
    for seed in range(8):
        observation, info = env.reset(seed=seed)
        total, ended = 0.0, False
        for _ in range(task.max_turns):
            known = task.know(env, observation, info)
            reply = task.read(task.expert_reply(known), known)
            assert reply is not None and task.perception_correct(reply, known)
            observation, reward, ended, _, info = env.step(task.given(reply.action, known))
            total += float(reward)
            if ended:
                break
        assert ended and total > 0.8


@needs_minigrid
def test_the_mission_stands_in_the_prompt_and_a_cell_has_28_pixels():
    task = load_task("minigrid:MiniGrid-Fetch-5x5-N2-v0", ["image=tiny"])
    env = task.make()
    observation, info = env.reset(seed=1)
    known = task.know(env, observation, info)
    asked = task.ask(View(observation, known, render=env.render))
    assert f"Mission: {env.unwrapped.mission}." in asked.messages[0]["content"][-1]["text"]
    assert asked.images[0].shape == (5 * 28, 5 * 28, 3)
    assert task.truth(known) == {"row": known["row"], "column": known["column"], "facing": known["facing"]}


@needs_minigrid
def test_grids_of_panels_are_none_that_are_trained_on():
    task = load_task("minigrid:MiniGrid-FourRooms-v0")
    env = task.blind()

    def dealt(seed):
        return str(task.know(env, *env.reset(seed=seed)))

    assert all(held_out(dealt(seed)) for seed in task.panel("held-out")[:20])
    assert not any(held_out(dealt(seed)) for seed in range(20))


@needs_minigrid
def test_an_unknown_id_names_the_closest():
    with pytest.raises(GtrTurboError, match="no environment 'MiniGrid-Emty-5x5-v0'") as error:
        load_task("minigrid:MiniGrid-Emty-5x5-v0")
    assert "MiniGrid-Empty-5x5-v0" in error.value.fix


@needs_minigrid
def test_an_environment_of_three_actions_has_three():
    assert load_task("minigrid:MiniGrid-Dynamic-Obstacles-5x5-v0").allowed({}) == ("left", "right", "forward")


@needs_minigrid
@pytest.mark.parametrize("name", ["MiniGrid-DoorKey-5x5-v0", "MiniGrid-LavaGapS5-v0", "MiniGrid-Fetch-5x5-N2-v0"])
def test_lines_are_the_packages_own_but_for_empty_cells_and_lower_case_arrows(name):
    task = load_task(f"minigrid:{name}", ["look=text"])
    env = task.make()
    for seed in range(5):
        observation, info = env.reset(seed=seed)
        for action in (2, 1, 5, 2, 2, 1):
            known = task.know(env, observation, info)
            theirs = env.unwrapped.pprint_grid()
            theirs = theirs.replace("  ", "..").replace("__", "_Y").replace("VV", "vv" if known["facing"] == "down" else "VV")
            assert "\n".join(lines_of(known)) == theirs
            observation, _, over, cut, info = env.step(action)
            if over or cut:
                break
    prompt = task.prompt(View(observation, known, (), env.render))
    assert not prompt.images and prompt.messages[0]["content"][-1]["text"].endswith("\n".join(lines_of(known)))
    env.close()


def test_a_door_says_whether_it_is_open():
    info = state("######", "#  DG#", "######")
    for number, mark in enumerate("_DL"):
        info["grid"][1][3] = [4, 4, number]
        assert lines_of(info)[1] == f"WG>>..{mark}YGGWG"


@needs_minigrid
@pytest.mark.parametrize(
    ("name", "panel"),
    [("Empty-5x5", "fixed"), ("DistShift1", "fixed"), ("LavaGapS5", "fixed"), ("Empty-Random-5x5", "held-out")],
)
def test_a_panel_is_held_out_where_there_are_grids_enough(name, panel):
    task = load_task(f"minigrid:MiniGrid-{name}-v0")
    assert list(task.panels) == [panel]
    env = task.blind()
    apart = held_out(str(task.know(env, *env.reset(seed=task.panel(panel)[0])))) and not held_out(
        str(task.know(env, *env.reset(seed=0)))
    )
    assert apart or panel == "fixed"


@needs_minigrid
def test_no_turns_are_asked_for_beyond_the_environments_own():
    with pytest.raises(GtrTurboError, match=r"horizon is 1000, and minigrid:.* cuts its episodes after 100 turns") as error:
        load_task("minigrid:MiniGrid-Empty-5x5-v0", ["horizon=1000"])
    assert error.value.fix == "ask for 100 at most."


@needs_minigrid
def test_where_no_plan_is_found_there_is_no_expert(monkeypatch):
    monkeypatch.setattr("gtrturbo.tasks.worlds.grids.MOST_STATES", 3)
    assert load_task("minigrid:MiniGrid-DoorKey-6x6-v0").expert is None
    assert load_task("minigrid:MiniGrid-RedBlueDoors-6x6-v0").expert is None


def test_a_search_that_ends_before_a_plan_is_told_and_a_way_that_is_blocked_is_waited_for(monkeypatch):
    info = state("#####", "# LG#", "#   #", "#####")
    assert has_plan(info) and not has_plan(state("#####", "#BBG#", "#####"))
    assert planned(state("#####", "# BG#", "#####"))[0] == "left"  # As where a ball that moves is in the way.
    monkeypatch.setattr("gtrturbo.tasks.worlds.grids.MOST_STATES", 3)
    info = state("#####", "# LG#", "#   #", "#####", mission="reach the goal")
    assert not has_plan(info)
    with pytest.raises(GtrTurboError, match="finds no plan to 'reach the goal' among 3 states"):
        planned(info)


@needs_minigrid
def test_an_environment_that_lacks_a_package_is_told_in_a_sentence(monkeypatch):
    def lacking(*args, **how):
        raise gym.error.DependencyNotInstalled("imageio is missing, please run `pip install 'minigrid[wfc]'`")

    monkeypatch.setattr(gym, "make", lacking)
    with pytest.raises(GtrTurboError, match="minigrid:MiniGrid-WFC-MazeSimple-v0 cannot be made: imageio is missing"):
        load_task("minigrid:MiniGrid-WFC-MazeSimple-v0")


@needs_minigrid
def test_what_begins_otherwise_is_said_to_be_played_by_its_id():
    with pytest.raises(GtrTurboError, match="no environment 'BabyAI-GoToLocal-v0'") as error:
        load_task("minigrid:BabyAI-GoToLocal-v0")
    assert error.value.fix.endswith("is played as gym:minigrid:BabyAI-GoToLocal-v0.")
    assert load_task("gym:minigrid:BabyAI-GoToLocal-v0").expert is None
