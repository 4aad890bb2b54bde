"""PPO in closed form."""

import itertools
import math

import pytest
import torch

from gtrturbo.algorithms.ppo import (
    clipped_policy_loss,
    clipped_value_loss,
    cosine_learning_rate,
    explained_variance,
    ratio_statistics,
)

# ε = 0.2. Ratio 2 lies above the clip, 0.5 below, 1.1 inside. Minimum of ρÂ and clip(ρ)Â, negated; Â = ±3.
CASES = [
    (2.0, 3.0, -3.6, True),  # min(6, 3.6): clipped
    (2.0, -3.0, 6.0, False),  # min(−6, −3.6) = −6
    (0.5, 3.0, -1.5, False),  # min(1.5, 2.4) = 1.5
    (0.5, -3.0, 2.4, True),  # min(−1.5, −2.4): clipped
    (1.1, 3.0, -3.3, False),
    (1.1, -3.0, 3.3, False),
    (0.9, 3.0, -2.7, False),
    (0.9, -3.0, 2.7, False),
]


def policy_loss(ratio, advantage, clip_range=0.2):
    new = torch.tensor([math.log(ratio) - 7.0], requires_grad=True)
    return new, clipped_policy_loss(new, torch.tensor([-7.0]), torch.tensor([advantage]), clip_range=clip_range)


@pytest.mark.parametrize(("ratio", "advantage", "loss", "clipped"), CASES)
def test_policy_loss_in_closed_form(ratio, advantage, loss, clipped):
    new, found = policy_loss(ratio, advantage)
    assert found.loss.item() == pytest.approx(loss, abs=1e-5)
    assert found.ratio.item() == pytest.approx(ratio, abs=1e-5)
    assert found.clipped.item() is clipped
    found.loss.sum().backward()
    # d(−ρÂ)/d log π = −ρÂ, and nothing at all where clipped.
    assert new.grad is not None
    assert new.grad.item() == (0.0 if clipped else pytest.approx(-ratio * advantage, abs=1e-5))


def test_before_the_first_step_ratio_is_one_and_the_gradient_is_the_advantage():
    logprobs = torch.tensor([-3.0, -40.7, 0.0], requires_grad=True)
    advantages = torch.tensor([1.5, -2.5, 0.0])
    found = clipped_policy_loss(logprobs, logprobs.detach().clone(), advantages, clip_range=0.1)
    found.loss.sum().backward()
    assert logprobs.grad is not None
    assert found.ratio.tolist() == [1.0, 1.0, 1.0]
    assert found.clipped.tolist() == [False, False, False]
    assert logprobs.grad.tolist() == [-1.5, 2.5, 0.0]


def test_zero_advantage_gives_exactly_zero_loss_and_gradient():
    for log_ratio in (-200.0, -1.0, 1.0, 200.0):
        new = torch.tensor([log_ratio], requires_grad=True)
        found = clipped_policy_loss(new, torch.zeros(1), torch.zeros(1), clip_range=0.1)
        found.loss.sum().backward()
        assert new.grad is not None
        assert (found.loss.item(), new.grad.item(), found.clipped.item()) == (0.0, 0.0, False)


def test_clipped_gradient_is_zero_even_where_the_ratio_overflows():
    new = torch.tensor([200.0], requires_grad=True)
    found = clipped_policy_loss(new, torch.zeros(1), torch.ones(1), clip_range=0.1)
    found.loss.sum().backward()
    assert new.grad is not None
    assert found.ratio.item() == math.inf
    assert found.loss.item() == pytest.approx(-1.1, abs=1e-6)
    assert new.grad.item() == 0.0


def test_no_gradient_reaches_old_logprobs_or_advantages():
    old, advantages = torch.zeros(1, requires_grad=True), torch.ones(1, requires_grad=True)
    found = clipped_policy_loss(torch.zeros(1, requires_grad=True), old, advantages, clip_range=0.1)
    found.loss.sum().backward()
    assert old.grad is None and advantages.grad is None


@pytest.mark.parametrize("clip_range", [0.0, 1.0, -0.1])
def test_policy_loss_refuses_a_clip_range_outside_zero_and_one(clip_range):
    with pytest.raises(ValueError, match="clip_range"):
        policy_loss(1.0, 1.0, clip_range)


def test_policy_loss_refuses_shapes_that_would_broadcast():
    with pytest.raises(ValueError, match=r"new_logprobs \[2\]"):
        clipped_policy_loss(torch.zeros(2), torch.zeros(2, 1), torch.zeros(2), clip_range=0.1)


@pytest.mark.parametrize(
    ("new", "old", "target", "loss", "gradient"),
    [
        (1.3, 1.0, 3.0, 1.62, 0.0),  # clipped to 1.2, further off: ½·1.8² = 1.62 > ½·1.7², no gradient
        (1.3, 1.0, 0.0, 0.845, 1.3),  # ½·1.3² > ½·1.2²: the unclipped error is larger and pulls back
        (0.7, 1.0, -1.0, 1.62, 0.0),  # clipped to 0.8: ½·1.8²
        (0.7, 1.0, 2.0, 0.845, -1.3),  # ½·1.3² > ½·1.2²
        (1.1, 1.0, 3.0, 1.805, -1.9),  # inside: ½·1.9²
    ],
)
def test_value_loss_in_closed_form(new, old, target, loss, gradient):
    value = torch.tensor([new], requires_grad=True)
    found = clipped_value_loss(value, torch.tensor([old]), torch.tensor([target]), clip_range=0.2)
    found.sum().backward()
    assert value.grad is not None
    assert found.item() == pytest.approx(loss, abs=1e-5)
    assert value.grad.item() == pytest.approx(gradient, abs=1e-5)


def test_value_loss_refuses_a_clip_range_of_zero():
    with pytest.raises(ValueError, match="clip_range must be above 0"):
        clipped_value_loss(torch.zeros(1), torch.zeros(1), torch.zeros(1), clip_range=0.0)


def test_ratio_statistics_by_hand():
    found = ratio_statistics(torch.tensor([0.5, 1.0, 2.0]), torch.tensor([False, False, True]))
    assert (found.low, found.median, found.high) == pytest.approx((0.55, 1.0, 1.9))
    assert (found.mean, found.minimum, found.maximum) == (3.5 / 3, 0.5, 2.0)
    assert found.clipped_share == pytest.approx(1 / 3, abs=1e-12)
    # (0.5 − 1 + ln 2 + 0 + 2 − 1 − ln 2) / 3 = 0.5 / 3
    assert found.approximate_kl == pytest.approx(0.5 / 3, abs=1e-12)


def test_ratio_statistics_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no turns"):
        ratio_statistics(torch.zeros(0), torch.zeros(0, dtype=torch.bool))


def test_explained_variance_by_hand():
    returns = torch.tensor([1.0, 2.0, 3.0])
    assert explained_variance(returns.clone(), returns) == 1.0
    assert explained_variance(returns + 5, returns) == 1.0  # a constant offset explains the variance all the same
    assert explained_variance(torch.full((3,), 9.0), returns) == 0.0
    # R − V = (2, 4, 6) has four times the variance: 1 − 4 = −3.
    assert explained_variance(-returns, returns) == pytest.approx(-3.0, abs=1e-12)
    assert explained_variance(returns, torch.ones(3)) == 0.0


def test_learning_rate_falls_along_a_half_cosine_and_stays_down():
    rates = [cosine_learning_rate(step, initial=1e-5, final=1e-9, total=20) for step in range(60)]
    assert rates[0] == pytest.approx(1e-5, rel=1e-12)
    assert rates[10] == pytest.approx((1e-5 + 1e-9) / 2, rel=1e-9)
    assert rates[5] == pytest.approx(1e-9 + (1e-5 - 1e-9) * (1 + math.sqrt(0.5)) / 2, rel=1e-9)  # cos(π/4) = √½
    assert all(rate == pytest.approx(1e-9, rel=1e-6) for rate in rates[20:])
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates))


@pytest.mark.parametrize(("step", "total"), [(-1, 5), (0, 0)])
def test_learning_rate_refuses_steps_and_totals_that_make_no_sense(step, total):
    with pytest.raises(ValueError, match="step must be"):
        cosine_learning_rate(step, initial=1.0, final=0.1, total=total)
