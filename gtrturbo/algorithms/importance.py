"""Correct for a sampler that is not the trainer: another engine computes other log-probs of the same weights.

Notation: s, log-probability of a sampled token by the engine that sampled it; p, the same by the model that is trained, before
its first step; both in nats, at the temperature of sampling.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gtrturbo.algorithms.shapes import require_same_shape

CAP = 2.0


def truncated_importance_weights(logprobs: Tensor, sample_logprobs: Tensor, *, cap: float = CAP) -> Tensor:
    """Return the weight of each token under the model that is trained against the engine that sampled it, truncated.

    w = min(exp(p − s), cap)

    It multiplies a token's gradient; it is no part of what is differentiated. Without the cap it would be unbiased, with a
    variance that a few unlikely tokens make as large as they please.

    Args:
        logprobs: p. [B, R]
        sample_logprobs: s. [B, R]
        cap: largest weight.

    Returns: Weights without gradient. [B, R] float32

    Raises: ValueError: Shapes differ, or the cap is below 1, which would take weight from tokens that both agree on.

    Source: Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training" (2025), truncated importance
        sampling per token with a cap of 2; the truncation is that of IMPALA (arXiv 1802.01561), equation 1.
    """
    require_same_shape(logprobs=logprobs, sample_logprobs=sample_logprobs)
    if not cap >= 1:
        raise ValueError(f"cap must be at least 1, got {cap}.")
    return (logprobs.detach().float() - sample_logprobs.float()).exp().clamp(max=cap)


def weighted_logprobs(logprobs: Tensor, old_logprobs: Tensor, weights: Tensor) -> Tensor:
    """Return log-probs whose gradient is weighted token by token, for a clipped ratio of whole turns.

    p' = p_old + w (p − p_old)

    Before the first step p' = p_old, so the first ratio is exactly 1, while the gradient of each token is w ∇p.

    Args:
        logprobs: p, of the model as it is now, with gradient. [B, R]
        old_logprobs: p_old, of the model before the first step. [B, R]
        weights: w. [B, R]

    Returns: p'. [B, R]

    Raises: ValueError: Shapes differ.
    """
    require_same_shape(logprobs=logprobs, old_logprobs=old_logprobs, weights=weights)
    return old_logprobs + weights * (logprobs - old_logprobs)


@dataclass(frozen=True)
class SamplerTrainerGap:
    """How far the sampler is from the trainer, over all N tokens.

    mean: of |p − s|, nats. largest: of |p − s|, nats. kl: of s − p, an estimate of KL(sampler ‖ trainer), nats.
    truncated: share of tokens whose weight was cut at the cap. effective: (Σ w)² / (N Σ w²), the share of the sample that is
    left after weighting; 1 where the two are equal.
    """

    mean: float
    largest: float
    kl: float
    truncated: float
    effective: float


def sampler_trainer_gap(logprobs: Tensor, sample_logprobs: Tensor, mask: Tensor, *, cap: float = CAP) -> SamplerTrainerGap:
    """Measure the sampler against the trainer over the masked tokens.

    Args:
        logprobs: p. [B, R]
        sample_logprobs: s. [B, R]
        mask: Tokens that count. [B, R] bool
        cap: of the weights.

    Raises: ValueError: Shapes differ, or no token counts.

    Source: Kong, "A Note on Importance Sampling using Standardized Weights" (1992), for the effective sample.
    """
    require_same_shape(logprobs=logprobs, sample_logprobs=sample_logprobs, mask=mask)
    if not mask.any():
        raise ValueError("no token counts.")
    difference = (logprobs - sample_logprobs).detach().double()[mask]
    weights = truncated_importance_weights(difference, torch.zeros_like(difference), cap=cap).double()
    return SamplerTrainerGap(
        mean=float(difference.abs().mean()),
        largest=float(difference.abs().max()),
        kl=float(-difference.mean()),
        truncated=float((difference.exp() > cap).double().mean()),
        effective=float(weights.sum() ** 2 / (len(weights) * weights.square().sum())),
    )
