"""Stages on a disk that is full: a sentence with the path, nothing half there, and later the same command goes on."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gtrturbo.cli import app
from gtrturbo.config import DistillConfig, EvalConfig, InitConfig, MergeConfig, SftConfig
from gtrturbo.runs.plan import Step
from gtrturbo.runs.script import command


def mount(disk: Path, *options: str) -> bool:
    return subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", disk], capture_output=True, check=False).returncode == 0


@pytest.fixture
def disk(tmp_path):
    """Return what mounts a disk of so many KiB, or makes it larger."""
    place = tmp_path / "disk"
    place.mkdir()

    def sized(kibibytes: int, *options: str) -> Path:
        if not mount(place, "-o", ",".join([f"size={kibibytes}k", *options])):
            pytest.skip("a small disk cannot be mounted here")
        return place

    yield sized
    subprocess.run(["umount", place], capture_output=True, check=False)


def run(stage: str, config: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, command(Step(stage, config)).split()[1:])
    return result.exit_code, result.stderr


# KiB: not even the tokenizer; all but the last of the weights.
@pytest.mark.parametrize("kibibytes", [16, 1160])
def test_a_checkpoint_is_whole_or_not_there(disk, kibibytes):
    config = InitConfig(out=disk(kibibytes) / "c")
    code, told = run("init", config)
    assert (code, told.splitlines()[-1]) == (1, "make room there, then give the same command again: what was finished is kept.")
    assert told.splitlines()[-2] == f"{config.out} cannot be written: its disk is full."
    assert os.listdir(config.out.parent) == []
    disk(16_384, "remount")
    assert run("init", config)[0] == 0


@pytest.mark.parametrize("kibibytes", [24])
def test_turns_go_on_where_the_disk_was_full(disk, kibibytes, turns, turns_config):
    config = replace(turns_config, out=disk(kibibytes) / "turns")
    code, told = run("rollout", config)
    assert code == 1
    assert told.splitlines()[-2].startswith(f"{config.out.parent}/") and told.splitlines()[-2].endswith("its disk is full.")
    assert set(os.listdir(config.out.parent)) <= {".turns.journal"}
    disk(16_384, "remount")
    assert run("rollout", config)[0] == 0
    assert (config.out / "turns.jsonl").read_bytes() == (turns / "turns.jsonl").read_bytes()


STAGES = {
    "init": lambda made, out: InitConfig(out=out, lora_rank=4),
    "sft": lambda made, out: SftConfig(out=out, data=(made("expert"),), checkpoint=made("init"), steps=2, batch_size=4),
    "distill kl": lambda made, out: DistillConfig(out=out, rollouts=made("turns"), teacher=made("init")),
    "distill thoughts": lambda made, out: DistillConfig(out=out, rollouts=made("turns"), expert=True, mode="thoughts"),
    "ppo-step": lambda made, out: replace(made("ppo_config"), out=out),
    "merge": lambda made, out: MergeConfig(out=out, checkpoints=(made("warm"), made("ppo")), base=made("init")),
    "merge into sums": lambda made, out: MergeConfig(
        out=out, checkpoints=(made("warm"), made("ppo")), base=made("init"), state=out.parent / "state"
    ),
    "eval": lambda made, out: EvalConfig(
        out=out, checkpoint=made("warm"), task="numberline", env=("image=tiny", "horizon=2"), episodes=3, max_new_tokens=40
    ),
}


def whole_files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "timing.json"
    }


@pytest.mark.parametrize("share", [0.0, 0.4, 0.97])
@pytest.mark.parametrize("name", STAGES)
def test_every_stage_goes_on_where_the_disk_was_full(disk, request, tmp_path, name, share):
    make, stage = STAGES[name], name.split()[0]
    assert run(stage, make(request.getfixturevalue, tmp_path / "whole" / "out"))[0] == 0
    expected = whole_files(tmp_path / "whole")
    pages = sum(-(-len(content) // 4096) for content in expected.values())
    config = make(request.getfixturevalue, disk(max(4, int(4 * pages * share))) / "out")
    code, told = run(stage, config)
    what, mend = told.splitlines()[-2:]
    assert code == 1 and what.startswith(f"{config.out.parent}"), told
    if mend == "free some disk space.":  # Of a merge, which is known before.
        assert stage == "merge" and "MB free, the merge needs" in what
    else:
        assert what.endswith("cannot be written: its disk is full."), told
        assert mend == "make room there, then give the same command again: what was finished is kept."
    assert set(os.listdir(config.out.parent)) <= {".out.journal", "state"}
    disk(65_536, "remount")
    assert run(stage, config)[0] == 0
    assert whole_files(config.out.parent) == expected


def test_a_run_goes_on_where_the_disk_was_full(disk, tmp_path, warm, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = ["run", "--method", "turbo-kl", "--iterations", "1", "--eval-every", "1", "--device", "cpu"]
    words += ["--env", "horizon=2", "--episodes", "3", "--eval-episodes", "2"]
    words += ["--start", str(warm), "--set", "rollout.max-new-tokens=40", "--set", "eval.max-new-tokens=40", "--out"]
    assert CliRunner().invoke(app, [*words, str(tmp_path / "whole")]).exit_code == 0
    expected = whole_files(tmp_path / "whole")
    pages = sum(-(-len(content) // 4096) for content in expected.values())
    out = disk(64) / "run"
    for share in (0.2, 0.5, 0.8):  # Ever later, on a disk that is never large enough.
        disk(int(4 * pages * share), "remount")
        ended = CliRunner().invoke(app, [*words, str(out)])
        assert ended.exit_code == 1 and "its disk is full." in ended.stderr.splitlines()[-2], ended.stderr
    disk(65_536, "remount")
    assert CliRunner().invoke(app, [*words, str(out)]).exit_code == 0
    assert whole_files(out) == expected
