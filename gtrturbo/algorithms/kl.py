"""KL divergence from student to teacher, estimated from the student's own samples or summed over the vocabulary.

Notation: y sampled by the student, p = log p_student(y), q = log p_teacher(y), r = p − q; all in nats. Both must be
taken at the same temperature. The estimators enter as *rewards*, hence without gradient: as a loss k1 has none on
average, and as a reward k3 points away from the teacher.

All that is needed of PyTorch are methods of its tensors: so a plan of stages is checked against `ESTIMATORS` without loading it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gtrturbo.algorithms.shapes import require_same_shape
from gtrturbo.config.choices import FULL, K1_CLIP, K2
from gtrturbo.errors import GtrTurboError

if TYPE_CHECKING:
    from torch import Tensor


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
    return (-log_ratio).expm1() + log_ratio


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
    log_ratio = (student - teacher).masked_fill(student == -math.inf, 0.0)  # 0 · log 0 = 0
    return (student.exp() * log_ratio).sum(-1)


def top_reverse_kl(logits: Tensor, *, ids: Tensor, teacher_logprobs: Tensor, teacher_rest: Tensor) -> Tensor:
    """Sum KL(student ‖ teacher) per token over the teacher's most likely tokens and one bucket for all others.

    Σ_{v in top} p_v (log p_v − log q_v) + P (log P − log Q),   P, Q: probability of all others together

    Never above the KL over the vocabulary, as tokens in one bucket are not told apart (data-processing inequality); equal to
    it where all tokens are in the top.

    Args:
        logits: of the student, with gradients where they are wanted. [M, V]
        ids: the teacher's most likely tokens. [M, K]
        teacher_logprobs: log q of these, in nats. [M, K]
        teacher_rest: log Q, in nats; −inf where no others are. [M]

    Returns: KL per token, in nats; differentiable. [M]

    Raises: ValueError: Shapes differ.

    Source: Cover and Thomas, "Elements of Information Theory", theorem 2.7.1 (log sum inequality).
    """
    require_same_shape(ids=ids, teacher_logprobs=teacher_logprobs)
    require_same_shape(logits=logits[:, 0], teacher_rest=teacher_rest)
    logprobs = logits.log_softmax(-1)
    top, others = logprobs.gather(-1, ids), logprobs.scatter(-1, ids, -math.inf)
    none_left = (others == -math.inf).all(-1)
    # Where none are left, log P is made a number, so that no nan comes out of 0 · (−inf + inf) or of its gradient.
    rest = others.masked_fill(none_left[:, None], 0.0).logsumexp(-1)
    bucket = rest.exp() * (rest - teacher_rest.masked_fill(none_left, 0.0))
    return (top.exp() * (top - teacher_logprobs)).sum(-1) + bucket.masked_fill(none_left, 0.0)


@dataclass(frozen=True)
class Estimator:
    """How the KL of a token is measured.

    Attributes:
        per_token: As `kl_k1`, of the tokens that were sampled; where `distributions`, as `top_reverse_kl`.
        no_loss: Why it may not stand beside PPO as a loss; None where it may.
        distributions: It needs the teacher's most likely tokens.
    """

    per_token: Callable[..., Tensor]
    no_loss: str | None = None
    distributions: bool = False


# With r = log p − log q, ∇ of an estimator k(r) is on average E[k'(r) ∇log p]; of the KL it is E[r ∇log p].
ESTIMATORS = {
    K1_CLIP: Estimator(
        kl_k1_clipped,
        "its gradient is 0 where the teacher likes a token better and elsewhere the same however far apart the two are",
    ),
    "k1": Estimator(kl_k1, "its expected gradient is 0"),
    "abs": Estimator(kl_abs, "its gradient is the same however far apart the two are"),
    K2: Estimator(kl_k2),
    "k3": Estimator(kl_k3, "its expected gradient is that of the forward KL, from teacher to student"),
    FULL: Estimator(top_reverse_kl, distributions=True),
}


def require_loss(name: str, estimator: object) -> None:
    """Refuse as a loss what is none.

    Args:
        name: As the user wrote it.
        estimator: What was found under the name: an Estimator, or a function of the user's own.

    Raises:
        GtrTurboError: its gradient is not that of the KL; says why, and which may be a loss.
    """
    why = estimator.no_loss if isinstance(estimator, Estimator) else "a function of your own gives a KL without gradient"
    if why:
        losses = ", or ".join(known for known, built_in in ESTIMATORS.items() if not built_in.no_loss)
        raise GtrTurboError(f"{name} is no loss: {why}.", f"with --kl-placement loss give: --kl-estimator {losses}")
