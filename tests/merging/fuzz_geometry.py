"""What methods of angles and of variances give for one tensor, in float64 by numpy alone, for fuzz.py."""

import math

import numpy as np
from fuzz_rules import Vectors, rows_of

CLOSE = 1e-9  # relative: what lies so near a bound is decided by rounding


def norm(vector: np.ndarray) -> float:
    return math.sqrt(math.fsum((vector * vector).ravel()))


def product(a: np.ndarray, b: np.ndarray) -> float:
    return math.fsum((a * b).ravel())


def undecided(like: np.ndarray) -> np.ndarray:
    return np.full(like.shape, np.nan)


def arc(first: np.ndarray, second: np.ndarray, t: float) -> np.ndarray:
    """From one vector to another on the sphere, straight where they are parallel; undecided where they are nearly opposite."""
    norms = norm(first) * norm(second)
    if norms == 0:
        return (1 - t) * first + t * second
    units = first / norm(first), second / norm(second)
    half = norm(units[0] - units[1]) / 2, norm(units[0] + units[1]) / 2  # of the angle: its sine and cosine
    angle = 2 * math.atan2(*half)
    if min(half) < 1e-9:
        return (1 - t) * first + t * second
    if half[1] < 1e-4:
        return undecided(first)
    return (math.sin((1 - t) * angle) * first + math.sin(t * angle) * second) / math.sin(angle)


def arcs(vectors: Vectors, weights: list[float], *, by_column: bool) -> np.ndarray:
    """NuSLERP of mergekit row by row, or column by column: of a tensor's first axis against all others."""
    first, second = vectors
    t = weights[1] / (weights[0] + weights[1])
    if by_column:
        shape = (first.shape[0], -1) if first.ndim else (1, 1)
        pairs = zip(first.reshape(shape).T, second.reshape(shape).T, strict=True)
        return np.stack([arc(*pair, t) for pair in pairs], axis=1).reshape(first.shape)
    pairs = zip(rows_of(first), rows_of(second), strict=True)
    return np.stack([arc(*pair, t) for pair in pairs]).reshape(first.shape)


def barycentre(vectors: Vectors, weights: list[float], *, normalize: bool, eps: float) -> np.ndarray:
    """Multi-SLERP of mergekit: through the tangent space at the mean direction, by projections, at the weighted mean norm."""
    if len(vectors) == 1:
        return vectors[0]
    shares = [weight / (math.fsum(weights) if normalize else 1.0) for weight in weights]
    units = [vector / (norm(vector) + eps) for vector in vectors]
    mean = sum(share * unit for share, unit in zip(shares, units, strict=True))
    length = norm(mean)
    if not any(map(norm, vectors)):
        return np.zeros(vectors[0].shape)
    if length < max(1e-3, 2 * eps):
        return undecided(vectors[0])
    mean = mean / length
    tangent = sum(share * (unit - product(unit, mean) * mean) for share, unit in zip(shares, units, strict=True))
    size = norm(tangent) + eps
    turned = math.cos(size) * mean + math.sin(size) / size * tangent
    return math.fsum(share * norm(vector) for share, vector in zip(shares, vectors, strict=True)) * turned


def stock(vectors: Vectors) -> np.ndarray:
    """Model Stock (arXiv 2403.19522): the mean, as far as the mean cosine of all pairs says."""
    k = len(vectors)
    cosines = []
    for i in range(k):
        for j in range(i):
            norms = norm(vectors[i]) * norm(vectors[j])
            cosines.append(product(vectors[i], vectors[j]) / norms if norms else 0.0)
    cosine = math.fsum(cosines) / len(cosines)
    below = 1 + (k - 1) * cosine
    if 1e-13 < abs(below) < 1e-3:
        return undecided(vectors[0])
    return (k * cosine / below if abs(below) > 1e-13 else 0.0) * sum(vectors) / k


def stock_rows(vectors: Vectors) -> np.ndarray:
    """The same with an angle for each row."""
    rows = [rows_of(vector) for vector in vectors]
    return np.stack([stock([each[row] for each in rows]) for row in range(len(rows[0]))]).reshape(vectors[0].shape)


def selected(vectors: Vectors, density: float) -> np.ndarray:
    """SCE (arXiv 2408.07990): entries that vary most, weights by what is selected of each, elected signs."""
    stacked = np.stack([vector.ravel() for vector in vectors])
    means = np.array([math.fsum(column) / len(column) for column in stacked.T])
    varied = (stacked != stacked[0]).any(axis=0)
    variance = np.where(varied, ((stacked - means) ** 2).mean(axis=0), 0.0)
    if density < 1:
        count = int(int(np.count_nonzero(varied)) * density)
        if not count:
            return np.zeros(vectors[0].shape)
        least = np.sort(variance)[-count]
        if (np.abs(variance - least) <= CLOSE * least).sum() > 1 or int(varied.sum()) * density % 1 > 1 - 1e-9:
            return undecided(vectors[0])
        stacked = np.where(variance >= least, stacked, 0.0)
    squares = [math.fsum(row * row) for row in stacked]
    weights = squares if math.fsum(squares) else [1.0] * len(squares)
    out = np.zeros(stacked.shape[1])
    for place, entries in enumerate(stacked.T):
        up = math.fsum(entries) >= 0
        agreeing = [(weight, entry) for weight, entry in zip(weights, entries, strict=True) if (entry > 0 if up else entry < 0)]
        if total := math.fsum(weight for weight, _ in agreeing):
            out[place] = math.fsum(weight * entry for weight, entry in agreeing) / total
        size = math.fsum(map(abs, entries))
        if 0 < abs(math.fsum(entries)) <= 1e-15 * size:
            out[place] = np.nan
    return out.reshape(vectors[0].shape)
