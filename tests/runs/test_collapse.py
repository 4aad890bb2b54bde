"""A run whose policy cannot be trained on ends as collapsed: with its table, its record and an exit code of its own."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from made_runs import DEALS, evaluation, make_run
from small_runs import small
from typer.testing import CliRunner

from gtrturbo.analysis.comparison import comparison
from gtrturbo.analysis.history import read_history
from gtrturbo.analysis.intervals import Interval
from gtrturbo.analysis.levels import as_chance
from gtrturbo.analysis.record import Collapsed, record_run
from gtrturbo.cli import app
from gtrturbo.config import RunConfig
from gtrturbo.errors import Collapse
from gtrturbo.report import FELL
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
    assert found["what"].startswith(WHY) and told.count(WHY) == 1
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
    """Two runs that are done, and one that won half of its deals, twice as many as by chance, and then collapsed."""
    why = Collapsed(3, "ppo-step", "policy_loss is nan at epoch 0, minibatch 1 (turns 0-63).")
    whole: dict[int, Sequence[int]] = {0: [1, 0, 0, 0], 5: [1, 1, 1, 0]}
    paths = [make_run(tmp_path / f"ppo-{seed}", "ppo", seed, whole, iterations=5) for seed in (0, 1)]
    fell = make_run(tmp_path / "kl-0", "turbo-kl", 0, {0: [1, 0, 0, 0], 2: [0, 1, 1, 0]}, iterations=5)
    record_run(RunConfig(out=fell, method="turbo-kl", seed=0, iterations=5), replace=True, collapsed=why)
    return [*paths, fell]


def test_a_collapsed_run_counts_as_chance_without_a_word_and_with_its_last_evaluation_in_the_rest(three):
    at = read_history(three[-1]).at("student")
    # The best single action wins 0.25 and earns -0.5; random ones win less. Its last four deals: half won, at 1 or -1 each.
    assert [at[k].metrics["success_rate"] for k in (0, 2, 5)] == [0.25, 0.5, 0.25]
    assert [at[k].metrics["return_mean"] for k in (0, 2, 5)] == [-0.5, 0.0, -0.5]
    assert [at[k].metrics["thought_accuracy"] for k in (0, 2, 5)] == [0.25, 0.5, 0.0]
    assert [at[k].metrics["illegal_rate"] for k in (0, 2, 5)] == [0.0, 0.0, 1.0]
    assert at[5].metrics["thought_length"] == at[2].metrics["thought_length"] > 0
    assert [at[k].collapsed for k in (0, 2)] == [None, None]


def test_of_two_ways_to_play_by_chance_the_better_one_counts_and_none_that_was_not_measured():
    either = {"chance_random": 0.3, "chance_random_return": -2.0, "chance_constant": 0.1, "chance_constant_return": 5.0}
    assert as_chance(either) == {"success_rate": 0.3, "return_mean": -2.0}
    assert as_chance(either | {"chance_constant": 0.3}) == {"success_rate": 0.3, "return_mean": 5.0}
    assert as_chance({"chance_random": 0.3}) == {"success_rate": 0.3}
    assert as_chance({"success_rate": 0.9}) == {}


def test_where_chance_was_not_measured_the_last_evaluation_counts_and_that_is_said(tmp_path):
    fell = make_run(tmp_path / "kl", "turbo-kl", 0, {0: [1, 0], 2: [1, 1]}, chance={}, iterations=5)
    record_run(
        RunConfig(out=fell, method="turbo-kl", seed=0, iterations=5), replace=True, collapsed=Collapsed(3, "rollout", "no.")
    )
    result = comparison([read_history(fell)])
    assert [e.value.mean for e in result.estimates if (e.iteration, e.metric) == (5, "success_rate")] == [1.0]
    assert result.notes[0].endswith("rollout: no. Chance was not measured, so from there on its last evaluation counts.")


def test_a_collapsed_run_of_one_seed_has_no_deals_to_pair_and_no_interval_but_counts(three):
    result = comparison([read_history(path) for path in (three[0], three[-1])], "ppo")
    (kl,) = [e for e in result.estimates if (e.method, e.iteration, e.metric) == ("turbo-kl", 5, "success_rate")]
    assert (kl.value, kl.difference) == (Interval(0.25, None, None), Interval(-0.5, None, None))
    assert (kl.paired_by, kl.pairs, kl.losses, kl.resolved) == ("seed", 1, 1, False)
    assert any(note.endswith("is not resolved: one pair of seeds has no interval.") for note in result.unresolved)


def test_a_teacher_of_a_run_that_collapsed_before_it_has_no_student_to_be_compared_with(tmp_path):
    won: dict[int, Sequence[int]] = {0: [1, 0], 1: [1, 1]}
    fell = make_run(tmp_path / "kl", "turbo-kl", 0, won, teachers={1: [1, 1], 2: [1, 1]}, iterations=2, eval_every=1)
    why = Collapsed(2, "distill", "no.")
    record_run(RunConfig(out=fell, method="turbo-kl", seed=0, iterations=2, eval_every=1), replace=True, collapsed=why)
    assert [gap.iteration for gap in comparison([read_history(fell)]).gaps] == [1]


def test_rollouts_that_a_collapsed_run_did_not_come_to_count_as_chance_too(three):
    evaluation(three[-1] / "rollouts" / "0000", [1, 1, 0, 0], "start", DEALS, chance={})
    evaluation(three[-1] / "rollouts" / "0002", [1, 1, 1, 0], "start", DEALS, chance={})
    played = {k: entry.metrics["success_rate"] for k, entry in read_history(three[-1]).at("rollouts").items()}
    assert played == {0: 0.5, 2: 0.75, 3: 0.25, 4: 0.25}


def test_a_collapsed_run_counts_as_chance_at_the_end(three):
    result = comparison([read_history(path) for path in three])
    assert result.last == {"numberline": 5}
    found = {each.method: each.value.mean for each in result.estimates if (each.iteration, each.metric) == (5, "success_rate")}
    assert found == {"ppo": 0.75, "turbo-kl": 0.25}
    assert result.notes[0] == (
        "numberline, turbo-kl, seed 0: collapsed at iteration 3, ppo-step: policy_loss is nan at epoch 0, minibatch 1 (turns "
        "0-63). From there on it counts as chance, success 0.250, with no legal reply and no true thought."
    )


def area(runs: Sequence[Path], method: str, metric: str) -> float:
    (found,) = [
        e for e in comparison([read_history(path) for path in runs]).estimates if (e.method, e.metric) == (method, metric)
    ]
    return found.value.mean


def test_the_area_of_a_collapsed_run_is_that_of_chance_from_its_end_on(three):
    # Success 0.25 at 0, 0.5 at 2, where it was evaluated last, chance 0.25 from 3 to 5:
    # 2 · 0.375 + 1 · 0.375 + 2 · 0.25 = 1.625 over 5 iterations. Returns are -0.5, 0, -0.5 there: 2 · -0.25 + -0.25 + 2 · -0.5.
    assert area(three, "turbo-kl", "success_area") == pytest.approx(1.625 / 5)
    assert area(three, "turbo-kl", "return_area") == pytest.approx(-1.75 / 5)
    assert area(three, "ppo", "success_area") == pytest.approx((0.25 + 0.75) / 2)


def test_a_collapsed_run_does_not_shorten_those_beside_it(three, tmp_path):
    longer = [
        make_run(tmp_path / f"long-{seed}", "ppo", seed, {0: [1, 0, 0, 0], 5: [1, 1, 0, 0], 10: [1, 1, 1, 1]}, iterations=10)
        for seed in (0, 1)
    ]
    runs = [*longer, three[-1]]
    result = comparison([read_history(path) for path in runs])
    assert result.last == {"numberline": 10}
    assert [e.value.mean for e in result.estimates if (e.method, e.iteration, e.metric) == ("turbo-kl", 10, "success_rate")] == [
        0.25
    ]
    # (0.25 + 0.5) / 2 · 5 + (0.5 + 1) / 2 · 5 = 5.625; and as above, then five more iterations of chance.
    assert area(runs, "ppo", "success_area") == pytest.approx(5.625 / 10)
    assert area(runs, "turbo-kl", "success_area") == pytest.approx((1.625 + 5 * 0.25) / 10)


def test_a_run_that_ended_after_what_is_compared_has_the_area_that_it_has(three, tmp_path):
    short = make_run(tmp_path / "short", "ppo", 0, {0: [1, 0, 0, 0], 2: [1, 1, 1, 0]}, iterations=2)
    assert area([short, three[-1]], "turbo-kl", "success_area") == pytest.approx((0.25 + 0.5) / 2)


def test_the_table_and_the_page_say_that_a_run_collapsed(three, tmp_path):
    paths = [str(path) for path in three]
    table = CliRunner().invoke(app, ["compare", *paths])
    told = " ".join(table.stdout.split())
    assert table.exit_code == 0 and "seed 0: collapsed at iteration 3" in told and "collapsed 0 of 2 1 of 1; seed 0 at 3" in told
    page = CliRunner().invoke(app, ["report", *paths, "--out", str(tmp_path / "page.html")])
    assert page.exit_code == 0, page.output
    text = (tmp_path / "page.html").read_text()
    assert "collapsed at iteration 3, ppo-step</td>" in text and "1 of 1; seed 0 at 3" in text and FELL in text


def test_a_page_of_runs_that_did_not_collapse_does_not_speak_of_it(three, tmp_path):
    page = CliRunner().invoke(app, ["report", *map(str, three[:2]), "--out", str(tmp_path / "page.html")])
    text = (tmp_path / "page.html").read_text()
    assert page.exit_code == 0 and FELL not in text and "runs that collapsed" not in text


def test_seconds_of_an_evaluation_that_stands_for_later_ones_count_once(three):
    run = read_history(three[-1])
    assert run.seconds == replace(run, collapsed=None).seconds
