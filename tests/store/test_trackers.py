"""Numbers on their way out: every one of them reaches a tracker, and none of a tracker's troubles reaches the training."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from gtrturbo.cli import app
from gtrturbo.config import RolloutConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.stages import execute
from gtrturbo.store.ids import sha256_file
from gtrturbo.store.trackers import require_trackers, tracking

CSV = f"{Path(__file__).parents[1]}/plugins/csv_tracker.py:CsvTracker"
FAILING = """
class Failing:
    def log(self, stage, out, step, numbers):
        print("told", step)
        if step == 1:
            raise OSError("no network")

    def close(self):
        print("closed")


class Leaving:
    def log(self, stage, out, step, numbers):
        raise SystemExit(7)

    def close(self):
        raise SystemExit(8)


class Stopped:
    def log(self, stage, out, step, numbers):
        raise KeyboardInterrupt

    def close(self):
        print("closed")


class Unborn:
    def __init__(self):
        raise OSError("no login")

    def log(self, stage, out, step, numbers):
        pass

    def close(self):
        pass


NOTHING = 3
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(FAILING)
    return path


def sft(out, init, expert, *more):
    command = ["sft", str(expert), "--checkpoint", str(init), "--steps", "3", "--batch-size", "4", "--out", str(out), *more]
    return CliRunner().invoke(app, command)


def test_a_tracker_of_15_lines_is_told_every_step_and_what_came_of_the_stage(tmp_path, init, expert, monkeypatch):
    monkeypatch.setenv("NUMBERS", str(tmp_path / "numbers.csv"))
    assert sft(tmp_path / "logged", init, expert, "--log", CSV).exit_code == 0
    with (tmp_path / "numbers.csv").open(newline="") as told:
        rows = list(csv.reader(told))
    lines = [json.loads(line) for line in (tmp_path / "logged" / "metrics.jsonl").read_text().splitlines()]
    steps = [["sft", "logged", str(step), name, str(value)] for step, row in enumerate(lines) for name, value in row.items()]
    metrics = json.loads((tmp_path / "logged" / "stage.json").read_text())["metrics"]
    final = [["sft", "logged", "", name, str(value)] for name, value in metrics.items()]
    assert len(lines) == 3 and rows[: -len(final)] == steps and sorted(rows[-len(final) :]) == sorted(final)


def test_a_tracker_is_no_part_of_what_a_stage_makes(tmp_path, init, expert, monkeypatch):
    monkeypatch.setenv("NUMBERS", str(tmp_path / "numbers.csv"))
    assert sft(tmp_path / "plain", init, expert).exit_code == sft(tmp_path / "logged", init, expert, "--log", CSV).exit_code == 0
    assert sha256_file(tmp_path / "plain" / "stage.json") == sha256_file(tmp_path / "logged" / "stage.json")


def test_a_tracker_that_raises_is_named_with_its_line_once_and_told_no_more(tmp_path, file, capsys):
    with tracking([f"{file}:Failing"], tmp_path) as track:
        for step in range(4):
            track("sft", tmp_path, step, {"loss": 1.0})
    said = capsys.readouterr()
    assert said.out == "told 0\ntold 1\n"
    assert said.err.count("fails and is told no more") == 1 and "own.py line 6 raises OSError: no network" in said.err
    assert (tmp_path / "metrics.jsonl").read_text() == '{"loss": 1.0}\n' * 4


def test_a_tracker_that_cannot_be_made_ends_nothing(tmp_path, file, capsys):
    with tracking([f"{file}:Unborn"]) as track:
        track("sft", tmp_path, 0, {"loss": 1.0})
    assert "own.py line 30 raises OSError: no login" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "line"), [("Unborn", 30), ("Leaving", 14)])
def test_a_stage_with_a_broken_tracker_goes_on_and_is_told_of_it_once(name, line, tmp_path, file, init, expert):
    result = sft(tmp_path / "made", init, expert, "--log", f"{file}:{name}")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("is told no more") == 1 and f"own.py line {line} raises" in result.stderr
    assert len((tmp_path / "made" / "metrics.jsonl").read_text().splitlines()) == 3


def test_the_next_stage_tries_a_tracker_again(tmp_path, file, init, expert):
    said = [sft(tmp_path / name, init, expert, "--log", f"{file}:Unborn").stderr for name in ("one", "two")]
    assert [each.count("is told no more") for each in said] == [1, 1]


def test_who_interrupts_a_tracker_interrupts_the_stage(tmp_path, file):
    with pytest.raises(KeyboardInterrupt), tracking([f"{file}:Stopped"], tmp_path) as track:
        track("sft", tmp_path, 0, {"loss": 1.0})


@pytest.mark.parametrize(
    ("name", "said"),
    [("wandbb", "there is no tracker 'wandbb'"), ("own.py:Missing", "has no Missing"), ("own.py:NOTHING", "it cannot be called")],
)
def test_a_tracker_that_is_none_is_refused_before_the_work(file, name, said, monkeypatch):
    monkeypatch.chdir(file.parent)
    with pytest.raises(GtrTurboError, match=said):
        require_trackers([name])


NONE = """
import functools

class Whole:
    def log(self, stage, out, step, numbers):
        pass

    def close(self):
        pass

class NoLog:
    def close(self):
        pass

class NoClose:
    def log(self, stage, out, step, numbers):
        pass

class LogIsText(Whole):
    log = "numbers.csv"

class FewArguments(Whole):
    def log(self, step, numbers):
        pass

class NamedOnly(Whole):
    def log(self, *, stage, out, step, numbers):
        pass

class ClosesWhat(Whole):
    def close(self, why):
        pass

class Wants(Whole):
    def __init__(self, folder):
        pass

def wants(folder):
    return Whole()

class Defaults(Whole):
    def __init__(self, folder="."):
        pass

class Static(Whole):
    @staticmethod
    def log(stage, out, step, numbers, more=None):
        pass

    @classmethod
    def close(cls):
        pass

class Anything:
    def __getattr__(self, name):
        return print

class Many(Whole):
    def log(self, *told, **more):
        pass

def make(folder="."):
    return Whole()

PART = functools.partial(Wants, ".")
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("NoLog", "it has no log"),
        ("NoClose", "it has no close"),
        ("LogIsText", "its log cannot be called"),
        ("FewArguments", "its log takes other arguments"),
        ("NamedOnly", "its log takes other arguments"),
        ("ClosesWhat", "its close takes other arguments"),
        ("Wants", "it wants arguments"),
        ("wants", "it wants arguments"),
    ],
)
def test_a_tracker_that_could_not_be_told_is_refused_before_the_work(tmp_path, name, said):
    (tmp_path / "none.py").write_text(NONE)
    with pytest.raises(GtrTurboError, match=f"{name} makes no tracker: {said}") as error:
        require_trackers([f"{tmp_path / 'none.py'}:{name}"])
    assert error.value.fix


def test_a_tracker_may_be_made_in_many_ways(tmp_path):
    (tmp_path / "none.py").write_text(NONE)
    require_trackers(
        [f"{tmp_path / 'none.py'}:{name}" for name in ("Whole", "Defaults", "Static", "Anything", "Many", "make", "PART")]
    )
    require_trackers(["jsonl"])


KEEPING = """
import json

class Keeping:
    def log(self, stage, out, step, numbers):
        assert all(type(value) in (int, float, bool) for value in numbers.values()), numbers
        print(json.dumps(numbers))

    def close(self):
        pass
"""


def test_a_tracker_is_told_numbers_of_pythons_own(tmp_path, capsys):
    (tmp_path / "keeping.py").write_text(KEEPING)
    with tracking([f"{tmp_path / 'keeping.py'}:Keeping"]) as track:
        track("sft", tmp_path, 0, {"loss": np.float32(0.5), "rate": np.float64(0.25), "tokens": np.int64(3), "steps": 4})
    said = capsys.readouterr()
    assert json.loads(said.out) == {"loss": 0.5, "rate": 0.25, "tokens": 3, "steps": 4} and not said.err


def test_the_built_in_tracker_writes_its_file_once_however_often_it_is_named(tmp_path):
    with tracking(["jsonl", "jsonl"], tmp_path) as track:
        track("sft", tmp_path, 0, {"step": 0, "loss": 0.5})
        track("sft", tmp_path, None, {"steps": 1})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 0, "loss": 0.5}\n'


def test_a_tracker_that_is_none_ends_a_stage_before_it_begins(tmp_path):
    out = tmp_path / "turns"
    with pytest.raises(GtrTurboError, match="there is no tracker 'wandbb'"):
        execute(RolloutConfig(out=out, task="numberline", env=("image=tiny",), expert=True, episodes=1, log=("wandbb",)))
    assert list(tmp_path.iterdir()) == []
