"""The loops by hand under examples/: the same commands as a plan."""

import dataclasses
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from parsed import parsed

from gtrturbo.config import DistillConfig, MergeConfig, RunConfig
from gtrturbo.runs.plan import plan

ROOT = Path(__file__).parents[2]
SPY = """#!/usr/bin/env bash
# Note the command, and pretend to have done it.
printf '%q ' "$@" >> "$NOTES"; echo >> "$NOTES"
while [ "$1" != --out ]; do shift; done
mkdir -p "$2"; touch "$2/stage.json"; echo "$2"
"""


@pytest.fixture
def spy(tmp_path):
    """Run a program with a gtrturbo that only notes its commands; return the configs that they stand for."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gtrturbo").write_text(SPY)
    (tmp_path / "bin" / "gtrturbo").chmod(0o755)
    notes = tmp_path / "notes"

    def watch(*words: str, **settings: str) -> list:
        notes.write_text("")
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        home = os.environ | {"PATH": path, "NOTES": str(notes), "OUT": str(tmp_path / "r")} | settings
        process = subprocess.run(words, cwd=ROOT, env=home, capture_output=True, text=True, check=False)
        assert process.returncode == 0, process.stderr
        return [parsed(line) for line in notes.read_text().splitlines()]

    return watch


def essence(config):
    """Leave out what may differ between a loop by hand and a plan: seeds, and what the stage does not look at."""
    if isinstance(config, MergeConfig):
        return replace(config, checkpoints=tuple(path for path in config.checkpoints if path != config.base))
    if isinstance(config, DistillConfig) and config.mode == "kl":  # which samples nothing
        config = replace(config, temperature=0.2, max_new_tokens=256)
    return replace(config, seed=0)


def essences(configs: list) -> list:
    return sorted(map(essence, configs), key=lambda config: str(config.out))


LOOP = ("examples/loop.sh",)
MAKE = ("make", "-C", "examples", "GTRTURBO=gtrturbo")


@pytest.mark.parametrize("words", [LOOP, MAKE], ids=["bash", "make"])
def test_an_example_is_the_run_by_hand(words, spy, tmp_path):
    found = spy(*words, ITERATIONS="3")
    expected = [step.config for step in plan(RunConfig(out=tmp_path / "r", method="turbo-kl", iterations=3, env=("horizon=5",)))]
    assert essences(found) == essences(expected)
    made: set[Path] = set()
    for config in found:  # each step comes after what it reads
        assert set(_paths(config)) <= made
        made.add(config.out)


def _paths(config) -> list[Path]:
    values = [getattr(config, f.name) for f in dataclasses.fields(config) if f.name not in ("out", "cache")]
    lists = [value if isinstance(value, tuple) else (value,) for value in values]
    return [value for values in lists for value in values if isinstance(value, Path)]


@pytest.mark.parametrize("words", [LOOP, MAKE], ids=["bash", "make"])
def test_an_example_plays_other_episodes_in_each_iteration(words, spy):
    found = spy(*words, ITERATIONS="3")
    for kind in ("RolloutConfig", "PpoStepConfig"):
        seeds = [config.seed for config in found if type(config).__name__ == kind]
        assert len(set(seeds)) == len(seeds) >= 3


def test_examples_are_the_same_run(spy, tmp_path):
    by_bash = spy(*LOOP, ITERATIONS="2")
    shutil.rmtree(tmp_path / "r")
    by_make = spy(*MAKE, ITERATIONS="2")
    assert sorted(map(repr, by_bash)) == sorted(map(repr, by_make))


def test_make_goes_on_where_it_was(spy):
    assert len(spy(*MAKE, ITERATIONS="1")) == 9
    assert spy(*MAKE, ITERATIONS="1") == []
    # One more iteration: teacher, turns, guidance, checkpoint, and the last evaluation.
    assert [config.out.parent.name for config in spy(*MAKE, ITERATIONS="2")] == [
        *("teachers", "rollouts", "guidance", "checkpoints", "evals"),
    ]


def test_examples_parse():
    subprocess.run(["bash", "-n", "examples/loop.sh"], cwd=ROOT, check=True)
    # Among that many prerequisites make can take exponential time; .SECONDARY without names did.
    long = ["make", "-n", "-C", "examples", "OUT=/nonexistent/run", "ITERATIONS=40"]
    subprocess.run(long, check=True, cwd=ROOT, capture_output=True, timeout=60)
