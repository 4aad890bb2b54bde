"""What is no file in the place of a run's manifest is told, and not taken for a stage that did not finish."""

import os
from pathlib import Path

import pytest
from made_runs import make_run

from gtrturbo.analysis.history import read_history
from gtrturbo.errors import GtrTurboError

INSTEAD = {"a dangling link": lambda path: path.symlink_to("nowhere"), "a folder": Path.mkdir, "a pipe": os.mkfifo}


@pytest.mark.parametrize("place", INSTEAD.values(), ids=INSTEAD)
def test_a_manifest_that_is_no_file_is_told(tmp_path, place):
    run = make_run(tmp_path / "run", "ppo", 0, {0: [1, 0], 2: [1, 1]})
    manifest = sorted(run.rglob("evals/*/stage.json"))[-1]
    whole = len(read_history(run).entries["student"])
    manifest.unlink()
    assert len(read_history(run).entries["student"]) == whole - 1  # Not finished yet.
    place(manifest)
    with pytest.raises(GtrTurboError, match=str(manifest.parent)):
        read_history(run)
