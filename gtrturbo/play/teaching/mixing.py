"""Several teachers of the same turns: the log-probs of their mixture, and which of them is asked about which turn."""

from collections.abc import Sequence

import numpy as np

from gtrturbo.errors import GtrTurboError
from gtrturbo.store.ids import seed_for


def parts_of(weights: str | None, count: int) -> np.ndarray:
    """Read the weights of teachers as parts of one, equal if none are given. [count] float64

    Raises:
        GtrTurboError: there are more or fewer than teachers.
    """
    numbers = np.array([float(each) for each in weights.split(",")] if weights else [1.0] * count)
    if len(numbers) != count:
        raise GtrTurboError(
            f"--teacher-weights has {len(numbers)} numbers for {count} teachers.", "give one for each, such as 2,1."
        )
    return numbers / numbers.sum()


def mixture(rows: Sequence[Sequence[np.ndarray]], parts: np.ndarray) -> list[np.ndarray]:
    """Return log Σᵢ wᵢ pᵢ(token): the log-probs of who asks teacher i with probability wᵢ at each token.

    Args:
        rows: of each of k teachers, of each of N turns, log-probs in nats. k × N × [R]
        parts: wᵢ, which sum to 1. [k]

    Returns: N × [R] float32.
    """
    logs = np.log(parts)[:, None]
    mixed = []
    for of_turn in zip(*rows, strict=True):
        terms = np.stack([row.astype(np.float64) for row in of_turn]) + logs
        highest = terms.max(axis=0)
        mixed.append((highest + np.log(np.exp(terms - highest).sum(axis=0))).astype(np.float32))
    return mixed


def shares(count: int, parts: np.ndarray, *, seed: int) -> np.ndarray:
    """Draw for each turn which teacher is asked, teacher i with probability wᵢ. [count] int"""
    return np.random.default_rng(seed_for(seed, "teachers")).choice(len(parts), size=count, p=parts)
