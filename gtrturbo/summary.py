"""Numbers that a person reads first: success with its interval, return, length, illegal replies, thought accuracy."""

import itertools
import math
from collections.abc import Sequence
from statistics import NormalDist

from gtrturbo.records import Turn, mean


def wilson(successes: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a success rate.

    (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n),   p = successes / trials

    Raises: ValueError: no trials.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference" (1927).
    """
    if trials < 1:
        raise ValueError("an interval needs at least one trial.")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p, n = successes / trials, trials
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (centre - half) / (1 + z * z / n)), min(1.0, (centre + half) / (1 + z * z / n))


def by_episode(turns: Sequence[Turn]) -> list[list[Turn]]:
    """Group turns, sorted by (episode, turn), into episodes."""
    return [list(group) for _, group in itertools.groupby(turns, key=lambda turn: turn.episode)]


def summarize(turns: Sequence[Turn]) -> dict[str, float]:
    """Summarise whole episodes.

    success_rate: share of episodes won, with Wilson's 95 % interval success_low, success_high.
    positive_return_rate: share with return > 0, which is what the papers of this line report as success.
    return_mean: undiscounted return of the environment's rewards. length_mean: turns per episode.
    illegal_rate: share of replies that do not parse.
    thought_accuracy: share of turns whose reply states what the picture shows; a reply that does not parse states nothing.
    """
    episodes = by_episode(turns)
    won = sum(episode[-1].won for episode in episodes)
    low, high = wilson(won, len(episodes))
    returns = [sum(turn.reward for turn in episode) for episode in episodes]
    return {
        "episodes": len(episodes),
        "turns": len(turns),
        "success_rate": won / len(episodes),
        "success_low": low,
        "success_high": high,
        "positive_return_rate": mean(total > 0 for total in returns),
        "return_mean": mean(returns),
        "length_mean": len(turns) / len(episodes),
        "illegal_rate": mean(not turn.legal for turn in turns),
        "thought_accuracy": mean(bool(turn.reads_truly) for turn in turns),
    }


def paired_difference(before: Sequence[bool], after: Sequence[bool], *, confidence: float = 0.95) -> tuple[float, float, float]:
    """Return the difference of two success rates on the same deals, with its normal interval.

    d̄ ± z s / √n over the differences d of each deal, s their sample standard deviation.

    Raises: ValueError: different numbers of deals, or fewer than two.
    """
    if len(before) != len(after) or len(before) < 2:
        raise ValueError(f"pairs need equal numbers of deals, at least 2, got {len(before)} and {len(after)}.")
    differences = [int(late) - int(early) for early, late in zip(before, after, strict=True)]
    centre = mean(differences)
    variance = sum((d - centre) ** 2 for d in differences) / (len(differences) - 1)
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * math.sqrt(variance / len(differences))
    return centre, centre - half, centre + half
