"""Intervals, differences and areas for runs that differ in their seed, and an estimate of what thoughts tell about pictures."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval; `low` and `high` are None where one value says nothing of the spread."""

    mean: float
    low: float | None
    high: float | None

    @property
    def resolved(self) -> bool:
        """Tell whether there is an interval that leaves 0 out."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def student_t_cdf(t: float, degrees: int) -> float:
    """Return P(T ≤ t) of Student's t with a whole number of degrees of freedom, at least 1.

    A finite sum in θ = arctan(t / √ν).

    Source: Abramowitz and Stegun, "Handbook of Mathematical Functions" (1964), 26.7.3 and 26.7.4.
    """
    if degrees < 1:
        raise ValueError(f"Student's t needs at least 1 degree of freedom, got {degrees}.")
    angle = math.atan(t / math.sqrt(degrees))
    odd, cosine = degrees % 2, math.cos(angle)
    term, total = (cosine if odd else 1.0), 0.0
    for k in range(2 + odd, degrees + 1, 2):
        total += term
        term *= cosine * cosine * (k - 1) / k
    between = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
    return 0.5 + between / 2


def student_t_quantile(share: float, degrees: int) -> float:
    """Return the t with P(T ≤ t) = share in (0, 1), to 12 digits, by bisection."""
    if not 0 < share < 1:
        raise ValueError(f"share must be in (0, 1), got {share}.")
    low, high = -1.0, 1.0
    while student_t_cdf(low, degrees) > share:
        low *= 2
    while student_t_cdf(high, degrees) < share:
        high *= 2
    while high - low > 1e-12 * max(1.0, abs(low)):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if student_t_cdf(middle, degrees) < share else (low, middle)
    return (low + high) / 2


def bootstrap(strata: Sequence[Sequence[float]], *, confidence: float = 0.95, seed: int = 0) -> Interval:
    """Return the mean of the strata's means, with an interval for new seeds from the same strata.

    Stratified: values (one per seed) are drawn with replacement within each stratum (a task). Expanded percentiles: drawing
    from n values understates their spread by √((n − 1) / n) and knows no tails, so the interval ends at the bootstrap's
    quantiles Φ(± t · √(n / (n − 1))) instead of Φ(± z), with t of n − 1 degrees of freedom, n the smallest stratum.

    All n draws are the smallest value once in nⁿ. Of fewer than five that is likelier than the tail to be left out: the interval
    is the values' range, and it holds the mean less often than it says: of 2, 3 and 5 normal values at 95 % in about 51, 75
    and 93 of 100 cases (measured), of 8 in 95.

    Args:
        strata: values of each stratum, one per seed; at least one value in each.
        confidence: in (0, 1).
        seed: of the resampling.

    Returns: no interval where a stratum has a single value.

    Raises: ValueError: no strata, or an empty one.

    Source: Agarwal et al., "Deep RL at the Edge of the Statistical Precipice" (2021), section 4.1, for the strata; Hesterberg,
        "What Teachers Should Know About the Bootstrap" (2015), section 5.3, for the expansion.
    """
    if not strata or not all(strata):
        raise ValueError("every stratum needs at least one value.")
    groups = [np.asarray(values, float) for values in strata]
    centre = math.fsum(math.fsum(values) / len(values) for values in strata) / len(strata)
    count = min(map(len, strata))
    if count < 2:
        return Interval(centre, None, None)
    rng = np.random.default_rng(seed)
    draws = [values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1) for values in groups]
    stretched = student_t_quantile(0.5 + confidence / 2, count - 1) * math.sqrt(count / (count - 1))
    tail = NormalDist().cdf(-stretched)
    low, high = np.quantile(np.mean(draws, axis=0), [tail, 1 - tail])
    return Interval(centre, float(low), float(high))


def area_under_curve(steps: Sequence[float], values: Sequence[float]) -> float:
    """Return the mean height of a curve: its area by trapezoids over the range of its steps, in units of the values.

    Raises: ValueError: fewer than two steps, unequal lengths, or steps that do not rise.
    """
    if len(steps) != len(values) or len(steps) < 2:
        raise ValueError(f"a curve needs equal numbers of steps and values, at least 2, got {len(steps)} and {len(values)}.")
    widths = [late - early for early, late in itertools.pairwise(steps)]
    if min(widths) <= 0:
        raise ValueError("the steps of a curve must rise.")
    heights = [(early + late) / 2 for early, late in itertools.pairwise(values)]
    return math.fsum(w * h for w, h in zip(widths, heights, strict=True)) / math.fsum(widths)


def cross_input_information(logprobs: np.ndarray) -> float:
    """Estimate from below how much a thought tells about the input that it was written for, in nats.

    Î = mean_i [ log p(z_i | x_i) − log (1/M Σ_j p(z_i | x_j)) ]

    At most log M. 0 where every input gives every thought the same probability: thoughts that ignore the picture, however
    diverse they are. An estimate of I(thought; input) from below, where the z_i are samples of p(· | x_i).

    Args:
        logprobs: log p(z_i | x_j), row i the thought, column j the input. [M, M]

    Raises: ValueError: not square, or empty.

    Source: Wang et al., "RAGEN-2: Reasoning Collapse in Agentic RL" (arXiv 2604.06268), for its use; Poole et al., "On
        Variational Bounds of Mutual Information" (arXiv 1905.06922), section 2.3, for the bound.
    """
    if logprobs.ndim != 2 or logprobs.shape[0] != logprobs.shape[1] or not len(logprobs):
        raise ValueError(f"cross-scores must be square, got {logprobs.shape}.")
    scores = logprobs.astype(np.float64)
    most = scores.max(axis=1, keepdims=True)
    marginal = most[:, 0] + np.log(np.exp(scores - most).mean(axis=1))
    return float((np.diagonal(scores) - marginal).mean())


def said(interval: Interval, *, sign: bool = False) -> str:
    """Write a mean and its interval."""
    form = "+.3f" if sign else ".3f"
    if interval.low is None or interval.high is None:
        return f"{interval.mean:{form}}"
    return f"{interval.mean:{form}} [{interval.low:{form}}, {interval.high:{form}}]"
