"""A file of an environment's settings counts by its name and content, wherever it lies."""

import json
import shutil
from dataclasses import replace

import pytest

from gtrturbo.config import DistillConfig, EvalConfig, RolloutConfig
from gtrturbo.config.games import without_folders
from gtrturbo.errors import GtrTurboError
from gtrturbo.stages import execute
from gtrturbo.stages.questions import task_of
from gtrturbo.store.ids import artifact_id
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.names import MANIFEST

TASK = {"task": "gym:CartPole-v1", "episodes": 1, "max_new_tokens": 2}


@pytest.fixture
def settings(tmp_path, monkeypatch):
    file = tmp_path / "conf" / "pole.yaml"
    file.parent.mkdir()
    file.write_text("prompt: Keep it up.\nhorizon: 2\nsize: 56\n")
    monkeypatch.chdir(file.parent)
    return file


def test_the_same_file_gives_the_same_turns_however_its_place_is_written(init, settings, tmp_path):
    play = RolloutConfig(out=tmp_path / "one", checkpoint=init, env=("frames=1", f"file={settings}"), **TASK)
    made = execute(play)
    assert read_manifest(made.out).config["env"] == ["frames=1", "file=pole.yaml"]
    assert str(tmp_path) not in (made.out / MANIFEST).read_text()
    for spelled in ("pole.yaml", "./pole.yaml", "../conf/pole.yaml"):
        assert execute(replace(play, env=("frames=1", f"file={spelled}"))).id == made.id
    assert execute(replace(play, out=tmp_path / "two", env=("frames=1", "file=pole.yaml"))).id == made.id


def test_what_was_made_before_is_still_accepted_and_another_text_is_not(init, settings, tmp_path):
    play = EvalConfig(out=tmp_path / "one", checkpoint=init, env=(f"file={settings}",), chance_episodes=0, **TASK)
    execute(play)
    told = json.loads((play.out / MANIFEST).read_text())
    told["config"]["env"] = ["file=conf/pole.yaml"]
    (play.out / MANIFEST).write_text(json.dumps(told))
    assert execute(play).id == artifact_id(play.out)
    settings.write_text(settings.read_text().replace("Keep", "Hold"))
    with pytest.raises(GtrTurboError, match="with another text of CartPole-v1"):
        execute(play)


def test_a_teacher_of_turns_plays_by_the_file_that_they_hold(init, settings, tmp_path):
    turns = execute(RolloutConfig(out=tmp_path / "turns", checkpoint=init, env=(f"file={settings}",), **TASK)).out
    ask = DistillConfig(out=tmp_path / "demos", rollouts=turns, teacher=init, mode="thoughts")
    old = tmp_path / "old"
    shutil.copytree(turns, old)
    (old / "environment.yaml").unlink()
    told = json.loads((old / MANIFEST).read_text())
    told["config"]["env"] = [f"file={settings}"]
    (old / MANIFEST).write_text(json.dumps(told))
    assert task_of(replace(ask, rollouts=old)).max_turns == 2
    settings.unlink()
    assert task_of(ask).max_turns == 2


def test_options_of_tasks_of_ones_own_stay_as_they_are():
    assert without_folders("gym:X-v0", ["file=a/b.yaml", "size=2"]) == ["file=b.yaml", "size=2"]
    assert without_folders("mine.py:TASK", ["file=a/b.yaml"]) == ["file=a/b.yaml"]
    assert without_folders(None, ()) == []
