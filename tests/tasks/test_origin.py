"""Versions of what is played, and numbers that are kept for them."""

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import pytest

from gtrturbo.errors import GtrTurboError
from gtrturbo.stages import eval as evaluation
from gtrturbo.store.kept import kept
from gtrturbo.tasks.chance import chance, fewer_episodes
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.origin import origin


def test_what_is_played_is_named_with_its_version():
    gymnasium = f"gymnasium {metadata.version('gymnasium')}"
    assert origin("frozenlake", ()) == {"name": "FrozenLake-v1", "version": gymnasium}
    assert origin("gym:CartPole-v1", ()) == {"name": "CartPole-v1", "version": gymnasium}
    assert origin("sokoban", ())["version"] == "1"
    assert origin("numberline", ()) == origin("mine.py:TASK", ()) == {}


def test_an_environment_is_named_after_its_module_is_imported(tmp_path, monkeypatch):
    entry = "gymnasium.envs.classic_control:CartPoleEnv"
    (tmp_path / "brings_one.py").write_text(f"import gymnasium\n\ngymnasium.register('Brought-v0', entry_point='{entry}')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "Brought-v0" not in gym.registry
    found = origin("gym:brings_one:Brought-v0", ())
    assert found.keys() == {"name", "version"} and found["name"] == "Brought-v0"
    assert re.fullmatch(f"gymnasium {metadata.version('gymnasium')} [0-9a-f]{{12}}", found["version"])  # And the file's own.


@pytest.mark.parametrize("task", ["gym:NoSuch-v1", "gym:", "gym:no_such_module:X-v0", "minigrid:Nope"])
def test_what_does_not_exist_is_refused_before_it_is_named(task):
    with pytest.raises(
        GtrTurboError, match=f"no environment .* for {task}|there is no module no_such_module|needs the package minigrid"
    ):
        origin(task, ())


def test_a_file_of_settings_counts_by_its_text(tmp_path):
    file = tmp_path / "a.yaml"
    found = []
    for text in ("size: 56", "size: 84", "size: 56"):
        file.write_text(text)
        found.append(origin("gym:CartPole-v1", (f"file={file}",))["sha256"])
    assert found[0] == found[2] != found[1]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gtrturbo"


def test_numbers_are_found_once_for_the_same_and_again_for_others(cache):
    calls = []

    def make():
        calls.append(1)
        return {"random": 0.25}

    for made_from in ({"a": 1}, {"a": 1}, {"a": 2}, {"a": 1}):
        assert kept("chance", made_from, make) == {"random": 0.25}
    assert len(calls) == 2 and len(list((cache / "chance").iterdir())) == 2


@pytest.mark.parametrize("content", ["", "[]", '{"numbers": {"random": "x"}}', '{"numbers": {"random": 9}, "made_from": "else"}'])
def test_a_damaged_record_is_made_again(cache, content):
    kept("chance", {"a": 1}, lambda: {"random": 0.25})
    [file] = (cache / "chance").iterdir()
    file.write_text(content)
    assert kept("chance", {"a": 1}, lambda: {"random": 0.5}) == {"random": 0.5}
    assert kept("chance", {"a": 1}, lambda: {"random": 0.75}) == {"random": 0.5}


def test_what_was_not_found_is_not_kept(cache):
    assert kept("chance", {"a": 1}, lambda: None) is None
    assert not cache.exists()


def test_chance_levels_of_code_of_ones_own_are_not_kept(cache):
    def played(task):
        config = SimpleNamespace(task=task, env=("horizon=3",), seed=0)
        return evaluation._kept_chance(config, load_task(task, config.env), 1)

    assert played("gym:odd_environments:odd/Plain-v0") and not cache.exists()
    assert played("gym:CartPole-v1") and len(list((cache / "chance").iterdir())) == 1


def test_chance_is_bounded_in_turns_and_in_time():
    # 400,000 turns over 1 + 4 policies of at most 100 turns each.
    assert fewer_episodes(load_task("frozenlake", ["slippery=true"]), 1000) == 800
    assert fewer_episodes(load_task("frozenlake", ["slippery=true"]), 30) == 30
    assert fewer_episodes(load_task("frozenlake", ["horizon=1000", "size=16"]), 1000) == 80
    for name in ("numberline", "ezpoints", "blackjack", "points24"):
        assert fewer_episodes(load_task(name), 1000) == 1000
    assert chance(load_task("numberline", ["image=tiny"]), episodes=5, seed=0, seconds=-1) is None


def test_chance_draws_nothing(monkeypatch):
    monkeypatch.setattr("gymnasium.envs.toy_text.frozen_lake.FrozenLakeEnv.render", lambda self: 1 / 0)
    monkeypatch.setattr("gtrturbo.tasks.worlds.sokoban.drawn_level", lambda *_: 1 / 0)
    for name in ("frozenlake", "sokoban"):
        levels = chance(load_task(name), episodes=3, seed=0)
        assert levels is not None and 0 <= levels["random"] <= 1


def test_code_of_ones_own_is_told_by_its_files_and_those_that_they_import(tmp_path, monkeypatch):
    """Each in a process of its own, as it is after an edit. Chance levels are kept by what is told."""
    (tmp_path / "my_base.py").write_text("from odd_environments import Plain\n\n\nclass Base(Plain):\n    worth = 1.0\n")
    (tmp_path / "my_env.py").write_text(
        "import gymnasium\n\nfrom my_base import Base\n\n\nclass Mine(Base):\n    def pays(self, action):\n"
        "        return self.worth\n\n\ngymnasium.register('my/Env-v0', 'my_env:Mine')\n"
    )
    (tmp_path / "my_beside.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path(__file__).parent), *sys.path]))
    code = (
        "from gtrturbo.stages.played import played_with; from types import SimpleNamespace as S\n"
        "found = played_with(S(task='gym:my_env:my/Env-v0', env=(), panel='fixed'))\n"
        "print(found['task']['version'], found['panel']['sha256'], sep='|')"
    )

    def found():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip().split("|")

    first = found()
    assert re.fullmatch("my_env [0-9a-f]{12}", first[0]) and found() == first
    (tmp_path / "my_beside.py").write_text("# what the environment is not made of\n")
    assert found() == first
    (tmp_path / "my_base.py").write_text((tmp_path / "my_base.py").read_text().replace("1.0", "-1.0"))
    second = found()
    assert second[0] != first[0] and second[1] != first[1]
