"""examples/reproduce/ahead.py: teachers and students of a run that is done, measured on the same deals."""

import json

import pytest

import gtrturbo
from examples.reproduce import ahead


@pytest.fixture
def played(tmp_path, warm, monkeypatch):
    """A run of two updates under runs/numberline-1e-3/ppo/7, evaluated in the end."""
    monkeypatch.setattr(ahead, "RESULTS", tmp_path)
    monkeypatch.setattr(ahead, "EVERY", 1)
    monkeypatch.setattr(ahead, "EPISODES", 6)
    out = tmp_path / "runs" / "numberline-1e-3" / "ppo" / "7"
    settings = ["ppo-step.epochs=1", "ppo-step.learning-rate=1e-3"]
    told = {"start": warm, "env": ["horizon=3"], "iterations": 2, "episodes": 8, "eval_episodes": 6, "method": "ppo", "seed": 7}
    gtrturbo.run(out=out, label="ppo", set=settings, **told)
    (out / "commit").write_text("abc\n")
    return out


def test_students_are_those_of_the_run_and_what_is_there_is_not_made_again(played, tmp_path, monkeypatch, warm):
    ahead.main(tmp_path / "runs", "numberline-1e-3", ["ppo"])
    file = tmp_path / "numberline-1e-3-ahead.jsonl"
    [line] = map(json.loads, file.read_text().splitlines())
    assert (line["arm"], line["seed"], list(line["students"]), list(line["teachers"])) == ("ppo", 7, ["1", "2"], ["1", "2"])
    # The run evaluated its last checkpoint on the same deals, as greedily.
    own = json.loads((played / "evals" / "0002" / "metrics.json").read_text())
    assert line["students"]["2"] == {name: pytest.approx(own[name], abs=1e-6) for name in ahead.MEASURED}
    # A teacher of both checkpoints, and not of one, made by the command.
    made = [played / "checkpoints" / "0001", played / "checkpoints" / "0002"]
    merged = gtrturbo.merge(made, base=warm, out=tmp_path / "teacher")
    assert line["teachers"]["2"] == ahead.measured(merged.path, tmp_path / "eval", "numberline", ["horizon=3"])
    before = file.read_bytes()
    monkeypatch.setattr(ahead, "followed", lambda run: pytest.fail("made again"))
    ahead.main(tmp_path / "runs", "numberline-1e-3", ["ppo"])
    assert file.read_bytes() == before
