"""Stages on a disk that is full: a sentence with the path, nothing half there, and later the same command goes on."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gtrturbo.cli import app
from gtrturbo.config import InitConfig
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
