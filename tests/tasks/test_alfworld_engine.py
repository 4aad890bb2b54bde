"""ALFWorld in TextWorld's own engine: `make test-alfworld`."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from played import digest

from gtrturbo.errors import GtrTurboError
from gtrturbo.tasks.alf.library import SPLITS, library
from gtrturbo.tasks.alf.scenes import HouseGame
from gtrturbo.tasks.alf.textworld_engine import TextWorldEngine, alfworld_names
from gtrturbo.tasks.alf.written import KINDS, written_game, written_names
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.origin import origin
from gtrturbo.tasks.panels import panel_id

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("textworld") is None, reason="the package textworld is not installed"),
    pytest.mark.timeout(3600),
]
ROOT = Path(__file__).parents[2]
ALL = [(split, number) for split in SPLITS for number in range(len(written_names(split)))]


@pytest.fixture(autouse=True)
def written(monkeypatch):
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)


def outside(*command, **how):
    """Run Python in a process of its own, with the package as it stands here."""
    given = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'tasks'}", "OMP_NUM_THREADS": "1", **how.pop("env", {})}
    return subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, env=given, **how)


def test_the_expert_wins_every_written_game_and_the_rate_is_1_just_then():
    engine, wins, lengths = TextWorldEngine(), {kind: [] for kind in KINDS}, []
    for split, number in ALL:
        game = library(split, "written").game(number)
        scene, turns = engine.start(game), 0
        assert scene.rate == 0 and not scene.won
        while not scene.won and scene.plan and turns < 40:
            scene, turns = engine.act(scene.plan[0]), turns + 1
            assert (scene.rate == 1) is scene.won
        wins[game.kind].append(scene.won)
        lengths.append(turns)
    rates = {kind: np.mean(each) for kind, each in wins.items()}
    print(f"expert: won {sum(map(sum, wins.values()))} of {len(ALL)}, {rates}; turns {min(lengths)} to {max(lengths)}")
    assert all(len(each) == 20 for each in wins.values())
    assert np.mean([won for each in wins.values() for won in each]) >= 0.95


def test_the_rate_is_1_where_the_engine_says_won_whatever_is_played():
    engine, rng, seen = TextWorldEngine(), np.random.default_rng(0), set()
    for kind in KINDS:
        scene = engine.start(library("train", "written", (kind,)).game(0))
        for _ in range(60):
            by_plan = scene.plan and rng.random() < 0.5
            scene = engine.act(scene.plan[0] if by_plan else scene.commands[rng.integers(len(scene.commands))])
            assert (scene.rate == 1) is scene.won
            seen.add(scene.rate)
            if scene.won:
                break
    assert {0, 0.5, 1} <= seen


def test_the_plan_is_still_one_after_other_moves_and_wins():
    engine, rng = TextWorldEngine(), np.random.default_rng(1)
    for kind in KINDS:
        scene = engine.start(library("seen", "written", (kind,)).game(1))
        for _ in range(10):
            scene = engine.act(scene.commands[rng.integers(len(scene.commands))])
        for _ in range(30):
            if scene.won:
                break
            scene = engine.act(scene.plan[0])
        assert scene.won


PLAIN = """
import json
import numpy as np
import textworld
from textworld.envs.pddl import PddlEnv
from gtrturbo.tasks.alf.written import KINDS, written_game

def told(env, state):
    print(json.dumps([" ".join(state["feedback"].split()), state["admissible_commands"], bool(state["won"])]))

for kind in KINDS:
    env = PddlEnv(textworld.EnvInfos(won=True, admissible_commands=True, policy_commands=True))
    env.load(written_game(f"train/{kind}/2"))
    for info in env._entity_infos.values():
        info.name = info.id.replace("_", " ")
        info.indefinite = "an" if info.name[0] in "aeiou" else "a"
    state, rng = env.reset(), np.random.default_rng(0)
    told(env, state)
    for _ in range(12):
        state, _, _ = env.step(state["admissible_commands"][rng.integers(len(state["admissible_commands"]))])
        told(env, state)
"""


def test_what_is_told_is_what_the_untouched_engine_tells():
    theirs = outside("-c", PLAIN, check=True).stdout.splitlines()
    engine, ours = TextWorldEngine(), []
    for kind in KINDS:
        rng = np.random.default_rng(0)
        scene = engine.start(library("train", "written", (kind,)).game(2))
        ours.append(scene)
        for _ in range(12):
            ours.append(scene := engine.act(scene.commands[rng.integers(len(scene.commands))]))
    assert len(theirs) == len(ours) == 78
    for line, scene in zip(theirs, ours, strict=True):
        assert json.loads(line) == [scene.text, list(scene.commands), scene.won]


@pytest.mark.parametrize("options", [(), ("look=both", "image=tiny", "pays=level")])
def test_the_same_seed_gives_the_same_turns_in_two_processes_and_with_1_and_16_environments(options):
    expected = digest("alfworld", ["games=written", *options], 1)
    assert digest("alfworld", ["games=written", *options], 16) == expected
    for hash_seed in ("1", "2"):
        there = outside(
            ROOT / "tests" / "tasks" / "played.py", "alfworld", 16, "games=written", *options, env={"PYTHONHASHSEED": hash_seed}
        )
        assert there.stdout.strip() == expected, there.stderr


def test_check_task_is_green():
    done = outside(
        "-m", "gtrturbo", "check-task", "alfworld", "--env", "games=written", "--env", "look=both", "--env", "image=tiny"
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the expert wins 1.00" in done.stdout and "failed" not in done.stdout


def test_random_play_wins_few_games():
    env, rng, won = load_task("alfworld").blind(), np.random.default_rng(0), []
    for seed in range(60):
        _, info = env.reset(seed=seed)
        for _ in range(40):
            assert info["plan"] == []
            _, _, ended, _, info = env.step(info["commands"][rng.integers(len(info["commands"]))])
            if ended:
                break
        won.append(info["won"])
    print(f"random play: won {sum(won)} of 60 games of train in 40 turns")
    assert 0 < np.mean(won) < 0.3


def test_nothing_of_the_process_is_changed_and_nothing_is_left(tmp_path):
    code = (
        "import os, sys, warnings; before = sys.argv, dict(os.environ), os.getcwd(), sys.stdout\n"
        "from gtrturbo.tasks.loading import load_task\n"
        "envs = [load_task('alfworld').make() for _ in range(3)]\n"
        "for env in envs:\n"
        "    for seed in (0, 1, 1 << 32):\n"
        "        _, info = env.reset(seed=seed)\n"
        "        env.step(info['commands'][0])\n"
        "    env.close()\n"
        "assert before == (sys.argv, dict(os.environ), os.getcwd(), sys.stdout)\n"
        "libraries = {line.split()[-1] for line in open('/proc/self/maps') if 'libdownward' in line}\n"
        "again = load_task('alfworld').make(); again.reset(seed=0)\n"
        "assert libraries == {line.split()[-1] for line in open('/proc/self/maps') if 'libdownward' in line}\n"
        "print(len(libraries))\n"
    )
    done = outside("-c", code, cwd=tmp_path, env={"TMPDIR": str(tmp_path)})
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")  # Closed engines are taken again: one copy for four.
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_ends_it_and_leaves_nothing(tmp_path):
    command = [sys.executable, "-m", "gtrturbo", "rollout", "--expert", "--task", "alfworld", "--episodes", "5000"]
    (tmp_path / "t").mkdir()
    given = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "t"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "turns")],
        env=given,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # A shell's background ignores it.
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not any(path.stat().st_size for path in tmp_path.glob(".turns*/*")):
        time.sleep(0.2)
    for _ in range(20):
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=6)
            break
        except subprocess.TimeoutExpired:
            continue
    assert process.returncode == 130, process.communicate()[1]
    left = [path.name for path in (tmp_path / "t").iterdir() if not path.name.startswith("torchinductor")]  # torch's own.
    assert not (tmp_path / "turns").exists() and left == []


def test_a_game_that_is_no_pddl_is_named_and_its_grammar_runs_nothing(tmp_path):
    game = library("train", "written").game(0)
    for name, text in [("pddl_problem", "(define"), ("pddl_domain", "()"), ("grammar", "action"), ("pddl_problem", "")]:
        content = {**game.content, name: text}
        with pytest.raises(GtrTurboError, match="the game mine cannot be read"):
            TextWorldEngine().start(HouseGame("mine", game.kind, "", content))
    mark = tmp_path / "ran"
    grammar = game.content["grammar"].replace("f.indefinite + ' '", f"open('{mark}', 'w').name")
    with pytest.raises(GtrTurboError, match="a game's grammar holds"):
        TextWorldEngine().start(HouseGame("mine", game.kind, "", game.content | {"grammar": grammar}))
    assert not mark.exists()
    assert TextWorldEngine().start(game).commands  # The engine still plays.


def test_the_manifest_names_packages_and_games():
    found = origin("alfworld", ())
    assert found["version"].startswith("textworld 1.") and "alfworld 0." in found["version"]
    assert (found["name"], found["games"]) == ("alfworld", "written 1") and len(found["games_sha256"]) == 64
    assert origin("alfworld", ("split=seen",))["games_sha256"] != found["games_sha256"]


def test_a_panels_hash_is_of_its_games():
    task = load_task("alfworld")
    ids = {name: panel_id(task, name) for name in task.panels}
    assert set(ids) == {"seen", "unseen"} and ids["seen"] != ids["unseen"]
    assert panel_id(load_task("alfworld"), "seen") == ids["seen"]
    assert panel_id(load_task("alfworld", ["types=look_at_obj_in_light"]), "seen") != ids["seen"]


@pytest.fixture
def real(tmp_path, monkeypatch):
    """Write a game as alfworld-generate does: the package's own domain and words, a problem of a few lines, ids with places."""
    info = pytest.importorskip("alfworld.info")
    objects = "agent1 - agent start - location l1 - location l2 - location apple_bar_1 - object apple_bar_2 - object "
    objects += "fridge_bar_1 - receptacle table_bar_1 - receptacle AppleType - otype FridgeType - rtype TableType - rtype"
    facts = (
        "(atLocation agent1 start) (receptacleAtLocation fridge_bar_1 l1) (receptacleAtLocation table_bar_1 l2) "
        "(objectAtLocation apple_bar_1 l2) (objectAtLocation apple_bar_2 l2) (inReceptacle apple_bar_1 table_bar_1) "
        "(inReceptacle apple_bar_2 table_bar_1) (openable fridge_bar_1) (objectType apple_bar_1 AppleType) "
        "(pickupable apple_bar_1) (objectType apple_bar_2 AppleType) (pickupable apple_bar_2) "
        "(coolable apple_bar_1) (coolable apple_bar_2) (receptacleType fridge_bar_1 FridgeType) "
        "(receptacleType table_bar_1 TableType) (canContain FridgeType AppleType) "
        "(canContain TableType AppleType)"
    )
    goal = (
        "(and (exists (?r - receptacle) (exists (?o - object) (and (coolable ?o) (objectType ?o AppleType) "
        "(receptacleType ?r TableType) (isCool ?o) (inReceptacle ?o ?r)))))"
    )
    game = {
        "pddl_domain": Path(info.ALFRED_PDDL_PATH).read_text(),
        "grammar": Path(info.ALFRED_TWL2_PATH).read_text().replace("UNKNOWN GOAL", "cool some apple and put it in table"),
        "pddl_problem": f"(define (problem one) (:domain alfred) (:objects {objects}) (:init {facts}) (:goal {goal}))",
        "solvable": True,
    }
    place = tmp_path / "json_2.1.1" / "train" / "pick_cool_then_place_in_recep-Apple-None-Table-1" / "trial_1"
    place.mkdir(parents=True)
    (place / "game.tw-pddl").write_text(json.dumps(game))
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path))
    return place


def test_a_game_of_alfworlds_own_rules_and_words_is_played(real):
    task = load_task("alfworld")
    assert not task.panels
    env = task.make()
    observation, info = env.reset(seed=0)
    assert info["goal"] == "cool some apple and put it in table" and "Looking quickly around you, you see" in observation
    assert {"go to fridge 1", "go to table 1", "help"} <= set(info["commands"])
    assert info["type"] == "pick_cool_then_place_in_recep" and info["rate"] == 0.5  # It lies on a table already.
    total, won, done = 0.0, False, []
    while not won and len(done) < 15:
        done.append(info["plan"][0])
        _, reward, won, _, info = env.step(done[-1])
        total += reward
    assert won and total == 50.5
    assert any(command.startswith("move apple ") for command in done)  # The verb of this version, which nothing here names.
    assert origin("alfworld", ())["games"] == "json_2.1.1, 1 games"


def test_names_are_those_of_alfworlds_own_demangler():
    misc = pytest.importorskip("alfworld.agents.utils.misc")
    rng, ids = np.random.default_rng(0), []
    for kind in ("mug", "sink", "apple", "desklamp"):
        for _ in range(int(rng.integers(1, 13))):
            place = "_bar_".join(f"_minus_0{rng.integers(10)}_dot_{rng.integers(100)}" for _ in range(3))
            ids.append(f"{kind}_bar_{place}" + ("_bar_sinkbasin" if kind == "sink" and rng.random() < 0.5 else ""))

    class Entity:
        def __init__(self, name):
            self.id = name

    theirs = misc.Demangler(game_infos={each: Entity(each) for each in ids})
    assert alfworld_names(ids) == {each: theirs.demangle_alfred_name(each).strip() for each in ids}


def test_a_written_game_is_read_by_the_planners_own_parser():
    fast_downward = pytest.importorskip("fast_downward")
    game = written_game("unseen/pick_two_obj_and_place/3")
    task, _ = fast_downward.pddl2sas(game["pddl_domain"], game["pddl_problem"])
    assert {"walk", "take", "put", "heat", "cool", "wash", "light"} < {action.name for action in task.actions}
