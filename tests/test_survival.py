"""examples/reproduce/survival.py: how runs end, a run that ended by itself among them."""

import itertools
import re

import numpy as np
import pytest

from examples.reproduce import survival


def line(success: list[float], *, planned: int = 8, illegal: float = 0.2, thoughts: float = 0.4, collapsed: bool = False):
    played = {
        str(k): {"success_rate": value, "illegal_rate": illegal, "thought_accuracy": thoughts} for k, value in enumerate(success)
    }
    ended = {"iteration": len(success), "stage": "ppo-step", "what": "no reply was legal"} if collapsed else None
    return {"planned": planned, "rollouts": played, "evaluations": {"0": {"chance_random": 0.3}}, "collapsed": ended}


def test_a_run_that_ended_by_itself_is_chance_from_there_on():
    run = line([0.9, 0.9, 0.8, 0.8], collapsed=True)
    assert survival.won(run) == [0.9, 0.9, 0.8, 0.8, 0.3, 0.3, 0.3, 0.3]
    assert survival.last(survival.won(run)) == pytest.approx((0.8 + 4 * 0.3) / 5)
    assert survival.last(survival.illegal(run)) == pytest.approx((0.2 + 4) / 5)
    assert survival.last(survival.read(run)) == pytest.approx(0.4 / 5)
    # Of the legal turns, 0.8 of all, half read truly; where none is legal, none does.
    assert survival.read_of_legal(run)[:4] == pytest.approx([0.5] * 4) and survival.read_of_legal(run)[4:] == [0.0] * 4
    assert survival.read_of_legal(line([0.9], planned=1, illegal=1.0, thoughts=0.0)) == [0.0]


@pytest.mark.parametrize(
    ("success", "collapsed", "expected"),
    [
        ([0.5] * 8, False, False),
        ([0.5] * 8, True, True),  # in its last update
        ([0.2, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.2], False, False),  # one bad update is no fall
        ([0.9] * 5 + [0.4] * 3, False, True),
        ([0.2] * 5 + [0.9] * 3, False, False),
        ([0.9] * 5 + [0.7] * 5, False, True),  # by 0.2, which of shares is 0.2000…1 or 0.1999…9
        ([0.95] * 5 + [0.75] * 5, False, True),
        ([0.9] * 5 + [0.71] * 5, False, False),
        ([0.9, 0.5, 0.4, 0.3, 0.3, 0.3, 0.3, 0.3], False, True),  # what its start could do
    ],
)
def test_a_run_fell_if_it_lost_what_it_had_won(success, collapsed, expected):
    assert survival.fell(line(success, planned=len(success), collapsed=collapsed)) is expected


def arms(gaps: list[float]):
    """`kept` ends higher than `ppo` by the gaps, and both say the same."""
    ppo = {seed: line([0.5] * 8) for seed in range(len(gaps))}
    return {"ppo": ppo, "kept": {seed: line([0.5 + gap] * 8) for seed, gap in enumerate(gaps)}}


def test_differences_are_paired_and_their_chances_adjusted_for_the_arms_of_a_column():
    gaps = [0.1, 0.2, 0.3, 0.1, 0.2, 0.3, 0.1, 0.2]
    same = {seed: line([0.5 + gap] * 8) for seed, gap in enumerate([0.1, -0.1] * 4)}
    [head, row, _] = survival.differences([arms(gaps) | {"same": same}], ["kept", "same"], "ppo")
    cells = dict(zip(head, row, strict=False))
    assert cells["pairs"] == "8" and cells["success"].startswith(f"**{np.mean(gaps):+.3f} [")
    # All eight are above 0: two of 2⁸ choices of signs, times the two arms of the column.
    flips = [abs(np.dot(signs, gaps)) for signs in itertools.product((1, -1), repeat=8)]
    p = np.mean(np.array(flips) >= sum(gaps) - 1e-12)
    assert p == 2 / 256 and row[3] == f"{2 * p:.3f}".removeprefix("0")
    assert row[5] == "1.000" and not row[4].startswith("**")


def test_cells_are_strata_that_weigh_alike():
    [head, row] = survival.differences([arms([0.1] * 4), arms([0.3] * 8)], ["kept"], "ppo")
    cells = dict(zip(head, row, strict=False))
    assert cells["pairs"] == "12" and cells["success"].startswith("**+0.200 [") and row[3] == "<.001"


def test_seven_pairs_of_one_sign_are_not_resolved_beside_three_more_arms():
    gaps = [0.1, 0.2, 0.3, 0.1, 0.2, 0.3, 0.1]
    several = arms(gaps) | {name: arms(gaps)["kept"] for name in "abc"}
    rows = survival.differences([several], ["kept", "a", "b", "c"], "ppo")
    assert not any(row[2].startswith("**") for row in rows[1:])


def test_ends_are_counted_with_the_runs_that_fell():
    found = {"ppo": {1: line([0.9] * 4, collapsed=True), 2: line([0.5] * 8)}}
    [head, row] = survival.ends(found, ["ppo"])
    cells = dict(zip(head, row, strict=True))
    # (0.9 + 4 · 0.3) / 5 and 0.5; the best five in a row of the first are its four and the first of chance.
    assert cells["success"].startswith("0.460 [") and cells["fell"] == "1 of 2"
    assert cells["best five updates"] == f"{(4 * 0.9 + 0.3) / 10 + 0.25:.3f}"


def test_cells_stand_beside_each_other_and_an_arm_of_fewer_runs_than_are_told_is_a_dash():
    told = survival.FEWEST
    cells = {
        "easy": arms([0.1] * told) | {"late": {k: line([0.9] * 8, thoughts=0.25) for k in range(told - 1)}},
        "hard": {"ppo": {k: line([0.9] * 4, collapsed=True) for k in range(told)}},
    }
    head, ppo, kept, late = survival.by_cell(cells, ["ppo", "kept", "late"])
    assert head == ["who", "easy", "hard"] and kept[1].startswith("0.600 [") and kept[2] == late[1] == late[2] == "–"
    assert ppo[1].startswith("0.500 [") and ppo[1].endswith(f"], 0.40, 0 of {told}")
    # (0.9 + 4 · 0.3) / 5 won, and 0.4 / 5 of thoughts.
    assert ppo[2] == f"0.420 [0.420, 0.420], 0.08, {told} of {told}"


def test_an_arm_that_does_nothing_is_told_by_its_episodes():
    same = line([0.5] * 8)
    found = {"ppo": {1: same, 2: same, 3: same}, "late": {1: same, 2: line([0.5] * 3 + [0.6] * 5), 3: line([0.5] * 4)}}
    [_, late] = survival.parted(found, ["late"], "ppo")
    assert late == ["`late`", "3", "1", "3"]
    assert survival.parted(found | {"late": {1: same}}, ["late"], "ppo")[1][2:] == ["0", "–"]


def test_rates_stand_beside_the_best_of_the_first_arm():
    seeds = survival.FEWEST
    low = arms([0.4] * seeds) | {"late": {1: line([0.9] * 8)}}
    high = {name: {k: line([value] * 8, thoughts=thoughts) for k in range(seeds)}
            for name, value, thoughts in (("ppo", 0.3, 0.2), ("kept", 0.95, 0.7), ("late", 0.4, 0.4))}  # fmt: skip
    head, ppo, kept, late = survival.by_rate({1e-3: high, 1e-4: low}, ["ppo", "kept", "late"])
    assert head == ["who", "1e-4", "1e-3", "best at", "there − `ppo` at its best", "p"]
    assert ppo[1].startswith("0.500 [") and ppo[3:] == ["1e-4", "–", "–"] and late[1] == "–" and late[3] == "1e-3"
    assert kept[3] == "1e-3" and kept[4].startswith("+0.450 [") and late[4].startswith("-0.100 [")
    # Of four pairs of one sign p is 1/8, twice that for two arms.
    assert kept[5] == late[5] == ".250"
    thoughts = survival.by_rate({1e-3: high, 1e-4: low}, ["ppo", "kept"], "thoughts")
    # Best is where most is won, not where most is read: 0.7 beside 0.4.
    assert thoughts[2][2] == "0.700 [0.700, 0.700]" and thoughts[2][3] == "1e-3" and thoughts[2][4].startswith("+0.300 [")


def test_rates_are_drawn_by_their_logarithm():
    rates = {rate: arms([gap, gap]) for rate, gap in ((1e-4, 0.4), (1e-3, 0.2), (1e-2, 0.1))}
    drawn = survival.over_rates("t", "title", rates, ["ppo", "kept"])
    curve = re.search(r'<g class="s1"><path d="M([\d. L]+)"', drawn)
    assert curve and ">learning rate</text>" in drawn and "kept: 0.9 at learning rate 0.0001, 0.6 at learning rate 0.01" in drawn
    places = [float(point.split()[0]) for point in curve[1].split("L")]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1], abs=0.11)


def test_updates_are_drawn_over_the_seeds_that_all_have():
    several = arms([0.4, 0.4]) | {"late": {1: line([0.1] * 8)}}
    drawn = survival.over_updates("t", "title", several, ["ppo", "kept", "late"], "success")
    assert "late: 0.1 at update 0, 0.1 at update 7" in drawn and "kept: 0.9 at update 0" in drawn and ">chance<" in drawn
    thoughts = survival.over_updates("t", "title", several, ["ppo"], "thoughts")
    assert "ppo: 0.4 at update 0" in thoughts and ">chance<" not in thoughts


def test_a_merge_is_compared_with_the_newest_by_how_far_that_fell():
    def one(success, teacher):
        return {"success_rate": success, "thought_accuracy": 0.5}, {"success_rate": teacher, "thought_accuracy": 0.75}

    cases = [one(0.5, 0.5), one(0.9, 0.8), one(0.3, 0.9), one(0.8, 0.9)]  # rises, best, falls by 0.6, and is 0.1 below its best
    line = {"arm": "ppo", "seed": 1, "students": {}, "teachers": {}}
    for k, (student, teacher) in zip((5, 10, 15, 20), cases, strict=True):
        line["students"][str(k)], line["teachers"][str(k)] = student, teacher
    [_, best, some, far] = survival.ahead([line], ["ppo"])
    assert best[2:5] == ["2", "1", "-0.050"] and some[2:5] == ["1", "1", "+0.100"] and far[2:5] == ["1", "1", "+0.600"]
    # One case is no evidence; of five of one sign p is 1/16, here for three rows.
    several = [dict(line, seed=seed) for seed in range(5)]
    assert best[5] == "1.000" and [row[5] for row in survival.ahead(several, ["ppo"])[1:]] == [".188", ".188", ".188"]
    assert far[6] == "+0.250" and survival.ahead([line], ["merged"])[1][2:] == ["0", "0", "–", "–", "–", "–"]
