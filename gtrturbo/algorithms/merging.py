"""Merge methods, one pure function each on the task vectors of one tensor, whole and in float64.

They are the definition: `merge` streams the same in tiles, and `merge --verify` compares the two. TIES is in `ties`.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gtrturbo.algorithms.geometry import model_stock_coefficients, multislerp_coefficients, slerp_coefficients
from gtrturbo.algorithms.ties import elect_and_merge
from gtrturbo.algorithms.trim import trim_threshold

Vectors = Sequence[Tensor]


def weighted_sum(vectors: Vectors, *, weights: Sequence[float]) -> Tensor:
    """Return Σ w_i τ_i.

    Source: Ilharco et al., "Editing Models with Task Arithmetic" (arXiv 2212.04089), section 3.
    """
    total = torch.zeros_like(vectors[0], dtype=torch.float64)
    for vector, weight in zip(vectors, weights, strict=True):
        total += weight * vector.double()
    return total


def drop(vector: Tensor, *, kept: Tensor, density: float) -> Tensor:
    """Zero the entries that are not kept and divide the others by the share that is kept on average.

    Source: Yu et al., "Language Models are Super Mario" (arXiv 2311.03099), DARE, equation 2.
    """
    return torch.where(kept, vector.double() / density, 0.0)


def breadcrumbs(vector: Tensor, *, density: float, gamma: float) -> Tensor:
    """Zero the largest share γ of a task vector and its smallest entries, so that about a share of `density` is left.

    With n entries, ⌊γ n⌋ are too large, fewer where the density would not be left, and of the others the max(1, ⌊density·n⌋)
    largest stay. Entries tied with either bound stay.

    Source: Davari and Belilovsky, "Model Breadcrumbs" (arXiv 2312.06795), section 3; per tensor.
    """
    count = vector.numel()
    kept = max(1, int(density * count))
    top = min(int(gamma * count), count - kept)
    magnitudes = vector.double().abs()
    ordered = magnitudes.flatten().sort(descending=True).values
    return vector.double().where((magnitudes >= ordered[kept + top - 1]) & (magnitudes <= ordered[top]), 0.0)


def slerp(vectors: Vectors, *, t: float, lerp_above: float = 0.9995) -> Tensor:
    """Go from the first of two vectors to the second along the arc between them; see `slerp_coefficients`."""
    return weighted_sum(vectors, weights=slerp_coefficients(gram(vectors).numpy(), t=t, lerp_above=lerp_above))


def multislerp(vectors: Vectors, *, weights: Sequence[float]) -> Tensor:
    """Take a weighted barycentre on the sphere; see `multislerp_coefficients`."""
    return weighted_sum(vectors, weights=multislerp_coefficients(gram(vectors).numpy(), weights))


def model_stock(vectors: Vectors) -> Tensor:
    """Go from the base towards the mean as far as the angles between the task vectors say; see `model_stock_coefficients`."""
    return weighted_sum(vectors, weights=model_stock_coefficients(gram(vectors).numpy()))


def gram(vectors: Vectors) -> Tensor:
    """Return the inner products [k, k] of k vectors, float64."""
    rows = torch.stack([vector.double().flatten() for vector in vectors])
    return rows @ rows.T


def sce(vectors: Vectors, *, density: float) -> Tensor:
    """Select, calculate, erase: merge the entries that vary most, weighted by how much of each checkpoint was selected.

    Select the share `density` of the entries with non-zero variance over the checkpoints (entries tied with the last stay),
    all at density 1. Weights are shares of Σ τ² over the selection. Entries against the sign of the sum are erased, and the
    weighted mean of the others is taken.

    Source: Wan et al., "FuseChat" (arXiv 2408.07990), section 3.3, SCE.
    """
    stacked = torch.stack([vector.double() for vector in vectors])
    mean = sum(stacked) / len(stacked)
    variance = torch.as_tensor(sum((stacked - mean).square()) / len(stacked)).where((stacked != stacked[0]).any(dim=0), 0.0)
    if density < 1:
        count = int(int(variance.count_nonzero()) * density)
        least = variance.flatten().sort(descending=True).values[count - 1] if count else torch.tensor(math.inf)
        stacked = stacked.where(variance >= least, 0.0)
    squares = [float(vector.square().sum()) for vector in stacked]
    weights = squares if sum(squares) > 0 else [1.0] * len(squares)
    elected = torch.where(torch.as_tensor(sum(stacked)) >= 0, 1.0, -1.0)
    return elect_and_merge(list(stacked.where(stacked.sign() == elected, 0.0)), weights=weights)


def kept_sum(trimmed: Vectors, *, weights: Sequence[float], count: bool, average: bool) -> Tensor:
    """Elect a sign per entry and sum the entries that agree; `average` divides by their weights.

    Args:
        trimmed: task vectors.
        weights: at least 0.
        count: one vote per checkpoint instead of votes of Σ w_i τ_i; 0 counts as + in both.
        average: as in TIES; else the sum is left as it is.
    """
    if not count and average:
        return elect_and_merge(list(trimmed), weights=weights)
    plus = weighted_sum([vector.clamp(min=0) for vector in trimmed], weights=weights)
    minus = weighted_sum([vector.clamp(max=0) for vector in trimmed], weights=weights)
    votes = weighted_sum([vector.sign() for vector in trimmed], weights=[1.0] * len(weights)) if count else plus + minus
    if not average:
        return torch.where(votes >= 0, plus, minus)
    agreeing = [(vector > 0).where(votes >= 0, vector < 0).double() for vector in trimmed]
    weight = weighted_sum(agreeing, weights=weights)
    return torch.where(weight > 0, torch.where(votes >= 0, plus, minus) / weight, 0.0)


def trimmed(vector: Tensor, *, density: float) -> Tensor:
    """Trim a task vector; at density 1 nothing is trimmed."""
    threshold = trim_threshold(vector, density=density)
    return vector.double().where(vector.abs() >= threshold, 0.0)
