"""What the newer merge rules give for one tensor, in float64 by numpy alone, for fuzz.py; written anew from their sources."""

import hashlib
import math

import numpy as np

Vectors = list[np.ndarray]


def uniform(seed: int, number: int, name: str, count: int) -> np.ndarray:
    """Numbers in [0, 1) of a checkpoint's tensor: splitmix64 of a key and the entry's place. [count]"""
    key = int.from_bytes(hashlib.sha256(f"{seed}/dare/{number}/{name}".encode()).digest()[:8], "big") >> 1
    word = np.uint64(key) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ word >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ word >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return ((word ^ word >> np.uint64(31)) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def rows_of(values: np.ndarray) -> np.ndarray:
    """The rows along a tensor's last axis; a scalar is one of one entry."""
    return values.reshape(-1, values.shape[-1] if values.ndim else 1)


def magnitude_pruned(vector: np.ndarray, keep: float, epsilon: float, numbers: np.ndarray) -> np.ndarray:
    """DELLA's MAGPRUNE (arXiv 2406.11617, 3.1): larger entries of a row are likelier to stay, and are divided by how likely."""
    if keep == 1:
        return vector
    out, dice = rows_of(vector).copy(), numbers.reshape(rows_of(vector).shape)
    for row, thrown in zip(out, dice, strict=True):
        for rank, place in enumerate(sorted(range(len(row)), key=lambda at: (abs(row[at]), at))):
            chance = keep if len(row) == 1 else keep - epsilon + 2 * epsilon * rank / (len(row) - 1)
            row[place] = row[place] / chance if thrown[place] < chance else 0.0
    return out.reshape(vector.shape)


def ranked_by_rounding(vector: np.ndarray) -> np.ndarray:
    """Mark entries of a row whose magnitudes differ by so little that rounding decides which is the larger."""
    out = np.zeros(vector.shape, bool)
    for row, marks in zip(rows_of(np.abs(vector)), rows_of(out), strict=True):
        order = np.argsort(row, kind="stable")
        gaps = np.diff(row[order])
        close = np.flatnonzero((gaps > 0) & (gaps <= 1e-12 * row[order][1:]))
        marks[order[close]] = marks[order[close + 1]] = True
    return out


def alone_or_averaged(vectors: Vectors, epsilon: float, factors: list[float]) -> np.ndarray:
    """RAM (arXiv 2601.13572): what one checkpoint alone moved, times its factor; of what several moved, their mean."""
    out = np.zeros(vectors[0].size)
    for place, entries in enumerate(zip(*(vector.ravel() for vector in vectors), strict=True)):
        moved = [number for number, entry in enumerate(entries) if abs(entry) > epsilon]
        if len(moved) == 1:
            out[place] = factors[moved[0]] * entries[moved[0]]
        elif moved:
            out[place] = math.fsum(entries[number] for number in moved) / len(moved)
    return out.reshape(vectors[0].shape)


def ram_plus_factors(vectors: Vectors, *, epsilon: float, r: float, alpha: float) -> list[float]:
    """1 + r · min(α, shared / alone), both counted over a tensor's entries."""
    moved = np.array([np.abs(vector.ravel()) > epsilon for vector in vectors])
    several = moved.sum(axis=0) > 1
    factors = []
    for mine in moved:
        shared, alone = int((mine & several).sum()), int((mine & ~several).sum())
        factors.append(1 + r * min(alpha, shared / max(alone, epsilon)))
    return factors


def fused(vector: np.ndarray, base: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Arcee Fusion: entries whose importance is above the median by 1.5 times the distance of the quartiles.

    Returns: the entries, and which of them lie so near the bound that rounding decides.
    """
    rows, origin = rows_of(vector), rows_of(base)
    p, q = (_softmax(each) + 1e-8 for each in (origin + rows, origin))
    divergence = np.array(
        [max(0.0, math.fsum(a * math.log(a / b) for a, b in zip(*pair, strict=True))) for pair in zip(p, q, strict=True)]
    )
    importance = np.abs(rows) * divergence[:, None]
    rising = np.sort(importance, axis=None)
    first, median, third = (rising[int(share * (rising.size - 1))] for share in (0.25, 0.5, 0.75))
    bound = median + 1.5 * (third - first)
    noise = 1e-13 * rows.shape[1] * (np.abs(rows) + 4 * np.abs(rows).max())
    unsure = (np.abs(importance - bound) <= noise) & (rows != 0) & (rows.shape[1] > 1)
    return np.where(importance >= bound, rows, 0.0).reshape(vector.shape), unsure.reshape(vector.shape)


def _softmax(rows: np.ndarray) -> np.ndarray:
    raised = np.exp(rows - rows.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def mean_on_sphere(vectors: Vectors, weights: list[float], *, steps: int = 10, near: float = 1e-5) -> np.ndarray | None:
    """The Karcher mean of directions, at the weighted mean of the norms; None where two are opposite, and there is none."""
    flat = [vector.ravel() for vector in vectors]
    shares = [weight / math.fsum(weights) for weight in weights]
    norms = [math.sqrt(math.fsum(vector * vector)) for vector in flat]
    chosen = [number for number, norm in enumerate(norms) if norm > near]
    if not chosen:
        return np.zeros(vectors[0].shape)
    units = {number: flat[number] / norms[number] for number in chosen}
    pull = {number: shares[number] / math.fsum(shares[other] for other in chosen) for number in chosen}
    mean = sum(pull[number] * units[number] for number in chosen)
    length = math.sqrt(float(mean @ mean))
    mean = mean / length if length >= near else units[chosen[0]]
    for _ in range(steps):
        step = np.zeros(mean.size)
        for number in chosen:
            cosine = min(1.0, max(-1.0, float(mean @ units[number])))
            angle = math.acos(cosine)
            if angle > math.pi - 1e-4 or length < 1e-3:
                return None
            if angle >= near:
                step += pull[number] * angle / math.sin(angle) * (units[number] - cosine * mean)
        size = math.sqrt(float(step @ step))
        if size < near:
            break
        mean = math.cos(size) * mean + math.sin(size) / size * step
        mean = mean / math.sqrt(float(mean @ mean))
    total = math.fsum(share * norm for share, norm in zip(shares, norms, strict=True))
    return (total * mean).reshape(vectors[0].shape)
