"""Intervals over seeds, areas, and what thoughts tell about inputs."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from gtrturbo.analysis.intervals import (
    Interval,
    area_under_curve,
    bootstrap,
    cross_input_information,
    student_t_cdf,
    student_t_quantile,
)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 8, 29, 30])
def test_student_t_is_scipys(degrees):
    for t in (-20.0, -1.3, 0.0, 0.4, 2.0, 9.0):
        assert student_t_cdf(t, degrees) == pytest.approx(stats.t.cdf(t, degrees), abs=1e-14)
    for share in (0.001, 0.025, 0.5, 0.8, 0.975, 0.9999):
        assert student_t_quantile(share, degrees) == pytest.approx(stats.t.ppf(share, degrees), rel=1e-9, abs=1e-9)


def test_student_t_of_no_freedom_or_no_share_is_refused():
    with pytest.raises(ValueError, match="degree"):
        student_t_cdf(0.0, 0)
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match="share"):
            student_t_quantile(share, 3)


def all_means(values: list[float]) -> np.ndarray:
    """Every mean of as many draws with replacement, each as likely as the others: the bootstrap without chance."""
    return np.array([np.mean(draw) for draw in itertools.product(values, repeat=len(values))])


def test_the_interval_ends_at_expanded_percentiles_of_all_possible_draws():
    values = [0.2, 0.9, 0.4, 0.55, 0.6, 0.35]
    tail = stats.norm.cdf(-stats.t.ppf(0.95, 5) * math.sqrt(6 / 5))
    expected = np.quantile(all_means(values), [tail, 1 - tail])
    found = bootstrap([values], confidence=0.9)
    assert found.mean == pytest.approx(0.5)
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.006)
    # Unexpanded percentiles would be short of it by five times the tolerance.
    assert min(abs(np.quantile(all_means(values), [0.05, 0.95]) - expected)) > 0.03


def test_strata_are_drawn_apart_and_count_alike():
    small, large = [0.0, 0.2, 0.1, 0.3, 0.15], [0.8, 0.6, 0.9, 0.5, 0.7]
    means = (all_means(small)[:, None] + all_means(large)[None, :]).ravel() / 2
    tail = stats.norm.cdf(-stats.t.ppf(0.975, 4) * math.sqrt(5 / 4))
    found = bootstrap([small, large])
    assert found.mean == pytest.approx((0.15 + 0.7) / 2)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [tail, 1 - tail])), abs=0.006)
    # One pool of ten would spread far wider: the difference between the strata is not chance.
    assert found.high - found.low < 0.25 < 0.4 < np.ptp(bounds(bootstrap([small + large])))


def bounds(interval: Interval) -> tuple[float, float]:
    assert interval.low is not None and interval.high is not None
    return interval.low, interval.high


def test_the_interval_holds_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(3)
    held = 0
    for trial in range(400):
        low, high = bounds(bootstrap([rng.normal(size=8).tolist()], seed=trial))
        held += low <= 0 <= high
    assert 0.92 <= held / 400 <= 0.975  # 0.95 ± 2.3 standard errors; plain percentiles: 0.89


def test_the_interval_repeats_and_needs_two_seeds():
    assert bootstrap([[0.1, 0.5, 0.3]]) == bootstrap([[0.1, 0.5, 0.3]])
    assert bootstrap([[0.4]]) == Interval(0.4, None, None)
    for strata in ([], [[0.1], []]):
        with pytest.raises(ValueError, match="at least one value"):
            bootstrap(strata)


def test_of_fewer_seeds_than_five_the_interval_is_their_range():
    assert bounds(bootstrap([[0.1, 0.2, 0.4, 0.7]])) == pytest.approx((0.1, 0.7))
    low, high = bounds(bootstrap([[0.1, 0.2, 0.4, 0.7, 0.9]]))
    assert low > 0.1 and high < 0.9


@pytest.mark.parametrize(
    ("low", "high", "resolved"),
    [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False), (0.0, 0.1, False), (None, None, False)],
)
def test_a_difference_is_resolved_where_its_interval_leaves_0_out(low, high, resolved):
    assert Interval(0.1, low, high).resolved is resolved


def test_the_area_is_numpys_trapezoid_over_the_range():
    steps, values = [0, 1, 5, 7], [0.1, 0.5, 0.4, 0.9]
    assert area_under_curve(steps, values) == pytest.approx(np.trapezoid(values, steps) / 7)
    assert area_under_curve([2, 9], [0.3, 0.3]) == pytest.approx(0.3)


@pytest.mark.parametrize(("steps", "values"), [([0], [1]), ([0, 1], [1]), ([0, 0], [1, 2]), ([1, 0], [1, 2])])
def test_an_area_without_a_rising_range_is_refused(steps, values):
    with pytest.raises(ValueError):
        area_under_curve(steps, values)


def test_thoughts_that_name_their_input_tell_all_of_it():
    logprobs = np.log(np.where(np.eye(5, dtype=bool), 1.0, 1e-300))
    assert cross_input_information(logprobs) == pytest.approx(math.log(5))


def test_thoughts_that_ignore_their_input_tell_nothing_however_diverse():
    assert cross_input_information(np.log(np.tile([[0.5], [0.1], [0.01]], (1, 3)))) == pytest.approx(0.0, abs=1e-15)


def test_two_inputs_by_hand():
    # z_0 has 0.8 under its own input and 0.2 under the other, z_1 0.6 under its own and 0.4.
    expected = (math.log(0.8 / 0.5) + math.log(0.6 / 0.5)) / 2
    assert cross_input_information(np.log([[0.8, 0.2], [0.4, 0.6]])) == pytest.approx(expected)


def test_many_inputs_by_a_slow_loop():
    p = np.random.default_rng(2).uniform(0.01, 1, size=(4, 4))
    expected = sum(math.log(p[i][i] / (sum(p[i][j] for j in range(4)) / 4)) for i in range(4)) / 4
    assert cross_input_information(np.log(p)) == pytest.approx(expected)


def test_very_small_probabilities_of_long_thoughts_do_not_vanish():
    assert cross_input_information(np.array([[-5000.0, -5001.0], [-7001.0, -7000.0]])) == pytest.approx(
        math.log(1 / ((1 + math.exp(-1)) / 2))
    )


def test_its_mean_stays_below_the_mutual_information_and_nears_it():
    # p(z | x) of a random channel with 6 equally likely inputs and 6 thoughts; M = 5 inputs are drawn, a thought for each.
    rng = np.random.default_rng(0)
    channel = rng.dirichlet(np.full(6, 0.5), size=6)
    exact = np.mean(np.sum(channel * np.log(channel / channel.mean(axis=0)), axis=1))
    estimates = []
    for _ in range(4000):
        inputs = rng.integers(6, size=5)
        thoughts = [rng.choice(6, p=channel[x]) for x in inputs]
        estimates.append(cross_input_information(np.log(channel[np.ix_(inputs, thoughts)].T)))
    assert 0.6 * exact < np.mean(estimates) < exact


@pytest.mark.parametrize("shape", [(2, 3), (0, 0), (4,)])
def test_cross_scores_must_be_square(shape):
    with pytest.raises(ValueError, match="square"):
        cross_input_information(np.zeros(shape))
