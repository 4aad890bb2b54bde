"""show --clean: what killed stages left is removed, and nothing else."""

import fcntl
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gtrturbo.cli import app


@pytest.fixture
def run(tmp_path) -> Path:
    """A run with one finished artifact, as far as --clean looks at it, and all that killed stages leave."""
    run = tmp_path / "run"
    whole = run / "rollouts" / "0000"
    whole.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    (whole / "stage.json").write_text("{}")
    for name in (".0001.partial", ".0000.replaced", ".0002.journal"):
        (run / "rollouts" / name).mkdir()
    (run / "rollouts" / ".0001.partial" / ".gtrturbo-draft").touch()
    (run / "rollouts" / ".0001.partial" / "images").mkdir()
    (run / "rollouts" / ".0001.partial" / "images" / "a.png").write_bytes(bytes(1000))
    (run / "rollouts" / ".0000.replaced" / "stage.json").write_text("{}")
    (run / "rollouts" / ".0002.journal" / "work").write_text("a" * 64)
    (run / ".run.json.0123456789abcdef").write_text("{")
    return run


def clean(run: Path) -> list[str]:
    result = CliRunner().invoke(app, ["show", str(run), "--clean"])
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def test_what_was_left_is_listed_and_removed_and_what_is_whole_stays(run):
    assert clean(run) == [
        "removed  .run.json.0123456789abcdef (1 byte)",
        "removed  rollouts/.0000.replaced (2 bytes)",
        "removed  rollouts/.0001.partial (1.0 kB)",
        "removed  rollouts/.0002.journal (64 bytes)",
    ]
    assert sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()) == [
        "rollouts/0000/stage.json",
        "run.json",
    ]
    assert clean(run) == ["nothing was left."]


def test_what_a_living_process_holds_stays(run):
    place = run / "rollouts" / ".0001.partial"
    (run / "rollouts" / ".0001.journal").mkdir()
    (run / "rollouts" / ".0001.journal" / "work").write_text("b" * 64)
    lock = os.open(place, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        told = clean(run)
    finally:
        os.close(lock)
    assert "kept     rollouts/.0001.partial: a process is at work on it (1.0 kB)" in told
    assert "kept     rollouts/.0001.journal: a process is at work on it (64 bytes)" in told
    assert (place / "images" / "a.png").is_file()


def test_no_link_is_followed_or_removed_and_what_others_named_alike_stays(run, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "work").write_text("a" * 64)
    (victim / "stage.json").write_text("{}")
    (victim / ".x.partial").mkdir()
    for name in (".a.partial", ".a.journal", ".a.replaced"):
        (run / name).symlink_to(victim)
    (run / "linked").symlink_to(victim)
    (run / ".b.partial").mkdir()
    (run / ".b.partial" / "out").symlink_to(victim)
    (run / ".mine.journal").mkdir()
    (run / ".mine.journal" / "monday.txt").write_text("dear diary")
    (run / ".notes.txt.backup").write_text("mine")
    clean(run)
    kept = {".a.partial", ".a.journal", ".a.replaced", ".b.partial", ".mine.journal", ".notes.txt.backup", "linked"}
    assert kept <= set(os.listdir(run))
    assert sorted(os.listdir(victim)) == [".x.partial", "stage.json", "work"]
    assert (run / ".mine.journal" / "monday.txt").read_text() == "dear diary"


def test_the_only_copy_of_an_artifact_that_was_put_aside_stays(run):
    (run / "rollouts" / ".0009.replaced").mkdir()
    (run / "rollouts" / ".0009.replaced" / "stage.json").write_text("{}")
    assert any(line.startswith("kept     rollouts/.0009.replaced: it is the only copy of 0009") for line in clean(run))
    assert (run / "rollouts" / ".0009.replaced" / "stage.json").is_file()


def test_a_folder_that_is_no_run_is_not_looked_through(tmp_path):
    (tmp_path / ".0001.partial").mkdir()
    result = CliRunner().invoke(app, ["show", str(tmp_path), "--clean"])
    assert result.exit_code == 1
    assert result.stderr == f"{tmp_path} is no folder of a run.\nname the folder that gtrturbo run wrote.\n"
    assert (tmp_path / ".0001.partial").is_dir()
