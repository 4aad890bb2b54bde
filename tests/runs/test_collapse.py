"""A run whose policy cannot be trained on ends as collapsed: with its table, its record and an exit code of its own."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from made_runs import make_run
from small_runs import small
from typer.testing import CliRunner

from gtrturbo.analysis.comparison import comparison
from gtrturbo.analysis.history import Collapsed, read_history, record_run
from gtrturbo.cli import app
from gtrturbo.config import RunConfig
from gtrturbo.errors import Collapse
from gtrturbo.runs import execute as module

WHY = "every turn of runs/small/rollouts/0000 is illegal"
MUTE = ("--eval-every", "0", "--method", "ppo", "--set", "rollout.max-new-tokens=3")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "runs" / "small"


def ended(result) -> str:
    assert (result.exit_code, result.stdout) == (3, ""), result.output
    return " ".join(result.stderr.split())


@pytest.mark.parametrize("apart", [(), ("--subprocess",)], ids=["in one process", "in processes"])
def test_a_run_whose_replies_are_all_illegal_ends_as_collapsed(here, init, apart):
    words = small(2, "--start", str(init), *MUTE)
    if apart:  # Only the update is left to a process of its own.
        CliRunner().invoke(app, words)
    told = ended(CliRunner().invoke(app, [*words, *apart]))
    assert "collapsed; 4 episodes on the same deals" in told
    assert "the run collapsed at iteration 1, ppo-step: " in told and "for a page of them: gtrturbo report runs/small" in told
    found = json.loads((here / "run.json").read_text())["collapsed"]
    assert (found["iteration"], found["stage"]) == (1, "ppo-step")
    assert apart or found["what"].startswith(WHY)
    assert not (here / "checkpoints" / "0001").exists() and [path.name for path in (here / "evals").iterdir()] == ["0000"]


def test_a_run_whose_update_gives_no_finite_step_ends_as_collapsed(here, warm):
    rate = ("--set", "ppo-step.learning-rate=1e9", "--set", "ppo-step.minibatch-size=2")
    told = ended(CliRunner().invoke(app, small(1, "--start", str(warm), "--eval-every", "0", "--method", "ppo", *rate)))
    assert "the run collapsed at iteration 1, ppo-step: " in told
    shown = CliRunner().invoke(app, ["show", str(here)])
    assert shown.exit_code == 0 and "collapsed at iteration 1, ppo-step: " in shown.stdout
    assert read_history(here).collapsed is not None and sorted(read_history(here).at("student")) == [0, 1]


def test_the_last_checkpoint_is_evaluated_and_stands_where_the_plan_would_have_gone_on(here, warm, monkeypatch):
    real = module.execute

    def breaks_at_the_second_update(config):
        if config.out.as_posix().endswith("checkpoints/0002"):
            raise Collapse("policy_loss is nan.", "nothing was written.")
        return real(config)

    monkeypatch.setattr(module, "execute", breaks_at_the_second_update)
    words = small(4, "--start", str(warm), "--eval-every", "3", "--method", "ppo")
    ended(CliRunner().invoke(app, words))
    run = read_history(here)
    assert run.collapsed == Collapsed(2, "ppo-step", "policy_loss is nan.")
    assert [entry.iteration for entry in run.entries["student"]] == [0, 1]
    assert {k: entry.path.name for k, entry in run.at("student").items()} == {0: "0000", 1: "0001", 3: "0001", 4: "0001"}
    # What goes on to the end is no longer collapsed.
    monkeypatch.setattr(module, "execute", real)
    assert (
        CliRunner().invoke(app, small(2, "--start", str(warm), "--eval-every", "3", "--method", "ppo", "--overwrite")).exit_code
        == 0
    )
    assert read_history(here).collapsed is None


@pytest.fixture
def three(tmp_path):
    """Two runs that are done, and one that collapsed after its second update."""
    why = Collapsed(3, "ppo-step", "policy_loss is nan at epoch 0, minibatch 1 (turns 0-63).")
    whole: dict[int, Sequence[int]] = {0: [1, 0, 0, 0], 5: [1, 1, 1, 0]}
    paths = [make_run(tmp_path / f"ppo-{seed}", "ppo", seed, whole, iterations=5) for seed in (0, 1)]
    fell = make_run(tmp_path / "kl-0", "turbo-kl", 0, {0: [1, 0, 0, 0], 2: [0, 1, 0, 0]}, iterations=5)
    record_run(RunConfig(out=fell, method="turbo-kl", seed=0, iterations=5), replace=True, collapsed=why)
    return [*paths, fell]


def test_a_collapsed_run_is_compared_at_the_end_by_what_it_came_to(three):
    result = comparison([read_history(path) for path in three])
    assert result.last == {"numberline": 5}
    found = {each.method: each.value.mean for each in result.estimates if (each.iteration, each.metric) == (5, "success_rate")}
    assert found == {"ppo": 0.75, "turbo-kl": 0.25}
    assert result.notes[0] == (
        "numberline, turbo-kl, seed 0: collapsed at iteration 3, ppo-step: policy_loss is nan at epoch 0, minibatch 1 (turns "
        "0-63). From there on its last evaluation counts."
    )


def test_the_table_and_the_page_say_that_a_run_collapsed(three, tmp_path):
    paths = [str(path) for path in three]
    table = CliRunner().invoke(app, ["compare", *paths])
    assert table.exit_code == 0 and "seed 0: collapsed at iteration 3" in " ".join(table.stdout.split())
    page = CliRunner().invoke(app, ["report", *paths, "--out", str(tmp_path / "page.html")])
    assert page.exit_code == 0, page.output
    assert "collapsed at iteration 3" in (tmp_path / "page.html").read_text()


def test_seconds_of_an_evaluation_that_stands_for_later_ones_count_once(three):
    run = read_history(three[-1])
    assert run.seconds == replace(run, collapsed=None).seconds
