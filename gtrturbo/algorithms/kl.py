"""KL divergence from student to teacher, estimated from the student's own samples or summed over the vocabulary.

Notation: y sampled by the student, p = log p_student(y), q = log p_teacher(y), r = p − q; all in nats. Both must be
taken at the same temperature. The estimators enter as *rewards*, hence without gradient: as a loss k1 has none on
average, and as a reward k3 points away from the teacher.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from gtrturbo.algorithms.shapes import require_same_shape
from gtrturbo.algorithms.tokens import masked_mean

Estimator = Literal["k1-clip", "k1", "abs", "k2", "k3"]


def kl_k1(logprobs: Tensor, teacher_logprobs: Tensor) -> Tensor:
    """Estimate KL(student ‖ teacher) per token: k1 = r, unbiased, of either sign.

    Args:
        logprobs: p, student log-probability of the sampled token, in nats. [B, R]
        teacher_logprobs: q, teacher's for the same token. [B, R]

    Returns: Estimate per token, in nats, not reduced. [B, R]

    Raises: ValueError: Shapes differ.

    Source: Schulman, "Approximating KL Divergence" (2020).
    """
    require_same_shape(logprobs=logprobs, teacher_logprobs=teacher_logprobs)
    return logprobs - teacher_logprobs


def kl_k1_clipped(logprobs: Tensor, teacher_logprobs: Tensor, *, upper: float = 10.0) -> Tensor:
    """Penalise only tokens that the student likes better than the teacher does: min(max(0, r), upper).

    Biased upwards: above 0 on average even for nearly equal models. Log `kl_k1` beside it.

    Args: As in `kl_k1`; upper: Largest penalty per token, in nats; 10 as in GTR-Turbo's code.

    Returns: Penalty per token, in nats, within [0, upper]. [B, R]

    Source: GTR-Turbo (arXiv 2512.13043), KL guidance.
    """
    return kl_k1(logprobs, teacher_logprobs).clamp(min=0.0, max=upper)


def kl_abs(logprobs: Tensor, teacher_logprobs: Tensor) -> Tensor:
    """Measure the distance |r| per token; never negative, not an estimate of the KL. Arguments as in `kl_k1`."""
    return kl_k1(logprobs, teacher_logprobs).abs()


def kl_k2(logprobs: Tensor, teacher_logprobs: Tensor) -> Tensor:
    """Estimate KL(student ‖ teacher) per token: k2 = r² / 2, biased, never negative. Arguments as in `kl_k1`.

    Source: Schulman, "Approximating KL Divergence" (2020).
    """
    return kl_k1(logprobs, teacher_logprobs).square() / 2


def kl_k3(logprobs: Tensor, teacher_logprobs: Tensor) -> Tensor:
    """Estimate KL(student ‖ teacher) per token: k3 = exp(−r) − 1 + r, unbiased, never negative.

    Arguments as in `kl_k1`.

    Source: Schulman, "Approximating KL Divergence" (2020).
    """
    log_ratio = kl_k1(logprobs, teacher_logprobs)
    return torch.expm1(-log_ratio) + log_ratio


ESTIMATORS: dict[Estimator, Callable[[Tensor, Tensor], Tensor]] = {
    "k1-clip": kl_k1_clipped,
    "k1": kl_k1,
    "abs": kl_abs,
    "k2": kl_k2,
    "k3": kl_k3,
}


def turn_kl(logprobs: Tensor, teacher_logprobs: Tensor, mask: Tensor, *, estimator: Estimator) -> Tensor:
    """Average the KL estimate over the tokens of each turn that count.

    KL(th) = 1/L Σ_l k(th_l | th_{<l})

    Args:
        logprobs, teacher_logprobs: Of the sampled tokens, in nats; anything outside the mask. [B, R]
        mask: Tokens that count, in the paper those of the thought. [B, R] bool
        estimator: Name of k, a key of ESTIMATORS.

    Returns: Mean per turn, in nats per token; 0 for a turn without such tokens. [B]

    Raises: ValueError: Shapes differ, or the estimator is unknown.

    Source: GTR-Turbo (arXiv 2512.13043), KL guidance.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}, got {estimator}.")
    return masked_mean(ESTIMATORS[estimator](logprobs, teacher_logprobs), mask)


def exact_reverse_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Sum KL(student ‖ teacher) per token over the whole vocabulary, in float32.

    Σ_v p_v (log p_v − log q_v)

    Args:
        student_logits, teacher_logits: Divided by the same temperature; −inf excludes a token, in both. [B, R, V]

    Returns: KL per token, in nats; differentiable, so it may serve as a loss. [B, R]

    Raises: ValueError: Shapes differ.
    """
    require_same_shape(student_logits=student_logits, teacher_logits=teacher_logits)
    student, teacher = student_logits.float().log_softmax(-1), teacher_logits.float().log_softmax(-1)
    log_ratio = (student - teacher).masked_fill(student == -torch.inf, 0.0)  # 0 · log 0 = 0
    return (student.exp() * log_ratio).sum(-1)
