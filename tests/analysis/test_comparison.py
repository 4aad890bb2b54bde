"""compare: which runs pair, what the numbers are, and that it says what they cannot show."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from made_runs import make_run
from scipy import stats
from typer.testing import CliRunner

from gtrturbo.analysis.comparison import Comparison, Estimate, comparison, final
from gtrturbo.analysis.groups import method_names
from gtrturbo.analysis.history import read_history
from gtrturbo.analysis.record import Collapsed, record_run
from gtrturbo.cli import app
from gtrturbo.config import RunConfig
from gtrturbo.errors import GtrTurboError

TASK = "numberline"


def outcomes(wins: int, deals: int = 20) -> list[int]:
    return [1] * wins + [0] * (deals - wins)


def compared(runs: list[Path], baseline: str | None = None) -> Comparison:
    return comparison([read_history(run) for run in runs], baseline)


def estimate(result: Comparison, method: str, metric: str = "success_rate", task: str = TASK) -> Estimate:
    found = final(result, task, method, metric)
    assert found is not None
    return found


# Wins of 20 deals at iterations 0 and 4, by seed. Turbo less PPO at the end: 4, 2, 2, 3, 0, 2 deals.
PPO = {0: (8, 10), 1: (9, 11), 2: (7, 12), 3: (8, 9), 4: (10, 12), 5: (9, 10)}
TURBO = {0: (8, 14), 1: (9, 13), 2: (7, 14), 3: (8, 12), 4: (10, 12), 5: (9, 12)}


def make_all(folder: Path, wins: dict[int, tuple[int, int]], method: str, **settings) -> list[Path]:
    return [
        make_run(folder / f"{method}-{seed}", method, seed, {0: outcomes(a), 4: outcomes(b)}, start=f"s{seed}", **settings)
        for seed, (a, b) in wins.items()
    ]


@pytest.fixture
def runs(tmp_path) -> list[Path]:
    return [*make_all(tmp_path, TURBO, "turbo-kl"), *make_all(tmp_path, PPO, "ppo")]


def test_means_differences_and_counts_are_as_by_hand(runs):
    result = compared(runs)
    turbo, ppo = estimate(result, "turbo-kl"), estimate(result, "ppo")
    assert (result.baseline, result.last, result.chance) == ("ppo", {TASK: 4}, {TASK: 0.25})
    assert ppo.value.mean == pytest.approx(64 / 120) and turbo.value.mean == pytest.approx(77 / 120)
    assert turbo.seeds == ppo.seeds == [0, 1, 2, 3, 4, 5]
    assert turbo.difference is not None and turbo.difference.mean == pytest.approx(13 / 120)
    assert (turbo.wins, turbo.ties, turbo.losses, turbo.paired_by, turbo.pairs) == (5, 1, 0, "seed", 6)
    assert ppo.difference is None and ppo.resolved is None
    assert result.notes == []
    # Five wins and a tie: of 2⁶ signs those of the tie change nothing, so 4 of 64 are as far out.
    assert turbo.p == pytest.approx(4 / 64) and turbo.resolved is False
    assert result.unresolved == [
        "numberline: the difference in success between turbo-kl and ppo is not resolved: the exact sign-flip test has p = 0.062."
    ]


def test_the_interval_of_the_difference_is_that_of_the_pairs(runs):
    turbo = estimate(compared(runs), "turbo-kl")
    assert turbo.difference is not None and turbo.difference.low is not None and turbo.difference.high is not None
    # Within rounding of the resampling, Student's interval of the paired differences; unpaired it would include 0.
    differences = np.array([4, 2, 2, 3, 0, 2]) / 20
    student = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert (turbo.difference.low, turbo.difference.high) == pytest.approx((student.low, student.high), abs=0.03)


def test_a_difference_is_resolved_where_interval_and_exact_test_agree(tmp_path):
    won = TURBO | {4: (10, 13)}
    result = compared([*make_all(tmp_path, won, "turbo-kl"), *make_all(tmp_path, PPO, "ppo")])
    turbo = estimate(result, "turbo-kl")
    assert (turbo.p, turbo.resolved, result.unresolved) == (pytest.approx(2 / 64), True, [])


def test_areas_are_means_of_trapezoids_over_the_shared_iterations(runs):
    result = compared(runs)
    area = estimate(result, "turbo-kl", "success_area")
    assert area.value.mean == pytest.approx(np.mean([(a + b) / 40 for a, b in TURBO.values()]))
    assert area.difference is not None and area.difference.mean == pytest.approx(13 / 240)
    assert estimate(result, "ppo", "return_area").value.mean == pytest.approx(
        np.mean([(a + b) / 20 - 1 for a, b in PPO.values()])
    )


def test_a_baseline_is_chosen_by_name_and_an_unknown_one_refused(runs):
    result = compared(runs, "turbo-kl")
    ppo = estimate(result, "ppo")
    assert ppo.difference is not None and ppo.difference.mean == pytest.approx(-13 / 120)
    assert (ppo.wins, ppo.ties, ppo.losses) == (0, 1, 5)
    with pytest.raises(GtrTurboError, match="there is no method gtr"):
        compared(runs, "gtr")


def test_a_difference_whose_interval_includes_0_is_called_unresolved(tmp_path):
    mixed = {seed: (8, wins) for seed, wins in enumerate((12, 8, 13, 9, 12, 8))}
    result = compared([*make_all(tmp_path, mixed, "turbo-kl"), *make_all(tmp_path, PPO, "ppo")])
    assert estimate(result, "turbo-kl").resolved is False
    assert result.unresolved == [
        "numberline: the difference in success between turbo-kl and ppo is not resolved: its interval includes 0."
    ]


def test_chance_that_was_not_measured_is_not_0(tmp_path):
    run = make_run(tmp_path / "run", "ppo", 0, {0: [1, 0], 1: [1, 1]}, chance={})
    assert compared([run]).chance == {TASK: None}
    result = CliRunner().invoke(app, ["compare", str(run), "--out", str(tmp_path / "out")])
    assert "numberline, iteration 1; chance not measured" in " ".join(result.stdout.split())
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["chance"] == {TASK: None}


def test_of_many_differences_chance_is_told(tmp_path):
    runs = [*make_all(tmp_path, TURBO, "turbo-kl"), *make_all(tmp_path, PPO, "ppo"), *make_all(tmp_path, PPO, "gtr")]
    result = compared(runs)
    ends = [e for e in result.estimates if e.difference and e.iteration in (4, None)]
    assert [note for note in result.notes if "by chance alone" in note] == [
        f"{len(ends)} differences are told, each as if it were the only one: of 20 about one is resolved by chance alone. "
        "0 are resolved, 0 of them with Holm's correction for their number, too."
    ]


def test_few_seeds_resolve_nothing_however_far_apart(tmp_path):
    few = [*make_all(tmp_path, {0: (0, 20), 1: (0, 20)}, "turbo-kl"), *make_all(tmp_path, {0: (0, 1), 1: (0, 2)}, "ppo")]
    result = compared(few)
    turbo = estimate(result, "turbo-kl")
    assert turbo.difference is not None and turbo.difference.resolved and turbo.resolved is False
    assert "2 seeds; with fewer than 6 no difference" in result.notes[0]
    assert "2 pairs are too few" in result.unresolved[0]


def test_seeds_that_do_not_pair_are_named_and_left_out(tmp_path):
    turbo = make_all(tmp_path, {seed: TURBO[seed] for seed in (0, 1, 2, 3, 4)}, "turbo-kl")
    ppo = make_all(tmp_path, {seed: PPO[seed] for seed in (1, 2, 3, 4, 5)}, "ppo")
    result = compared([*turbo, *ppo])
    found = estimate(result, "turbo-kl")
    assert (found.pairs, found.seeds) == (4, [0, 1, 2, 3, 4])
    assert found.difference is not None and found.difference.mean == pytest.approx(7 / 80)
    assert any("seeds 0, 5 of turbo-kl and ppo do not pair" in note for note in result.notes)


def test_runs_that_did_not_start_from_one_checkpoint_are_named(tmp_path):
    ours = make_run(tmp_path / "a", "turbo-kl", 0, {0: outcomes(4)}, start="aaaaaaaa")
    theirs = make_run(tmp_path / "b", "ppo", 0, {0: outcomes(4)}, start="bbbbbbbb")
    assert "numberline, seed 0: turbo-kl started from aaaaaa, ppo from bbbbbb." in compared([ours, theirs]).notes


def test_one_seed_is_paired_by_deals_with_wilsons_interval_around_each(tmp_path):
    ppo = make_run(tmp_path / "ppo", "ppo", 3, {0: [1, 1, 0, 0, 0, 0, 1, 0]})
    turbo = make_run(tmp_path / "turbo", "turbo-kl", 3, {0: [1, 0, 1, 1, 0, 1, 1, 0]})
    result = compared([ppo, turbo])
    found = estimate(result, "turbo-kl")
    wilson = stats.binomtest(5, 8).proportion_ci(0.95, method="wilson")
    assert (found.value.low, found.value.high) == pytest.approx((wilson.low, wilson.high))
    assert (found.wins, found.ties, found.losses, found.paired_by, found.pairs) == (3, 4, 1, "deal", 8)
    differences = [0, -1, 1, 1, 0, 1, 0, 0]
    half = 1.959963984540054 * np.std(differences, ddof=1) / math.sqrt(8)
    assert found.difference is not None
    assert (found.difference.mean, found.difference.low, found.difference.high) == pytest.approx((0.25, 0.25 - half, 0.25 + half))
    assert estimate(result, "turbo-kl", "return_mean").value.low is None
    assert [note for note in result.notes if "one seed only" in note]
    assert found.p == pytest.approx(stats.binomtest(3, 4).pvalue)


def test_one_seed_against_one_seed_resolves_nothing_however_far_apart(tmp_path):
    ppo = make_run(tmp_path / "ppo", "ppo", 3, {0: [0] * 20})
    turbo = make_run(tmp_path / "turbo", "turbo-kl", 3, {0: [1] * 19 + [0]})
    result = compared([ppo, turbo])
    found = estimate(result, "turbo-kl")
    assert found.difference is not None and found.difference.resolved and found.p is not None and found.p < 1e-4
    assert found.resolved is False
    assert result.unresolved[0].endswith("is not resolved: one seed tells of other deals, not of other seeds.")


def test_settings_that_differ_are_part_of_the_methods_name_and_others_are_not(tmp_path):
    shared = "rollout.temperature=0.7"
    ema = make_run(tmp_path / "a", "turbo-kl", 0, {0: outcomes(3)}, set=(shared, "merge.weights=ema:0.5"))
    sma = make_run(tmp_path / "b", "turbo-kl", 0, {0: outcomes(4)}, set=(shared,), eval_every=1)
    ppo = make_run(tmp_path / "c", "ppo", 0, {0: outcomes(4)}, episodes=99)
    result = compared([ema, sma, ppo], "ppo")
    assert [each.method for each in result.estimates if each.metric == "success_rate"] == [
        "turbo-kl merge.weights=ema:0.5",
        "turbo-kl",
        "ppo",
    ]


def test_a_label_names_runs_whatever_they_differ_in(tmp_path):
    teachers = [Path("one"), Path("two")]
    named = [make_run(tmp_path / str(s), "gtr", s, {0: outcomes(3)}, label="far", teacher=teachers[s]) for s in (0, 1)]
    plain = [make_run(tmp_path / "c", "gtr", 0, {0: outcomes(4)}), make_run(tmp_path / "d", "gtr", 1, {0: outcomes(4)})]
    found = [each for each in compared([*named, *plain], "gtr").estimates if each.metric == "success_rate"]
    assert [(each.method, each.seeds) for each in found] == [("far", [0, 1]), ("gtr", [0, 1])]


def test_a_run_recorded_before_there_was_an_option_counts_with_its_default(tmp_path):
    old, new, rare = (
        make_run(tmp_path / f"{seed}", "turbo-kl", seed, {0: outcomes(3)}, merge_every=every)
        for seed, every in enumerate((1, 1, 5))
    )
    record = json.loads((old / "run.json").read_text())
    del record["config"]["merge_every"]
    (old / "run.json").write_text(json.dumps(record))
    names = method_names([read_history(path) for path in (old, new, rare)])
    assert names == ["turbo-kl merge-every=1", "turbo-kl merge-every=1", "turbo-kl merge-every=5"]


def test_two_runs_of_one_method_and_seed_are_refused(tmp_path):
    twice = [make_run(tmp_path / name, "ppo", 0, {0: outcomes(3)}) for name in "ab"]
    with pytest.raises(GtrTurboError, match="are both ppo with seed 0"):
        compared(twice)


def test_another_panel_and_another_version_of_an_environment_are_refused(tmp_path):
    runs = [
        make_run(tmp_path / name, method, 0, {0: outcomes(3)}) for name, method in zip("ab", ("ppo", "turbo-kl"), strict=True)
    ]
    panel, played = {"name": "held-out", "sha256": 64 * "1"}, {"name": "X-v0", "version": "x 1"}

    def say(run, **plugins):
        file = run / "evals" / "0000" / "stage.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"plugins": plugins}))

    for run in runs:
        say(run, panel=panel, task=played)
    assert compared(runs)
    say(runs[1], panel=panel | {"sha256": 64 * "2"}, task=played)
    with pytest.raises(GtrTurboError, match=f"was evaluated with panel of sha256 {64 * '2'}, but .* with {64 * '1'}"):
        compared(runs)
    say(runs[1], panel=panel, task=played | {"version": "x 2"})
    with pytest.raises(GtrTurboError, match=r"was evaluated with environment x 2, but .* with x 1: not the same deals"):
        compared(runs)
    say(runs[1], panel=panel, task=played | {"sha256": 64 * "3"})  # Of a file of settings, or of the task's own code.
    with pytest.raises(GtrTurboError, match=f"was evaluated with a task's file of sha256 {64 * '3'}, but .* with None"):
        compared(runs)


@pytest.mark.parametrize(
    ("name", "value"), [("seed", 8), ("temperature", 0.5), ("on_invalid_reply", "end"), ("max_new_tokens", 10)]
)
def test_other_deals_are_refused(tmp_path, name, value):
    ours = make_run(tmp_path / "a", "ppo", 0, {0: outcomes(3)})
    other = make_run(tmp_path / "b", "turbo-kl", 0, {0: outcomes(3)}, deals={name: value})
    with pytest.raises(GtrTurboError, match=f"was evaluated with {name} {value}"):
        compared([ours, other])


def test_runs_that_share_no_iteration_are_refused_and_of_unequal_ones_the_shared_count(tmp_path):
    long = make_run(tmp_path / "a", "ppo", 0, {0: outcomes(3), 2: outcomes(5), 4: outcomes(9)})
    short = make_run(tmp_path / "b", "turbo-kl", 0, {0: outcomes(3), 2: outcomes(6)})
    late = make_run(tmp_path / "c", "gtr", 0, {5: outcomes(3)})
    result = compared([long, short])
    assert result.last == {TASK: 2}
    assert estimate(result, "ppo").value.mean == pytest.approx(5 / 20)
    with pytest.raises(GtrTurboError, match="share no evaluated iteration"):
        compared([long, late])


def test_teachers_are_compared_with_their_students_deal_by_deal(tmp_path):
    runs = [
        make_run(
            tmp_path / str(seed),
            "turbo-kl",
            seed,
            {0: [0, 0, 0, 0], 1: [1, 0, 0, 1], 2: [1, 1, 0, 0]},
            teachers={1: teacher, 3: [1, 1, 1, 1]},
        )
        for seed, teacher in enumerate(([1, 1, 1, 0], [1, 1, 1, 1]))
    ]
    result = compared(runs)
    told = [(gap.iteration, gap.seed, gap.difference.mean, gap.wins, gap.losses) for gap in result.gaps]
    # The teacher of iteration 3 has no student evaluated. Over the seeds wins and losses are of seeds.
    assert told == [(1, 0, 0.25, 2, 1), (1, 1, 0.5, 2, 0), (1, None, 0.375, 2, 0)]


def test_a_teachers_mean_says_how_many_seeds_it_is_over_where_some_collapsed(tmp_path):
    runs = [
        make_run(tmp_path / f"{seed}", "turbo-kl", seed, {0: [0, 0], 1: [1, 0], 2: [1, 0]}, teachers={1: [1, 1], 2: [1, 1]})
        for seed in range(2)
    ]
    fallen = make_run(tmp_path / "2", "turbo-kl", 2, {0: [0, 0], 1: [0, 0]}, teachers={1: [1, 1], 2: [1, 1]}, iterations=2)
    config = RunConfig(out=fallen, method="turbo-kl", seed=2, iterations=2)
    record_run(config, replace=True, collapsed=Collapsed(1, "ppo-step", "no reply is legal."))
    told = [(gap.iteration, gap.difference.mean, gap.seeds, gap.of) for gap in compared([*runs, fallen]).gaps if gap.seed is None]
    # At 1 the teachers win 0.5, 0.5 and 1 more; at 2 the third has no student.
    assert told == [(1, pytest.approx(2 / 3), 3, 3), (2, 0.5, 2, 3)]
    arguments = [*map(str, runs), str(fallen), "--out", str(tmp_path / "out")]
    printed = CliRunner().invoke(app, ["compare", *arguments], env={"COLUMNS": "120"}).stdout
    rows = [line.split() for line in printed.partition("merged teacher − student")[2].splitlines()]
    assert ["numberline", "turbo-kl", "2", "2", "of", "3"] in [row[:6] for row in rows]
    assert ["numberline", "turbo-kl", "1", "all"] in [row[:4] for row in rows]
    page = tmp_path / "page.html"
    CliRunner().invoke(app, ["report", *map(str, runs), str(fallen), "--out", str(page)], catch_exceptions=False)
    assert "Not over all seeds: turbo-kl at iteration 2 over 2 of 3." in page.read_text()


def test_tasks_are_kept_apart_and_averaged_alike(tmp_path):
    runs = []
    for task, deals in (("numberline", 20), ("blackjack", 10)):
        for method, wins in (("ppo", 4), ("turbo-kl", 6)):
            for seed in range(6):
                name = tmp_path / f"{task}-{method}-{seed}"
                runs.append(make_run(name, method, seed, {0: outcomes(wins + seed % 2, deals)}, task=task, start=str(seed)))
    result = compared(runs)
    assert result.last == {"numberline": 0, "blackjack": 0}
    both = next(e for e in result.estimates if (e.task, e.method) == ("all tasks", "turbo-kl"))
    assert both.value.mean == pytest.approx((6.5 / 20 + 6.5 / 10) / 2)
    assert both.difference is not None and both.difference.mean == pytest.approx((2 / 20 + 2 / 10) / 2)
    assert (both.wins, both.ties, both.losses, both.pairs) == (12, 0, 0, 6)


def test_a_method_without_a_task_or_without_a_baseline_there_is_said_so(tmp_path):
    runs = [
        make_run(tmp_path / "a", "ppo", 0, {0: outcomes(3)}),
        make_run(tmp_path / "b", "turbo-kl", 0, {0: outcomes(4)}),
        make_run(tmp_path / "c", "turbo-kl", 0, {0: outcomes(5)}, task="blackjack"),
    ]
    result = compared(runs)
    assert [each.method for each in result.estimates if each.task == "all tasks"] == ["turbo-kl"]
    assert "blackjack: there is no ppo to compare turbo-kl to." in result.notes
    assert estimate(result, "turbo-kl", task="blackjack").difference is None


def test_seconds_are_those_of_the_loop_and_the_teachers_share_of_them(tmp_path):
    taken = {"rollouts": 5.0, "checkpoints": 7.0, "teachers": 1.0, "guidance": 2.0}
    run = make_run(tmp_path / "a", "turbo-kl", 0, {0: outcomes(3), 1: outcomes(3)}, teachers={1: outcomes(1)}, seconds=taken)
    (cost,) = compared([run]).costs
    assert (cost.seconds, cost.teacher_seconds, cost.evaluation_seconds, cost.warm_start_seconds) == (15.0, 3.0, 6.0, 0.0)


def test_thoughts_that_are_imitated_beside_a_kl_are_the_teachers_time_too(tmp_path):
    taken = {"rollouts": 5.0, "checkpoints": 7.0, "teachers": 1.0, "guidance": 2.0, "demos": 4.0}
    run = make_run(tmp_path / "a", "turbo-kl", 0, {0: outcomes(3), 1: outcomes(3)}, seconds=taken)
    (cost,) = compared([run]).costs
    assert (cost.seconds, cost.teacher_seconds, cost.spending.seconds) == (19.0, 7.0, 7.0)


def test_the_command_prints_tables_and_notes_and_writes_json_and_csv(runs, tmp_path):
    result = CliRunner().invoke(app, ["compare", *map(str, runs), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "paired difference to ppo" in result.stdout and "+0.108" in result.stdout
    rows = list(csv.DictReader((tmp_path / "out" / "compare.csv").open()))
    (row,) = [r for r in rows if (r["method"], r["metric"], r["iteration"]) == ("turbo-kl", "success_rate", "4")]
    assert float(row["difference"]) == pytest.approx(13 / 120)
    assert (row["wins"], row["resolved"], row["seeds"], row["paired_by"]) == ("5", "False", "6", "seed")
    assert float(row["p"]) == pytest.approx(4 / 64)
    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert len(content["estimates"]) == len(rows) and len(content["costs"]) == 12
    assert content["baseline"] == "ppo"


def test_the_same_runs_give_the_same_files(runs, tmp_path):
    for name in "ab":
        CliRunner().invoke(app, ["compare", *map(str, runs), "--out", str(tmp_path / name)], catch_exceptions=False)
    for file in ("compare.json", "compare.csv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_folder_that_is_no_run_says_how_to_mend_it(tmp_path):
    (tmp_path / "r" / "evals").mkdir(parents=True)
    with pytest.raises(GtrTurboError) as error:
        read_history(tmp_path / "r")
    assert "has no run.json" in error.value.what and f"gtrturbo run --out {tmp_path / 'r'}" in str(error.value.fix)
    with pytest.raises(GtrTurboError, match="does not exist"):
        read_history(tmp_path / "nowhere")


@pytest.mark.parametrize("content", ["{", "[]", '{"version": "1", "config": {}}'])
def test_a_damaged_record_is_named(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(GtrTurboError, match=r"run\.json"):
        read_history(tmp_path)


def test_a_run_that_has_not_ended_and_the_iteration_that_it_leaves_to_compare_at_are_named(tmp_path):
    short = make_run(tmp_path / "a", "turbo-kl", 0, {0: outcomes(5)}, iterations=20)
    whole = make_run(tmp_path / "b", "ppo", 0, {0: outcomes(5), 4: outcomes(9)})
    assert compared([short, whole]).notes[0] == (
        "numberline: compared at iteration 0, the last at which every run was evaluated: "
        "turbo-kl, seed 0, has not ended (0 of 20 updates); ppo, seed 0, was evaluated at 4, too."
    )
    assert not any("compared at" in note for note in compared([whole]).notes)


def test_of_many_runs_that_have_not_ended_some_are_named(tmp_path):
    runs = [make_run(tmp_path / f"{seed}", "ppo", seed, {0: outcomes(5)}, iterations=20) for seed in range(8)]
    note = compared(runs).notes[0]
    assert "seed 4, has" in note and "seed 5" not in note and note.endswith(" and 3 more.")
