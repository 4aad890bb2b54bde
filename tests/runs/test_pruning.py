"""Pruning: what may go when, and that an artifact whose files were pruned is still itself."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gtrturbo.config import DistillConfig, EvalConfig, MergeConfig, PpoStepConfig, RunConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.runs.execute import _prune
from gtrturbo.runs.plan import plan
from gtrturbo.runs.pruning import leftovers, schedule
from gtrturbo.stages import execute, read_by
from gtrturbo.store.draft import Result
from gtrturbo.store.ids import artifact_id
from gtrturbo.store.names import PRUNED
from gtrturbo.store.provenance import Provenance
from gtrturbo.store.pruned import damaged_files, prune, pruned_files, remake_command
from gtrturbo.store.writing import finished, writing

WORK = Provenance("ppo-step", "checkpoint", {"epochs": 1}, {})
FILES = ("model.safetensors", "optimizer.safetensors", "config.json")


def write(out: Path, stage: str = "ppo-step", names=FILES) -> str:
    with writing(out, Provenance(stage, "checkpoint", {"epochs": 1}, {})) as draft:
        for name in names:
            (draft.folder / name).write_text(f"content of {name}")
    return artifact_id(out)


BOTH = f"{Path(__file__).parents[2] / 'examples/reproduce/free_teachers.py'}:BOTH"

# When


def configs(method: str, **settings) -> list:
    return [step.config for step in plan(RunConfig(out=Path("r"), method=method, iterations=6, eval_every=2, **settings))]


def by_simulation(steps: list, counts, keep: int, readers) -> dict[Path, int]:
    """Walk through the plan; at each step look at all that was made, and at all that is still to come."""
    gone: dict[Path, int] = {}
    for position in range(len(steps)):
        made = [config.out for config in steps[: position + 1] if counts(config)]
        to_come = {path for config in steps[position + 1 :] for path in readers(config)}
        for out in made[: len(made) - keep] if len(made) > keep else []:
            if out not in to_come:
                gone.setdefault(out, position)
    return gone


def holds_scores(config) -> bool:
    return isinstance(config, DistillConfig) and config.out.parent.name == "guidance" and config.mode == "kl"


def continued(config) -> list[Path]:
    return [config.checkpoint] if isinstance(config, PpoStepConfig) else []


PLANS = [
    *({"method": method} for method in ("ppo", "turbo-kl", "turbo-sft", "gtr", "static-kl")),
    *({"method": "turbo-kl", "merge_every": every, "eval_teachers": True} for every in (2, 3)),
    {"method": BOTH},
]


@pytest.mark.parametrize("keep", [1, 2, 5, 9])
@pytest.mark.parametrize("settings", PLANS, ids=lambda settings: " ".join(map(str, settings.values())))
def test_schedule_is_what_a_walk_through_the_plan_finds(settings, keep):
    steps = configs(**settings)
    for counts, readers, settings in (
        (lambda config: isinstance(config, MergeConfig), read_by, {"keep_teachers": keep, "keep_optimizers": None}),
        (lambda config: isinstance(config, PpoStepConfig), continued, {"keep_teachers": None, "keep_optimizers": keep}),
        (holds_scores, read_by, {"keep_teachers": None, "keep_optimizers": None, "keep_guidance": keep}),
    ):
        found = {config.out: position for position, group in schedule(steps, **settings).items() for config in group}
        assert found == by_simulation(steps, counts, keep, readers)


def test_scores_are_counted_apart_from_the_demos_beside_them():
    steps = configs(BOTH)
    due = schedule(steps, keep_teachers=None, keep_optimizers=None, keep_guidance=1)
    told = [(steps[position].out.as_posix(), config.out.as_posix()) for position in sorted(due) for config in due[position]]
    # The newest scores are there until the next ones are: guidance/0000 is read last by the update before.
    assert told == [(f"r/guidance/{k:04d}", f"r/guidance/{k - 1:04d}") for k in range(1, 6)]


def test_a_teacher_goes_when_the_next_one_is_made_and_an_optimizer_when_the_next_checkpoint_is():
    steps = configs("turbo-kl")
    due = schedule(steps, keep_teachers=1, keep_optimizers=1)
    told = [(steps[position].out.as_posix(), config.out.as_posix()) for position in sorted(due) for config in due[position]]
    assert told[:4] == [
        ("r/teachers/0001", "r/teachers/0000"),
        ("r/checkpoints/0002", "r/checkpoints/0001"),
        ("r/teachers/0002", "r/teachers/0001"),
        ("r/checkpoints/0003", "r/checkpoints/0002"),
    ]


def test_a_teacher_that_serves_for_several_updates_stays_until_its_last():
    steps = configs("turbo-kl", merge_every=2)
    due = schedule(steps, keep_teachers=1, keep_optimizers=None)
    gone = [(steps[position].out.as_posix(), config.out.name) for position in sorted(due) for config in due[position]]
    # 0000 scores rollouts 0 and 1; when 0002 is merged, nothing reads it any more.
    assert gone == [("r/teachers/0002", "0000"), ("r/teachers/0004", "0002")]


def test_what_a_later_step_reads_stays():
    # A merge that reads the teacher before last, and a last evaluation that reads the first one.
    steps = [MergeConfig(out=Path(f"t/{k}"), checkpoints=(Path(f"t/{k - 2}"),) if k > 1 else (Path("c"),)) for k in range(4)]
    steps.append(EvalConfig(out=Path("e"), checkpoint=Path("t/0"), task="numberline"))
    due = schedule(steps, keep_teachers=1, keep_optimizers=None)
    assert {position: [config.out.name for config in group] for position, group in due.items()} == {3: ["1", "2"], 4: ["0"]}


def test_where_all_is_kept_nothing_goes():
    assert schedule(configs("turbo-kl"), keep_teachers=None, keep_optimizers=None) == {}


# What


def test_a_teacher_loses_its_weights_and_a_checkpoint_its_optimizer(tmp_path):
    names = ("model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json", "tokenizer.json")
    write(tmp_path / "t", "merge", names)
    assert leftovers(MergeConfig(out=tmp_path / "t")) == ["model-1.safetensors", "model-2.safetensors"]
    write(tmp_path / "c")
    assert leftovers(PpoStepConfig(out=tmp_path / "c", checkpoint=tmp_path, rollouts=tmp_path)) == ["optimizer.safetensors"]
    write(tmp_path / "g", "distill", ("scores.safetensors", "demos.jsonl"))
    assert leftovers(DistillConfig(out=tmp_path / "g", teacher=tmp_path, rollouts=tmp_path)) == ["scores.safetensors"]


def test_a_pruned_artifact_keeps_its_id_and_is_not_damaged(tmp_path):
    before = write(tmp_path / "c")
    prune(tmp_path / "c", ["optimizer.safetensors", "never-there"], remake="make it")
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [
        *("config.json", "model.safetensors", "pruned.json", "stage.json", "timing.json"),
    ]
    assert artifact_id(tmp_path / "c") == before
    assert damaged_files(tmp_path / "c") == []
    assert pruned_files(tmp_path / "c") == ["optimizer.safetensors"]
    assert remake_command(tmp_path / "c") == "make it"
    found = finished(tmp_path / "c", WORK)
    assert found and found.id == before


def test_damage_beside_pruned_files_is_still_found(tmp_path):
    write(tmp_path / "c")
    prune(tmp_path / "c", ["optimizer.safetensors"], remake="")
    (tmp_path / "c" / "model.safetensors").unlink()
    (tmp_path / "c" / "config.json").write_text("other")
    assert damaged_files(tmp_path / "c") == ["config.json", "model.safetensors"]


def test_a_pruned_file_that_came_back_counts_by_its_content(tmp_path):
    write(tmp_path / "c")
    prune(tmp_path / "c", ["optimizer.safetensors"], remake="")
    (tmp_path / "c" / "optimizer.safetensors").write_text("content of optimizer.safetensors")
    assert (pruned_files(tmp_path / "c"), damaged_files(tmp_path / "c")) == ([], [])
    (tmp_path / "c" / "optimizer.safetensors").write_text("something else")
    assert damaged_files(tmp_path / "c") == ["optimizer.safetensors"]


def test_pruning_again_adds_to_the_record(tmp_path):
    write(tmp_path / "c")
    prune(tmp_path / "c", ["optimizer.safetensors"], remake="one")
    stamp = (tmp_path / "c" / PRUNED).stat().st_mtime_ns
    prune(tmp_path / "c", ["optimizer.safetensors"], remake="one")
    assert (tmp_path / "c" / PRUNED).stat().st_mtime_ns == stamp
    prune(tmp_path / "c", ["model.safetensors"], remake="two")
    assert pruned_files(tmp_path / "c") == ["model.safetensors", "optimizer.safetensors"]


def test_an_artifact_of_which_nothing_is_pruned_has_no_record(tmp_path):
    write(tmp_path / "c")
    prune(tmp_path / "c", ["never-there"], remake="")
    assert not (tmp_path / "c" / PRUNED).exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from gtrturbo.store.pruned import prune
sys.addaudithook(lambda event, details: os.kill(os.getpid(), signal.SIGKILL) if event == sys.argv[2] else None)
prune(Path(sys.argv[1]), ["model.safetensors", "optimizer.safetensors"], remake="")
"""


@pytest.mark.parametrize("event", ["os.rename", "os.remove"])
def test_pruning_that_is_killed_leaves_no_damage_and_goes_on(tmp_path, event):
    write(tmp_path / "c")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "c"), event], check=False, env=os.environ)
    assert killed.returncode == -signal.SIGKILL
    assert all((tmp_path / "c" / name).is_file() for name in FILES)
    assert damaged_files(tmp_path / "c") == []
    prune(tmp_path / "c", ["model.safetensors", "optimizer.safetensors"], remake="")
    assert pruned_files(tmp_path / "c") == ["model.safetensors", "optimizer.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]


def test_a_stage_that_reads_pruned_files_names_the_command_that_makes_them_again(tmp_path):
    write(tmp_path / "teacher", "merge")
    prune(tmp_path / "teacher", ["model.safetensors"], remake="gtrturbo merge --out teacher --overwrite")
    with pytest.raises(GtrTurboError) as error:
        execute(EvalConfig(out=tmp_path / "e", checkpoint=tmp_path / "teacher", task="numberline"))
    assert error.value.what == f"model.safetensors of {tmp_path}/teacher was pruned, and eval reads it."
    assert error.value.fix == "make it again with: gtrturbo merge --out teacher --overwrite"
    assert not (tmp_path / "e").exists()


# Whose


def planted(folder: Path, files: dict[str, str]) -> None:
    manifest = json.loads((folder / "stage.json").read_text())
    (folder / "stage.json").write_text(json.dumps(manifest | {"files": manifest["files"] | files}))


def victim(tmp_path: Path) -> Path:
    (tmp_path / "elsewhere").mkdir(exist_ok=True)
    file = tmp_path / "elsewhere" / "optimizer.safetensors"
    file.write_text("content of optimizer.safetensors")
    return file


@pytest.mark.parametrize("name", ["../elsewhere/optimizer.safetensors", "optimizer/../../elsewhere/optimizer.safetensors"])
def test_names_in_manifest_and_record_that_lead_elsewhere_are_refused(tmp_path, name):
    file = victim(tmp_path)
    for names in (name, str(file)):
        write(tmp_path / "c")
        (tmp_path / "c" / PRUNED).write_text(json.dumps({"files": {names: "0"}, "remake": ""}))
        with pytest.raises(GtrTurboError, match=r"pruned\.json is damaged: .*no plain name"):
            prune(tmp_path / "c", ["optimizer.safetensors"], remake="")
        (tmp_path / "c" / PRUNED).unlink()
        planted(tmp_path / "c", {names: "0"})
        with pytest.raises(GtrTurboError, match=r"stage\.json is damaged: .*no plain name"):
            prune(tmp_path / "c", [names], remake="")
        shutil.rmtree(tmp_path / "c")
    assert file.exists()


def test_the_record_of_pruned_files_removes_nothing(tmp_path):
    write(tmp_path / "c")
    (tmp_path / "c" / PRUNED).write_text(json.dumps({"files": {"config.json": "0", "model.safetensors": "0"}, "remake": ""}))
    prune(tmp_path / "c", ["optimizer.safetensors"], remake="")
    assert {"config.json", "model.safetensors"} <= {path.name for path in (tmp_path / "c").iterdir()}


def test_a_file_that_others_put_in_the_place_of_a_pruned_one_stays(tmp_path):
    write(tmp_path / "c")
    (tmp_path / "c" / "optimizer.safetensors").write_text("mine")
    assert prune(tmp_path / "c", ["optimizer.safetensors"], remake="") == ["optimizer.safetensors"]
    assert (tmp_path / "c" / "optimizer.safetensors").read_text() == "mine" and not (tmp_path / "c" / PRUNED).exists()


def test_no_link_in_the_place_of_file_artifact_or_folder_is_followed(tmp_path):
    file = victim(tmp_path)
    run = tmp_path / "run"
    write(run / "checkpoints" / "c")
    (run / "checkpoints" / "c" / "optimizer.safetensors").unlink()
    (run / "checkpoints" / "c" / "optimizer.safetensors").symlink_to(file)
    assert prune(run / "checkpoints" / "c", ["optimizer.safetensors"], remake="", within=run) == ["optimizer.safetensors"]
    write(tmp_path / "other" / "d")
    (run / "links").symlink_to(tmp_path / "other")
    (run / "checkpoints" / "d").symlink_to(tmp_path / "other" / "d")
    for folder in (run / "links" / "d", run / "checkpoints" / "d"):
        assert prune(folder, ["optimizer.safetensors"], remake="", within=run) == ["optimizer.safetensors"]
    assert file.exists() and (tmp_path / "other" / "d" / "optimizer.safetensors").exists()
    assert not list(tmp_path.rglob(PRUNED))


def test_a_hard_link_loses_its_name_here_and_its_content_nowhere(tmp_path):
    write(tmp_path / "c")
    os.link(tmp_path / "c" / "optimizer.safetensors", tmp_path / "kept")
    prune(tmp_path / "c", ["optimizer.safetensors"], remake="")
    assert (tmp_path / "kept").read_text() == "content of optimizer.safetensors"


def test_an_artifact_whose_manifest_changed_meanwhile_is_not_pruned(tmp_path, capsys):
    before = write(tmp_path / "c")
    (tmp_path / "c" / "optimizer-mine").write_text("mine")
    planted(tmp_path / "c", {"optimizer-mine": hashlib.sha256(b"mine").hexdigest()})
    config = PpoStepConfig(out=tmp_path / "c", checkpoint=tmp_path, rollouts=tmp_path)
    _prune([config], [Result(tmp_path / "c", before, {})], tmp_path)
    assert (tmp_path / "c" / "optimizer-mine").read_text() == "mine"
    assert "c is not pruned: stage.json is not what this run made." in capsys.readouterr().err
