"""Proximal policy optimisation, one ratio and one value per turn."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gtrturbo.algorithms.guards import GUARDS, Guard
from gtrturbo.algorithms.shapes import require_same_shape
from gtrturbo.config.choices import NO_GUARD

LEAST_RATIO, LARGEST_RATIO = 2.0**-149, torch.finfo(torch.float32).max


@dataclass(frozen=True)
class PolicyLoss:
    """loss: to be averaged and minimised. [B]   ratio: π_new / π_old, detached. [B]   clipped: no gradient. [B] bool

    Of `token_policy_loss` ratio and clipped are those of all tokens, one after another. [M]
    """

    loss: Tensor
    ratio: Tensor
    clipped: Tensor


@dataclass(frozen=True)
class RatioStatistics:
    """How far one update moved the policy.

    mean, minimum, maximum: of π_new / π_old over turns; all 1 before the first step.
    low, median, high: 5th, 50th and 95th percentile, linear between turns.
    clipped_share: of turns without policy gradient, in [0, 1].
    approximate_kl: KL(π_old ‖ π_new) per turn, mean of ratio − 1 − log ratio, in nats.
    """

    mean: float
    minimum: float
    maximum: float
    low: float
    median: float
    high: float
    clipped_share: float
    approximate_kl: float


def clipped_policy_loss(
    new_logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip_range: float, guard: Guard = GUARDS[NO_GUARD]
) -> PolicyLoss:
    """Compute PPO's clipped surrogate, negated, per turn.

    L = −min(ρ Â, clip(ρ, 1 − ε, 1 + ε) Â),   ρ = π_new / π_old

    Args:
        new_logprobs: Log-probability of each turn under the policy in training, in nats. [B]
        old_logprobs: Under the policy that acted; no gradient flows to it. [B]
        advantages: Â. [B]
        clip_range: ε, in (0, 1).
        guard: bounds the ratio further.

    Returns: Loss per turn, not reduced; its gradient is exactly 0 where clipped, even where ρ overflows.

    Raises: ValueError: Shapes differ, or clip_range is outside (0, 1).

    Source: Schulman et al., "Proximal Policy Optimization Algorithms" (arXiv 1707.06347), equation 7.
    """
    require_same_shape(new_logprobs=new_logprobs, old_logprobs=old_logprobs, advantages=advantages)
    if not 0 < clip_range < 1:
        raise ValueError(f"clip_range must be in (0, 1), got {clip_range}.")
    advantages = advantages.detach()
    log_ratio = new_logprobs - old_logprobs.detach()
    ratio = log_ratio.detach().exp()
    low, high = guard.ratio_range(advantages, clip_range=clip_range)
    clipped, bound = (ratio > high) | (ratio < low), torch.where(ratio > high, high, low)
    # Masked before exp, because the gradient of an overflowing ratio that does not count would be 0 · inf = nan.
    unclipped = log_ratio.masked_fill(clipped | (advantages == 0), 0.0).exp()
    return PolicyLoss(loss=-torch.where(clipped, bound, unclipped) * advantages, ratio=ratio, clipped=clipped)


def token_policy_loss(
    new_logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    thought_mask: Tensor,
    action_mask: Tensor,
    *,
    thought_coef: float,
    clip_range: float,
    guard: Guard = GUARDS[NO_GUARD],
) -> PolicyLoss:
    """Compute PPO's clipped surrogate with a ratio and an advantage per token, negated, per turn.

    L = λ Σ_{thought} L_j + Σ_{action} L_j,   L_j = −min(ρ_j Â_j, clip(ρ_j, 1 − ε, 1 + ε) Â_j)

    Where all tokens of a turn have the same advantage, its gradient at ρ = 1 is that of `clipped_policy_loss` of the turn.

    Args:
        new_logprobs, old_logprobs, advantages: of each token; anything outside both masks. [B, R]
        thought_mask, action_mask: tokens of the two parts. [B, R] bool
        thought_coef: λ, in [0, 1].
        clip_range, guard: as in `clipped_policy_loss`.

    Returns: Loss per turn, and the ratios of its tokens.

    Raises: ValueError: As by `clipped_policy_loss`.
    """
    require_same_shape(
        new_logprobs=new_logprobs, old_logprobs=old_logprobs, advantages=advantages, thought=thought_mask, action=action_mask
    )
    tokens = thought_mask | action_mask
    of_tokens = clipped_policy_loss(
        new_logprobs[tokens], old_logprobs[tokens], advantages[tokens], clip_range=clip_range, guard=guard
    )
    weight = thought_coef * thought_mask + 1.0 * action_mask
    placed = torch.zeros_like(weight).masked_scatter(tokens, of_tokens.loss)
    return PolicyLoss(loss=(weight * placed).sum(-1), ratio=of_tokens.ratio, clipped=of_tokens.clipped)


def ratio_statistics(ratio: Tensor, clipped: Tensor) -> RatioStatistics:
    """Summarise the ratios of one or more minibatches.

    Ratios beyond what float32 holds, which are 0 or infinite there, count as its least and largest positive number, so that
    whatever the log-probs no number here overflows.

    Args:
        ratio: π_new / π_old. [N]
        clipped: Turns without policy gradient. [N] bool

    Raises: ValueError: Shapes differ, or there are no turns.

    Source: for the KL, Schulman, "Approximating KL Divergence" (2020), k3.
    """
    require_same_shape(ratio=ratio, clipped=clipped)
    if not len(ratio):
        raise ValueError("no turns to summarise.")
    ratio = ratio.double().clamp(min=LEAST_RATIO, max=LARGEST_RATIO)
    low, median, high = ratio.quantile(torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)).tolist()
    return RatioStatistics(
        mean=ratio.mean().item(),
        minimum=ratio.min().item(),
        maximum=ratio.max().item(),
        low=low,
        median=median,
        high=high,
        clipped_share=clipped.double().mean().item(),
        approximate_kl=(ratio - 1 - ratio.log()).mean().item(),
    )


def clipped_value_loss(new_values: Tensor, old_values: Tensor, returns: Tensor, *, clip_range: float) -> Tensor:
    """Compute the value loss that keeps predictions near those of the old value head, per turn.

    L = ½ max((V − R)², (V_old + clip(V − V_old, −ε, ε) − R)²)

    Args:
        new_values: V, in training. [B]
        old_values: V_old, of the value head that the advantages were computed with. [B]
        returns: R. [B]
        clip_range: ε, in units of reward, above 0.

    Returns: Loss per turn, not reduced. [B]

    Raises: ValueError: Shapes differ, or clip_range is not positive.

    Source: Engstrom et al., "Implementation Matters in Deep Policy Gradients" (arXiv 2005.12729), section 3.
    """
    require_same_shape(new_values=new_values, old_values=old_values, returns=returns)
    if not clip_range > 0:
        raise ValueError(f"clip_range must be above 0, got {clip_range}.")
    old_values, returns = old_values.detach(), returns.detach()
    near_old = old_values + (new_values - old_values).clamp(-clip_range, clip_range)
    return 0.5 * torch.maximum((new_values - returns).square(), (near_old - returns).square())


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """Return the share of the returns' variance that the values explain.

    1 − Var(R − V) / Var(R): 1 is perfect, 0 no better than a constant, below 0 worse; 0 if the returns do not vary.

    Args: values, returns: V and R, one per turn. [N]

    Raises: ValueError: Shapes differ.
    """
    require_same_shape(values=values, returns=returns)
    values, returns = values.detach().double(), returns.detach().double()
    variance = returns.var(correction=0)
    return (1 - (returns - values).var(correction=0) / variance).item() if variance > 0 else 0.0


def cosine_learning_rate(step: int, *, initial: float, final: float, total: int) -> float:
    """Return the learning rate of an update, falling from initial to final along half a cosine.

    final + ½ (initial − final) (1 + cos(π min(step, total) / total)): never rises again after `total`.

    Args:
        step: Updates done so far, from 0.
        initial, final: Learning rates at step 0 and from step `total` on.
        total: Updates that the fall takes, at least 1.

    Raises: ValueError: step is negative or total below 1.

    Source: Loshchilov and Hutter, "SGDR" (arXiv 1608.03983), equation 5, without restarts.
    """
    if step < 0 or total < 1:
        raise ValueError(f"step must be at least 0 and total at least 1, got {step} and {total}.")
    return final + 0.5 * (initial - final) * (1 + math.cos(math.pi * min(step, total) / total))
