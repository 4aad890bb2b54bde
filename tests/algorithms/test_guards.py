"""Guards: the loss and its gradient per turn, by hand, and numbers that never overflow."""

import math

import pytest
import torch

from gtrturbo.algorithms.guards import GUARDS, Guard
from gtrturbo.algorithms.ppo import clipped_policy_loss, ratio_statistics

# Ratios 0.5, 1, 1.1, 2, 5 and 20, once with Â = 1 and once with Â = −2; ε 0.2.
RATIOS = [0.5, 1.0, 1.1, 2.0, 5.0, 20.0]


def losses(guard: Guard, ratios=RATIOS, advantages=(1.0, -2.0)):
    """Return loss and gradient by log-ratio: of each advantage, of each ratio."""
    found = []
    for advantage in advantages:
        new = torch.tensor(ratios, dtype=torch.float64).log().requires_grad_()
        loss = clipped_policy_loss(new, torch.zeros_like(new), torch.full_like(new, advantage), clip_range=0.2, guard=guard).loss
        loss.sum().backward()
        assert new.grad is not None
        found.append((loss.tolist(), new.grad.tolist()))
    return found


def test_no_guard_is_the_clip_of_the_paper():
    (up, up_slope), (down, down_slope) = losses(GUARDS["none"])
    assert up == pytest.approx([-0.5, -1, -1.1, -1.2, -1.2, -1.2])
    assert up_slope == pytest.approx([-0.5, -1, -1.1, 0, 0, 0])
    assert down == pytest.approx([1.6, 2, 2.2, 4, 10, 40])
    assert down_slope == pytest.approx([0, 2, 2.2, 4, 10, 40])


def test_dual_clip_bounds_the_loss_where_the_advantage_is_negative():
    # −max(min(ρ Â, clip(ρ) Â), 3 Â): above ρ = 3 the loss is 6.
    found, plain = losses(GUARDS["dual-clip"]), losses(GUARDS["none"])
    assert found[0] == plain[0]
    assert found[1][0] == pytest.approx([1.6, 2, 2.2, 4, 6, 6])
    assert found[1][1] == pytest.approx([0, 2, 2.2, 4, 0, 0])


def test_the_clipped_loss_alone_has_a_gradient_within_the_range_only():
    # −clip(ρ, 0.8, 1.2) Â, as torch writes it.
    for (loss, slope), advantage in zip(losses(GUARDS["clipped-only"].strict), (1.0, -2.0), strict=True):
        new = torch.tensor(RATIOS, dtype=torch.float64).log().requires_grad_()
        expected = -new.exp().clamp(0.8, 1.2) * advantage
        expected.sum().backward()
        assert new.grad is not None
        assert loss == pytest.approx(expected.tolist()) and slope == pytest.approx(new.grad.tolist())


def test_a_minibatch_trips_above_ten_and_no_other_guard_does():
    guard = GUARDS["clipped-only"]
    assert not guard.tripped(10.0) and guard.tripped(10.01) and guard.tripped(math.inf)
    assert losses(guard) == losses(GUARDS["none"])  # Until then it is PPO's own.
    assert not any(other.tripped(math.inf) for other in [*GUARDS.values(), guard.strict] if other is not guard)


def test_log_ratios_are_bounded_on_both_sides():
    guard = Guard(largest_log_ratio=1.5)
    (up, up_slope), (down, down_slope) = losses(guard, ratios=[0.1, 0.5, 4.0, 20.0])
    assert (up[0], up_slope[0]) == (pytest.approx(-math.exp(-1.5)), 0.0) and up_slope[1] == pytest.approx(-0.5)
    assert (down[3], down_slope[3]) == (pytest.approx(2 * math.exp(1.5)), 0.0) and down_slope[2] == pytest.approx(8)


@pytest.mark.parametrize("name", ["dual-clip", "log-ratio"])
def test_a_guarded_loss_is_finite_where_the_ratio_overflows(name):
    new = torch.tensor([200.0, -200.0], requires_grad=True)
    advantages = torch.tensor([-1.0, 1.0])
    plain = clipped_policy_loss(new, torch.zeros(2), advantages, clip_range=0.2).loss
    assert not plain.isfinite().all()
    loss = clipped_policy_loss(new, torch.zeros(2), advantages, clip_range=0.2, guard=GUARDS[name]).loss
    loss.sum().backward()
    assert new.grad is not None and loss.isfinite().all() and new.grad.isfinite().all()


def test_two_guards_of_one_record_both_bind():
    found = losses(Guard(dual_clip=3.0, largest_log_ratio=math.log(1.5)))
    assert found[1][0] == pytest.approx([1.6, 2, 2.2, 3, 3, 3])


@pytest.mark.parametrize(("bad", "told"), [
    ({"dual_clip": 1.0}, "dual_clip must be above 1, got 1.0"),
    ({"largest_ratio": 0.5}, "largest_ratio must be above 1"),
    ({"largest_log_ratio": 0.0}, "largest_log_ratio must be above 0"),
    ({"dual_clip": math.nan}, "dual_clip must be above 1, got nan"),
])  # fmt: skip
def test_a_bound_that_leaves_no_room_is_refused(bad, told):
    with pytest.raises(ValueError, match=told):
        Guard(**bad)


def test_what_is_told_of_ratios_is_finite_whatever_they_are():
    # Of float32: e^200 is infinite, e^−200 is 0.
    ratio = torch.tensor([200.0, -200.0, 0.0]).exp()
    told = ratio_statistics(ratio, torch.zeros(3, dtype=torch.bool))
    assert all(map(math.isfinite, vars(told).values()))
    assert told.approximate_kl == pytest.approx(torch.finfo(torch.float32).max / 3) and told.maximum > 1e38


def test_ratios_that_are_no_numbers_stay_none():
    assert math.isnan(ratio_statistics(torch.tensor([1.0, torch.nan]), torch.zeros(2, dtype=torch.bool)).approximate_kl)
