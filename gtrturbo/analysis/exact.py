"""Exact tests of paired differences: what chance alone would do, counted out and not resampled."""

import math
from collections.abc import Sequence

import numpy as np

LEVEL = 0.05
# Up to so many pairs all signs are tried; of more, so many draws.
COUNTED, DRAWS = 20, 100_000
ROUNDING = 1e-9  # of the largest difference: sums of the same numbers in another order are the same sum


def sign_flip(strata: Sequence[Sequence[float]], *, seed: int = 0) -> float:
    """Return the two-sided p of the mean of the strata's means, where each difference might as well have had the other sign.

    p = share of all 2ⁿ choices of signs whose |mean| is at least the one seen. With more than 20 differences 100,000 choices are
    drawn, and p = (1 + those) / (1 + draws), which is never too small.

    Args:
        strata: paired differences of each stratum (a task); at least one value in each.
        seed: of the draws.

    Raises: ValueError: no strata, or an empty one.

    Source: Fisher, "The Design of Experiments" (1935), section 21; Phipson and Smyth (2010) for the 1 + of drawn signs.
    """
    if not strata or not all(strata):
        raise ValueError("every stratum needs at least one difference.")
    weighed = np.concatenate([np.asarray(values, float) / len(values) for values in strata]) / len(strata)
    seen, slack = abs(math.fsum(weighed)), ROUNDING * np.abs(weighed).sum()
    count = len(weighed)
    if count <= COUNTED:
        sums = np.zeros(1)
        for value in weighed:
            sums = np.concatenate([sums + value, sums - value])
        return float(np.mean(np.abs(sums) >= seen - slack))
    signs = np.random.default_rng(seed).integers(0, 2, size=(DRAWS, count), dtype=np.int8) * 2 - 1
    return float((1 + np.count_nonzero(np.abs(signs @ weighed) >= seen - slack)) / (1 + DRAWS))


def mcnemar(wins: int, losses: int) -> float:
    """Return the exact two-sided p of deals that only one of two policies won, each as likely to be the one's as the other's.

    p = min(1, 2 · P(X ≤ min(wins, losses))),   X ~ Binomial(wins + losses, ½)

    Source: McNemar (1947), "Note on the Sampling Error of the Difference Between Correlated Proportions", in its exact form.
    """
    count = wins + losses
    tail = sum(math.comb(count, k) for k in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / 2**count)


def fewest_pairs(level: float = LEVEL) -> int:
    """Return how many pairs the sign-flip test needs at least, to be below a level: all signs alike has p = 2^(1 − n)."""
    return 1 + math.ceil(math.log2(1 / level))


def holm(chances: Sequence[float]) -> list[float]:
    """Return p-values adjusted for there being several, in the order given.

    The k-th smallest of m is multiplied by m − k + 1, and none is below the one before; at most 1.

    Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure" (1979).
    """
    adjusted, largest = [0.0] * len(chances), 0.0
    for rank, place in enumerate(sorted(range(len(chances)), key=chances.__getitem__)):
        largest = max(largest, min(1.0, (len(chances) - rank) * chances[place]))
        adjusted[place] = largest
    return adjusted


def chance_said(p: float | None) -> str:
    """Write a p-value."""
    return "–" if p is None else "<.001" if p < 0.001 else f"{p:.3f}".removeprefix("0")
