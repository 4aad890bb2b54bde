"""THOR's engine behind the same task, by its contract: a stand-in of the interface that alfworld 0.4.2 has."""

import ast
import importlib.util
import random
from pathlib import Path

import numpy as np
import pytest

from gtrturbo.errors import GtrTurboError
from gtrturbo.tasks.alf.house_env import HouseEnv
from gtrturbo.tasks.alf.library import TRAJECTORY, library
from gtrturbo.tasks.alf.thor_engine import ThorEngine, thor_config

HEAT = "pick_heat_then_place_in_recep-Egg-None-Shelf-1/trial_"


class Thread:
    alive = True

    def is_alive(self):
        return self.alive


class Unity:
    """What `AlfredThorEnv` does of what is asked of it: lists of one, frames in blue, green and red, global random numbers."""

    made = 0

    def __init__(self):
        type(self).made += 1
        self.envs, self.closed, self.json_file_list = [Thread()], 0, ["another game"]

    def init_env(self, batch_size):
        assert batch_size == 1
        return self

    def reset(self):
        print("Task: printed by the engine")
        [self.file] = random.sample(self.json_file_list, k=1)
        self.steps, wording = 0, random.choice(["heat some egg", "put a hot egg in shelf"])
        return self._answer(f"You see a shelf 1.\n\nYour task is to: {wording}.")[0::2]

    def step(self, actions):
        assert isinstance(actions, list) and len(actions) == 1
        self.steps += 1
        texts, dones, infos = self._answer(f"You {actions[0]}.")
        return texts, None, dones, infos

    def get_frames(self):
        frame = np.zeros((1, 300, 300, 3), dtype=np.uint8)
        frame[..., 0] = 200  # blue
        return frame

    def close(self):
        self.closed += 1

    def _answer(self, text):
        won = self.steps == 2
        infos = {
            "admissible_commands": [["look", "go to shelf 1", "look"]],
            "won": [won],
            "goal_condition_success_rate": [self.steps / 2],
            "extra.gamefile": [self.file],
            "extra.expert_plan": [["go to shelf 1"]],
        }
        return [text], [won], infos


@pytest.fixture
def data(tmp_path, monkeypatch):
    for number in (1, 2):
        place = tmp_path / "json_2.1.1" / "train" / f"{HEAT}{number}"
        place.mkdir(parents=True)
        (place / TRAJECTORY).write_text(f'{{"number": {number}}}')
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture
def env(data):
    found = library("train", "data", file=TRAJECTORY)
    return HouseEnv(lambda: ThorEngine(Unity), {"dealt": found}, "increment", "full", "rgb_array")


def test_a_game_of_thor_is_played_as_any_other(env, data, capsys):
    observation, info = env.reset(seed=0)
    assert observation == "You see a shelf 1." and info["goal"] in ("heat some egg", "put a hot egg in shelf")
    assert (info["type"], info["commands"]) == ("pick_heat_then_place_in_recep", ["go to shelf 1", "look"])
    assert (info["plan"], info["rate"], info["won"]) == (["go to shelf 1"], 0, False)
    assert env.engine._inner.file == str(data / info["game"] / TRAJECTORY)
    assert env.step("go to shelf 1")[1:4] == (0.5, False, False)
    assert env.step("look")[1:4] == (50.5, True, False)
    assert capsys.readouterr().out == ""


def test_its_frames_are_turned_to_red_green_and_blue(env):
    env.reset(seed=0)
    frame = env.render()
    assert frame.shape == (300, 300, 3) and frame.dtype == np.uint8
    assert frame[0, 0].tolist() == [0, 0, 200]


def test_games_and_their_wording_follow_from_the_seed_and_no_one_elses_random_numbers_are_touched(env):
    random.seed(5)
    expected = [random.random() for _ in range(3)]
    random.seed(5)
    first = [env.reset(seed=seed)[1]["goal"] + env.game.name for seed in range(12)]
    assert [random.random() for _ in range(3)] == expected
    random.seed(6)
    assert [env.reset(seed=seed)[1]["goal"] + env.game.name for seed in range(12)] == first
    assert len(set(first)) > 1


def test_unity_is_started_once_and_stopped_once(env):
    before = Unity.made
    env.reset(seed=0)
    env.reset(seed=1)
    inner = env.engine._inner
    assert Unity.made == before + 1
    env.close()
    env.close()
    assert inner.closed == 1
    env.reset(seed=0)
    assert Unity.made == before + 2


def test_a_thread_that_has_ended_is_told_and_not_waited_for(env):
    env.reset(seed=0)
    env.engine._inner.envs[0].alive = False
    with pytest.raises(GtrTurboError, match="THOR has stopped"):
        env.step("look")


def test_what_keeps_unity_from_starting_is_told_in_a_sentence(data):
    def no_display():
        raise AssertionError("Invalid DISPLAY :0.0 -\ncannot find X server with xdpyinfo")

    with pytest.raises(GtrTurboError, match=r"THOR cannot be started: Invalid DISPLAY :0\.0 - cannot find X server") as error:
        ThorEngine(no_display).start(library("train", "data", file=TRAJECTORY).game(0))
    assert error.value.fix == "see the documentation: alfworld-thor"


def test_the_configuration_names_the_folders_of_the_games(data):
    config = thor_config(data)
    assert config["dataset"]["data_path"] == str(data / "json_2.1.1" / "train")
    assert config["dataset"]["eval_ood_data_path"] == str(data / "json_2.1.1" / "valid_unseen")


def engine_source():
    """Parse alfworld's own module, which cannot be imported without Unity's packages."""
    spec = importlib.util.find_spec("alfworld")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package alfworld is not installed")
    return ast.parse((Path(spec.submodule_search_locations[0]) / "agents/environment/alfred_thor_env.py").read_text())


def test_the_stand_in_has_the_interface_of_the_package():
    tree = engine_source()
    [thor] = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    methods = {node.name: [each.arg for each in node.args.args] for node in thor.body if isinstance(node, ast.FunctionDef)}
    for name in ("init_env", "reset", "step", "get_frames", "close"):
        [function] = [getattr(Unity, name)]
        assert len(methods[name]) == function.__code__.co_argcount
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert set(Unity().__dict__) - {"closed"} <= {node.attr for node in ast.walk(thor) if isinstance(node, ast.Attribute)}
    assert {"admissible_commands", "won", "goal_condition_success_rate", "extra.gamefile", "extra.expert_plan"} <= words


def test_the_configuration_holds_whatever_the_package_reads_of_it(data):
    """Each chain of keys, config['env']['thor']['screen_height'], that the module's source has, followed in ours."""
    for node in ast.walk(engine_source()):
        keys, inner = [], node
        while isinstance(inner, ast.Subscript) and isinstance(inner.slice, ast.Constant):
            keys, inner = [inner.slice.value, *keys], inner.value
        if keys and ast.unparse(inner) in ("config", "self.config") and keys[0] not in ("mask_rcnn", "rl"):
            found = thor_config(data)
            for key in keys:
                found = found[key]
