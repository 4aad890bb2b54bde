"""Whether tokens were sampled from the distribution that they are said to be from: a test that holds at any number of tokens.

Log-probs that are right do not show it: a server that takes the likeliest token, or leaves out unlikely ones, tells the right
log-probs of what it took. How often it took what does.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gtrturbo.algorithms.vocabulary import LogitsReader

# Other ways to sample that are held against the one that is claimed. At temperature T / (1 + λ): narrower and wider ones.
TEMPERED = (-1 / 2, -1 / 8, -1 / 32, 1 / 32, 1 / 8, 1 / 2, 2)
# The likeliest token but for this share, in which a token is sampled: what takes it may find another the likeliest by rounding.
SELDOM = 1 / 16
# Tilted by μ along the cumulative distribution, in the order of the ids: a source of random numbers that leaves out some.
TILTED = (-2, -1 / 2, 1 / 2, 2)
LEAST_ROOT = 1e-30  # of a probability: what is divided by it is 0 where the probability is
BLOCK = 32  # Distributions at a time: a large vocabulary takes memory several times over.
# Right samples reach this evidence with a probability of e^−20 = 2e-9 at the most, as a normal number is beyond 6 with 2e-9.
TOO_MUCH = 20.0


@dataclass(frozen=True)
class Drawn:
    """How tokens compare with samples of a distribution.

    Attributes:
        z: Σ (log p + H) over the root of the sum of its variances: 0 ± 1 for samples, above for what is likelier than these.
        evidence: ln of how many times likelier they are another way than as samples, in nats; see `evidence_against`.
    """

    z: float
    evidence: float


def draws_reader(ids: Tensor) -> LogitsReader:
    """Read off each distribution what tells whether its token was sampled from it.

    For an alternative q to p, where p(y) is the probability of token y:

        tempered by λ:  q(y) ∝ p(y)^(1 + λ)
        the likeliest:  q(y) = (1 − ε) [y = argmax p] + ε p(y),  ε = 1/16
        tilted by μ:    q(y) ∝ p(y) exp(μ (F(y) − ½)),  F(y) = Σ_{v < y} p(v) + ½ p(y)

    Args:
        ids: of the M tokens. [M]

    Returns: a reader of logits [M, V] that gives, [M, 2 + K] float32: log p(y) + H with H = −Σ p log p, whose mean is 0 for
        samples; its variance, Σ p (log p + H)²; and log q(y)/p(y) for each of the K alternatives.
    """

    def read(logits: Tensor, part: slice) -> tuple[Tensor, ...]:
        blocks = zip(logits.split(BLOCK), ids[part].to(logits.device).long().split(BLOCK), strict=True)
        return (torch.cat([_read(some, own[:, None]) for some, own in blocks]),)

    return read


def _read(logits: Tensor, own: Tensor) -> Tensor:
    """See `draws_reader`; of the tokens [M, 1]."""
    logprobs = logits.float().log_softmax(-1)
    p = logprobs.exp()
    finite = logprobs.masked_fill(p == 0, 0.0)  # 0 log 0 is 0.
    centred = finite - (p * finite).sum(-1, keepdim=True)
    columns = [centred.gather(-1, own), (p * centred.square()).sum(-1, keepdim=True)]
    taken = logprobs.gather(-1, own)
    columns += [power * taken - total.log() for power, total in zip(TEMPERED, _tempered_totals(p), strict=True)]
    most = p.amax(-1, keepdim=True)
    columns.append(torch.where(p.gather(-1, own) == most, (1 - SELDOM) / most + SELDOM, SELDOM).log())
    place = p.cumsum(-1) - p / 2 - 0.5
    taken = place.gather(-1, own)
    columns += [tilt * taken - total.log() for tilt, total in zip(TILTED, _tilted_totals(p, place), strict=True)]
    return torch.cat(columns, dim=-1)


def _tempered_totals(p: Tensor) -> list[Tensor]:
    """Return Σ p^(1 + λ) for each λ of `TEMPERED`, by square roots, which cost less than exponentials. [M, 1] each"""
    half = p.sqrt()
    eighth = half.sqrt().sqrt()
    least = eighth.sqrt().sqrt()  # p^(1/32)
    powers = (half, p / eighth.clamp_min(LEAST_ROOT), p / least.clamp_min(LEAST_ROOT), p * least, p * eighth, p * half, p * p * p)
    return [each.sum(-1, keepdim=True) for each in powers]


def _tilted_totals(p: Tensor, place: Tensor) -> list[Tensor]:
    """Return Σ p exp(μ (F − ½)) for each μ of `TILTED`. [M, 1] each"""
    half = (place / 2).exp()
    two = half.square().square()
    return [each.sum(-1, keepdim=True) for each in (p / two, p / half, p * half, p * two)]


def drawn(read: Tensor, logprobs: Tensor, told: Tensor | None = None) -> Drawn:
    """Say how tokens compare with samples.

    Args:
        read: what the reader of `draws_reader` gave. [M, 2 + K]
        logprobs: log p of the tokens, in nats. [M]
        told: log-probs that came with them, where those are to be of the distribution that they were sampled from, which may be
            p up to rounding. [M]
    """
    read = read.double()
    variance = float(read[:, 1].sum())
    z = float(read[:, 0].sum()) / math.sqrt(variance) if variance > 0 else 0.0
    evidence = evidence_against(read[:, 2:])
    if told is not None:
        evidence = min(evidence, evidence_against(read[:, 2:] + (logprobs - told).double()[:, None]))
    return Drawn(z, evidence)


def evidence_against(ratios: Tensor) -> float:
    """Return the evidence that M tokens were not sampled from p, in nats: the log of the mean, over alternatives, of q's
    likelihood of all of them over p's.

    E = 1/K Σ_k Π_t q_k(y_t) / p(y_t)

    For samples of p each factor has the mean Σ_y p q_k / p = 1 whatever came before, so that E is a martingale of mean 1, and by
    Ville's inequality P(E ever reaches a) ≤ 1/a: for any number of tokens, wherever replies are cut, and for distributions of any
    shape. A bound on z alone has no such property: of tokens that are nearly certain z is far from normal.

    p may be the sampler's own where that differs from ours by rounding: its log-probs are those that it told, and the mean of
    q_k / p is 1 with these as well. The smaller evidence of the two holds against either.

    Args:
        ratios: log q_k(y_t) / p(y_t). [M, K]

    Source: Ville (1939); Ramdas et al., "Game-theoretic statistics and safe anytime-valid inference" (arXiv 2210.01948).
    """
    return float(ratios.sum(0).logsumexp(0)) - math.log(ratios.shape[1])
