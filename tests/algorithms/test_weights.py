"""How much each checkpoint counts, from what a user writes."""

import math

import pytest

from gtrturbo.algorithms.weights import checkpoint_weights
from gtrturbo.errors import GtrTurboError


def test_sma_weighs_all_checkpoints_alike():
    assert checkpoint_weights("sma", 4) == [0.25] * 4


def test_ema_weighs_the_newest_most():
    # α = 0.5, three checkpoints: 1/8, 1/4, 1/2, scaled by 8/7.
    assert checkpoint_weights("ema:0.5", 3) == pytest.approx([1 / 7, 2 / 7, 4 / 7], abs=1e-15)


def test_ema_unrolls_its_recursion():
    # m ← α θ + (1 − α) m, from m = 0; then scaled to sum to 1.
    alpha, unrolled = 0.3, [0.0] * 5
    for newest in range(5):
        unrolled = [(1 - alpha) * w for w in unrolled]
        unrolled[newest] = alpha
    expected = [w / sum(unrolled) for w in unrolled]
    assert checkpoint_weights("ema:0.3", 5) == pytest.approx(expected, abs=1e-15)


def test_ema_with_alpha_one_is_the_newest_checkpoint():
    assert checkpoint_weights("ema:1", 3) == [0.0, 0.0, 1.0]


def test_explicit_weights_are_scaled_to_sum_to_one():
    assert checkpoint_weights("1,3", 2) == [0.25, 0.75]
    assert checkpoint_weights("0.2, 0.8", 2) == pytest.approx([0.2, 0.8], abs=1e-15)


@pytest.mark.parametrize("spec", ["sma", "ema:0.1", "ema:0.5", "ema:1.0"])
@pytest.mark.parametrize("k", [1, 2, 3, 7, 30])
def test_weights_sum_to_one_for_any_number_of_checkpoints(spec, k):
    weights = checkpoint_weights(spec, k)
    assert len(weights) == k
    assert math.fsum(weights) == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ("1,2,3", "weights has 3 numbers for 4 checkpoints."),
        ("0.5", "weights has 1 numbers for 4 checkpoints."),
        ("1,2,-2,-1", "weights 1,2,-2,-1 sum to 0, and so cannot be divided by their sum."),
        ("1,2,3,nan", "weights must be finite, got 1,2,3,nan."),
        ("1,2,3,inf", "weights must be finite, got 1,2,3,inf."),
        ("ema:0", "alpha of ema must be in (0, 1], got 0."),
        ("ema:1.5", "alpha of ema must be in (0, 1], got 1.5."),
        ("ema:nan", "alpha of ema must be in (0, 1], got nan."),
        ("ema", "weights must be sma, ema:ALPHA or numbers such as 0.2,0.8, got ema."),
        ("ema:", "weights must be sma, ema:ALPHA or numbers such as 0.2,0.8, got ema:."),
        ("mean", "weights must be sma, ema:ALPHA or numbers such as 0.2,0.8, got mean."),
        ("", "weights must be sma, ema:ALPHA or numbers such as 0.2,0.8, got ."),
    ],
)
def test_a_wrong_weighting_is_told_to_the_user(spec, what):
    with pytest.raises(GtrTurboError) as error:
        checkpoint_weights(spec, 4)
    assert error.value.what == what


def test_weights_may_be_0_or_negative_as_long_as_their_sum_is_not_0():
    assert checkpoint_weights("3,0,-1", 3) == [1.5, 0.0, -0.5]
    assert checkpoint_weights("0,0", 2) == [0.0, 0.0]


def test_weights_that_are_not_scaled_are_taken_as_they_are():
    assert checkpoint_weights("2,-0.5", 2, normalize=False) == [2.0, -0.5]
    assert checkpoint_weights("sma", 3, normalize=False) == [1.0, 1.0, 1.0]
    # α (1 − α)^(k − 1 − i)
    assert checkpoint_weights("ema:0.25", 3, normalize=False) == [0.140625, 0.1875, 0.25]


@pytest.mark.parametrize("spec", ["nan,1", "1,inf"])
def test_weights_are_numbers_also_where_they_are_not_scaled(spec):
    with pytest.raises(GtrTurboError, match="weights must be finite"):
        checkpoint_weights(spec, 2, normalize=False)
