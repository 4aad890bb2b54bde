"""The benchmark of trackers: it runs with a tracker of the user's own, and refuses one that changes an artifact."""

from pathlib import Path

import pytest

from gtrturbo.stages import eval as eval_stage

ROOT = Path(__file__).parent.parent
FEW = ["--rounds", "1", "--iterations", "1", "--episodes", "2"]


def test_the_ratio_of_a_tracker_is_that_of_the_same_run(monkeypatch, tmp_path, warm, capsys):
    monkeypatch.syspath_prepend(str(ROOT))
    from examples.benchmarks import trackers

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NUMBERS", str(tmp_path / "numbers.csv"))
    monkeypatch.setattr(eval_stage, "CHANCE_EPISODES", 50)
    monkeypatch.setattr(trackers, "warm_checkpoint", lambda *_: warm)
    own = f"{ROOT}/tests/plugins/csv_tracker.py:CsvTracker"
    found = trackers.main([*FEW, "--trackers", own])
    assert len(found[own]) == 1 and 0 < found[own][0] < 100
    assert "none: wall " in capsys.readouterr().out
    found = trackers.main(["--rows", "3", "--trackers", own])
    assert 0 <= found[own][0] < 1 and "ms a minibatch" in capsys.readouterr().out
    assert (tmp_path / "numbers.csv").read_text().count("number_14") == 4  # the first one, too
    taken = iter("abcd")
    monkeypatch.setattr(trackers, "_timed", lambda *_, **__: trackers.Timed(1.0, 1.0, next(taken)))
    with pytest.raises(SystemExit, match="changed an artifact"):
        trackers.main([*FEW, "--trackers", own])
