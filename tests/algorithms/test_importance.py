"""Weights for a sampler that is not the trainer, against numbers worked out by hand."""

import math

import pytest
import torch

from gtrturbo.algorithms.importance import sampler_trainer_gap, truncated_importance_weights, weighted_logprobs

# Ratios p/s: 1, 1.5, 3 (cut at 2), 0.5.
SAMPLED = torch.log(torch.tensor([[0.2, 0.2], [0.1, 0.8]]))
TRAINED = torch.log(torch.tensor([[0.2, 0.3], [0.3, 0.4]]))


def test_weights_are_probability_ratios_cut_at_the_cap():
    assert truncated_importance_weights(TRAINED, SAMPLED).flatten().tolist() == pytest.approx([1.0, 1.5, 2.0, 0.5])
    assert truncated_importance_weights(TRAINED, SAMPLED, cap=4.0)[1, 0].item() == pytest.approx(3.0)


def test_equal_log_probs_weigh_exactly_one():
    assert (truncated_importance_weights(TRAINED, TRAINED) == 1).all()


def test_weights_carry_no_gradient():
    assert not truncated_importance_weights(TRAINED.clone().requires_grad_(), SAMPLED).requires_grad


def test_weights_under_the_cap_make_the_samplers_mean_the_trainers():
    # Three tokens; E over the sampler of w f = E over the trainer of f, as long as nothing is cut.
    sampler, trainer, value = (torch.tensor(row) for row in ([0.5, 0.3, 0.2], [0.4, 0.3, 0.3], [1.0, -2.0, 5.0]))
    weights = truncated_importance_weights(trainer.log(), sampler.log())
    assert (sampler * weights * value).sum().item() == pytest.approx((trainer * value).sum().item())


def test_weighted_log_probs_start_at_the_old_ones_with_weighted_gradients():
    logprobs = TRAINED.clone().requires_grad_()
    weights = truncated_importance_weights(TRAINED, SAMPLED)
    weighted = weighted_logprobs(logprobs, TRAINED, weights)
    assert torch.equal(weighted, TRAINED)
    weighted.sum().backward()
    assert logprobs.grad.flatten().tolist() == pytest.approx([1.0, 1.5, 2.0, 0.5])


def test_weights_of_one_change_nothing():
    moved = TRAINED + torch.tensor([[0.1, -0.2], [0.3, 0.0]])
    assert torch.allclose(weighted_logprobs(moved, TRAINED, torch.ones(2, 2)), moved)


def test_sampler_trainer_gap_by_hand():
    found = sampler_trainer_gap(TRAINED, SAMPLED, torch.tensor([[True, True], [True, False]]))
    differences = [0.0, math.log(1.5), math.log(3.0)]
    assert found.mean == pytest.approx(sum(differences) / 3, abs=1e-6)
    assert found.largest == pytest.approx(math.log(3.0), abs=1e-6)
    assert found.kl == pytest.approx(-sum(differences) / 3, abs=1e-6)
    assert found.truncated == pytest.approx(1 / 3)
    assert found.effective == pytest.approx((1 + 1.5 + 2) ** 2 / (3 * (1 + 1.5**2 + 4)), abs=1e-6)


def test_equal_engines_have_no_gap():
    found = sampler_trainer_gap(TRAINED, TRAINED, torch.ones(2, 2, dtype=torch.bool))
    assert (found.mean, found.largest, found.kl, found.truncated, found.effective) == (0, 0, 0, 0, 1)


@pytest.mark.parametrize("cap", [0.5, 0.0, float("nan")])
def test_a_cap_below_one_is_refused(cap):
    with pytest.raises(ValueError, match="cap must be at least 1"):
        truncated_importance_weights(TRAINED, SAMPLED, cap=cap)


def test_shapes_and_empty_masks_are_refused():
    with pytest.raises(ValueError, match="shapes differ"):
        truncated_importance_weights(TRAINED, SAMPLED[:1])
    with pytest.raises(ValueError, match="shapes differ"):
        weighted_logprobs(TRAINED, TRAINED, torch.ones(2, 3))
    with pytest.raises(ValueError, match="no token counts"):
        sampler_trainer_gap(TRAINED, SAMPLED, torch.zeros(2, 2, dtype=torch.bool))
