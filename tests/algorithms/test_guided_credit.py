"""Credit under guidance: where the KL lands, by hand."""

import math
from dataclasses import replace

import pytest
import torch

from gtrturbo.algorithms.advantages import gae
from gtrturbo.algorithms.credit import Credited, Earned, by_gae, guided_credit


def one_episode(rewards, values, *, truncated=False, bootstrap=0.0, gamma=1.0, gae_lambda=1.0):
    n = len(rewards)
    last = torch.tensor([False] * (n - 1) + [True])
    return Earned(
        rewards=torch.tensor(rewards), values=torch.tensor(values), terminated=last & (not truncated), truncated=last & truncated,
        bootstrap_values=torch.tensor([0.0] * (n - 1) + [bootstrap]), episodes=torch.zeros(n).long(),
        groups=torch.zeros(n).long(), turns=torch.arange(n), states=["s"] * n, gamma=gamma, gae_lambda=gae_lambda,
    )  # fmt: skip


# Two turns, γ = λ = 1, KL = (1, 2), β = 0.5, so penalties (0.5, 1). Without penalty:
#   δ = (1 + 4 − 2, 3 − 4) = (3, −1), Â = (2, −1), R = (4, 3).
@pytest.mark.parametrize(
    ("placement", "advantages", "targets"),
    [
        # r' = (0.5, 2): δ = (2.5, −2), Â = (0.5, −2), R = (2.5, 2): the first turn pays for the second as well.
        ("reward", [0.5, -2.0], [2.5, 2.0]),
        # Each turn pays for itself, the value head learns nothing of it.
        ("advantage", [1.5, -2.0], [4.0, 3.0]),
        # Each turn pays for itself, and so does its value target.
        ("return", [1.5, -2.0], [3.5, 2.0]),
    ],
)
def test_guidance_lands_where_the_placement_says(placement, advantages, targets):
    earned = one_episode([1.0, 3.0], [2.0, 4.0])
    found = guided_credit(earned, torch.tensor([1.0, 2.0]), assign=by_gae, beta=0.5, placement=placement)
    assert found.advantages.tolist() == advantages
    assert found.value_targets.tolist() == targets


@pytest.mark.parametrize("placement", ["reward", "advantage", "return"])
@pytest.mark.parametrize("truncated", [True, False])
def test_no_kl_means_plain_gae(placement, truncated):
    earned = one_episode([1.0, 3.0], [2.0, 4.0], truncated=truncated, bootstrap=8.0, gamma=0.9, gae_lambda=0.95)
    names = ("rewards", "values", "terminated", "truncated", "bootstrap_values", "gamma", "gae_lambda")
    plain = gae(**{name: getattr(earned, name) for name in names})
    found = guided_credit(earned, torch.zeros(2), assign=by_gae, beta=1.0, placement=placement)
    assert torch.equal(found.advantages, plain.advantages) and torch.equal(found.value_targets, plain.returns)


def own_reward(earned):
    """Credit each turn with what it earned itself, without values."""
    return Credited(earned.rewards.clone())


@pytest.mark.parametrize("placement", ["reward", "advantage"])
def test_a_credit_without_values_feels_the_kl_too(placement):
    earned = replace(one_episode([1.0, 3.0], [2.0, 4.0]), values=None, bootstrap_values=None)
    found = guided_credit(earned, torch.tensor([1.0, 2.0]), assign=own_reward, beta=0.5, placement=placement)
    assert found.advantages.tolist() == [0.5, 2.0] and found.value_targets is None


def test_without_value_targets_the_kl_cannot_enter_them():
    with pytest.raises(ValueError, match="no value target"):
        guided_credit(one_episode([1.0], [2.0]), torch.zeros(1), assign=own_reward, beta=1.0, placement="return")


def test_guidance_refuses_an_unknown_placement_and_a_nan():
    earned = one_episode([1.0], [2.0])
    with pytest.raises(ValueError, match="placement must be reward, advantage or return, got value"):
        guided_credit(earned, torch.zeros(1), assign=by_gae, beta=1.0, placement="value")  # type: ignore
    with pytest.raises(ValueError, match="kl is nan at index 0"):
        guided_credit(earned, torch.tensor([math.nan]), assign=by_gae, beta=1.0, placement="return")


def test_estimation_without_values_is_refused():
    with pytest.raises(ValueError, match="needs values"):
        by_gae(replace(one_episode([1.0], [2.0]), values=None))
