"""A relative base is looked up beside its adapter alone; where it is not there, all who read it say so and what mends it."""

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from parsed import parsed

from gtrturbo.config import EvalConfig, InitConfig, MergeConfig, RolloutConfig, RunConfig, SftConfig, ShowConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.under_adapter import base_of
from gtrturbo.runs.estimate import notes
from gtrturbo.show.artifact import show
from gtrturbo.stages import execute
from gtrturbo.store.names import ADAPTER_CONFIG, MANIFEST, MODEL_WEIGHTS

PLAY = {"task": "numberline", "env": ("image=tiny",), "episodes": 1, "max_new_tokens": 4}


@pytest.fixture
def alone(init, tmp_path, monkeypatch) -> Path:
    """An adapter that was copied away from its base, seen from where another model lies at the relative place of the base."""
    for place in ("one", "from", "lies"):
        shutil.copytree(init, tmp_path / place / "mybase", ignore=shutil.ignore_patterns(MANIFEST))
    execute(InitConfig(out=tmp_path / "one" / "ad", model=str(tmp_path / "one" / "mybase"), lora_rank=2))
    shutil.copytree(tmp_path / "one" / "ad", tmp_path / "two" / "ad")
    shutil.rmtree(tmp_path / "one")
    (tmp_path / "from" / "work").mkdir()
    monkeypatch.chdir(tmp_path / "from" / "work")
    assert Path("../mybase").is_dir()
    return tmp_path / "two" / "ad"


def test_a_base_in_the_place_seen_from_the_working_directory_is_not_taken(alone, expert, tmp_path):
    for config in (
        RolloutConfig(out=tmp_path / "turns", checkpoint=alone, **PLAY),
        EvalConfig(out=tmp_path / "eval", checkpoint=alone, chance_episodes=0, **PLAY),
        SftConfig(out=tmp_path / "sft", data=(expert,), checkpoint=alone, steps=1, batch_size=4),
    ):
        with pytest.raises(GtrTurboError, match=r"is on the model in .*two/ad/\.\./mybase, which is not there"):
            execute(config)
    with pytest.raises(GtrTurboError, match=r"is on the model in .*two/ad/\.\./mybase, which is not there"):
        notes(RunConfig(out=tmp_path / "run", task="numberline", env=("image=tiny",), start=alone, iterations=1, dry_run=True))


def test_what_is_said_of_a_base_that_lies_elsewhere_mends_it(alone, tmp_path):
    rollout = RolloutConfig(out=tmp_path / "turns", checkpoint=alone, **PLAY)
    with pytest.raises(GtrTurboError) as error:
        execute(rollout)
    command = error.value.fix.partition("gtrturbo ")[2].replace("FULL", str(tmp_path / "full"))
    execute(parsed(shlex.split(command.replace("BASE", str(tmp_path / "lies" / "mybase")))))
    execute(replace(rollout, checkpoint=tmp_path / "full"))
    shutil.copytree(tmp_path / "lies" / "mybase", tmp_path / "two" / "mybase")
    execute(replace(rollout, out=tmp_path / "again"))


@pytest.fixture
def linked(init, tmp_path, monkeypatch) -> Path:
    """A working directory whose folder of runs is a link to another disk; a model lies in it, and another where text leads."""
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "runs").symlink_to(tmp_path / "disk" / "deep")
    shutil.copytree(init, tmp_path / "home" / "mymodel", ignore=shutil.ignore_patterns(MANIFEST))
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home" / "mymodel"


def test_a_base_is_found_from_a_folder_of_runs_that_is_reached_by_a_link(linked, expert):
    lora = execute(InitConfig(out=Path("runs/lora"), model="mymodel", lora_rank=2)).out
    assert Path(base_of(lora)).samefile(linked)
    trained = SftConfig(out=Path("runs/sft"), data=(expert,), checkpoint=lora, steps=1, batch_size=4)
    assert Path(base_of(execute(trained).out)).samefile(linked)
    copied = execute(MergeConfig(out=Path("elsewhere/copy"), base=lora)).out
    assert Path(base_of(copied)).samefile(linked)


def test_a_base_in_a_folder_that_is_reached_by_a_link_is_found_from_one_that_is_not(linked, expert):
    linked.rename("runs/mymodel")
    lora = execute(InitConfig(out=Path("lora"), model="runs/mymodel", lora_rank=2)).out
    assert Path(base_of(lora)).samefile("runs/mymodel")
    trained = SftConfig(out=Path("runs/sft"), data=(expert,), checkpoint=lora, steps=1, batch_size=4)
    assert Path(base_of(execute(trained).out)).samefile("runs/mymodel")


@pytest.mark.parametrize("stage", ["init", "sft"])
def test_an_adapter_that_would_lie_where_its_base_is_not_found_is_not_written(linked, expert, monkeypatch, stage):
    lora = execute(InitConfig(out=Path("lora"), model="mymodel", lora_rank=2)).out
    named = "gtrturbo.models.under_adapter.path_from" if stage == "sft" else "gtrturbo.stages.init.rebased_name"
    monkeypatch.setattr(named, lambda *_: "../lost/mymodel")
    made = {
        "init": InitConfig(out=Path("made"), model="mymodel", lora_rank=2),
        "sft": SftConfig(out=Path("made"), data=(expert,), checkpoint=lora, steps=1, batch_size=4),
    }
    with pytest.raises(GtrTurboError, match=r"made would be on the model in \.\./lost/mymodel, which is not there as seen from"):
        execute(made[stage])
    assert not Path("made").exists()


def test_a_check_says_where_a_base_that_lies_elsewhere_was_looked_for(alone, capsys):
    show(ShowConfig(artifact=alone, check=True))
    assert "two/ad/../mybase is not here to be checked" in capsys.readouterr().out.replace("\n", "")


def test_a_folder_here_of_the_name_that_could_be_an_id_is_not_taken(alone, init, tmp_path):
    shutil.copytree(init, "some/model")
    (alone / MANIFEST).unlink()
    config = json.loads((alone / ADAPTER_CONFIG).read_text())
    (alone / ADAPTER_CONFIG).write_text(json.dumps(config | {"base_model_name_or_path": "some/model"}))
    for refused in (
        RolloutConfig(out=tmp_path / "t", checkpoint=alone, **PLAY),
        MergeConfig(out=tmp_path / "m", checkpoints=(alone,)),
    ):
        with pytest.raises(GtrTurboError, match="on the model some/model, which is not on this machine"):
            execute(refused)
    shutil.copytree(init, alone / "some" / "model")
    assert (execute(MergeConfig(out=tmp_path / "m", checkpoints=(alone,))).out / MODEL_WEIGHTS).is_file()
