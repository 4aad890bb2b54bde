"""Exact tests, against scipy's and against all signs written out."""

import itertools
from statistics import fmean

import numpy as np
import pytest
from scipy import stats

from gtrturbo.analysis.exact import fewest_pairs, holm, mcnemar, sign_flip

DRAWN = np.random.default_rng(3)


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_a_flip_of_signs_is_counted_out(count):
    for _ in range(20):
        values = DRAWN.normal(0.3, 1, count).round(2).tolist()
        means = [
            abs(fmean(s * v for s, v in zip(signs, values, strict=True))) for signs in itertools.product((1, -1), repeat=count)
        ]
        assert sign_flip([values]) == pytest.approx(fmean(mean >= abs(fmean(values)) - 1e-12 for mean in means))


@pytest.mark.parametrize("count", [6, 9, 12])
def test_a_flip_of_signs_agrees_with_scipy(count):
    values = DRAWN.normal(0.4, 1, count)
    tested = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip([values.tolist()]) == pytest.approx(tested.pvalue)


def test_many_pairs_are_drawn_and_agree_with_the_counted_value(monkeypatch):
    values = DRAWN.normal(0.25, 1, 21).tolist()
    drawn = sign_flip([values])
    monkeypatch.setattr("gtrturbo.analysis.exact.COUNTED", 21)
    assert drawn == pytest.approx(sign_flip([values]), abs=0.005)
    assert drawn != sign_flip([values])  # Else nothing was drawn.


def test_a_drawn_chance_is_never_0():
    assert 0 < sign_flip([[1.0] * 40]) < 1e-4


def test_strata_weigh_alike():
    few, many = [0.5, -0.1, 0.4], [0.2, 0.1, -0.3, 0.4, 0.1]
    seen = abs((fmean(few) + fmean(many)) / 2)
    share = [
        abs(
            (
                fmean(s * v for s, v in zip(signs[:3], few, strict=True))
                + fmean(s * v for s, v in zip(signs[3:], many, strict=True))
            )
            / 2
        )
        >= seen - 1e-12
        for signs in itertools.product((1, -1), repeat=8)
    ]
    assert sign_flip([few, many]) == pytest.approx(fmean(share))


def test_differences_that_are_all_0_say_nothing():
    assert sign_flip([[0.0] * 8]) == 1.0


def test_an_empty_stratum_is_refused():
    for strata in ([], [[]], [[1.0], []]):
        with pytest.raises(ValueError, match="at least one difference"):
            sign_flip(strata)


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (5, 0), (6, 0), (9, 2), (2, 9), (30, 30), (40, 20)])
def test_mcnemar_is_the_binomial_test(wins, losses):
    expected = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert mcnemar(wins, losses) == pytest.approx(expected)


def test_six_pairs_are_the_fewest_that_can_be_resolved():
    assert fewest_pairs() == 6
    assert sign_flip([[1.0] * 6]) < 0.05 <= sign_flip([[1.0] * 5])
    assert fewest_pairs(0.01) == 8


def test_holm_is_statsmodels_worked_out_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
