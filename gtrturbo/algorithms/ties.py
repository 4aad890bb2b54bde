"""Merging task vectors, one tensor at a time.

A task vector is what training changed: checkpoint − base. Sums run in float64, so that rounding once to a checkpoint's
dtype (float32 or narrower) gives n copies of one checkpoint back bit by bit, whatever n and the weights.
After trimming everything is element by element, so a large tensor may be merged in slices.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from gtrturbo.algorithms.trim import trim

_MERGE_TILE = 1 << 16  # entries; temporaries of a tile stay in the cache, 7 times faster than whole tensors


def task_vector(weights: Tensor, base: Tensor) -> Tensor:
    """Return what training changed: weights − base, in float64.

    Exact for float32 weights within a factor 2^29 of the base; in float32, base + (weights − base) need not be weights.

    Raises: ValueError: Shapes differ.

    Source: Ilharco et al., "Editing Models with Task Arithmetic" (arXiv 2212.04089), section 2.
    """
    if weights.shape != base.shape:
        raise ValueError(f"shapes differ: weights {list(weights.shape)}, base {list(base.shape)}.")
    return weights.double() - base.double()


def apply_task_vector(base: Tensor, merged: Tensor, *, scale: float = 1.0) -> Tensor:
    """Return base + scale · merged, rounded once to the base's dtype; scale is λ of TIES, 1 in GTR-Turbo."""
    return (base.double() + scale * merged.double()).to(base.dtype)


def elect_and_merge(trimmed: Iterable[Tensor], *, weights: Sequence[float]) -> Tensor:
    """Average, at each entry, the trimmed task vectors that agree with the elected sign.

    γ = sign(Σ_i w_i τ_i), where 0 counts as +;   τ_m = Σ_{i: sign τ_i = γ} w_i τ_i / Σ_{i: sign τ_i = γ} w_i

    The result is 0 where every τ_i is 0. Task vectors are read once, one at a time: the state is four sums per entry,
    however many there are.

    Args:
        trimmed: τ_i, one per checkpoint, of one shape.
        weights: w_i, at least 0; only their ratios matter.

    Returns: τ_m in float64, of that shape.

    Raises: ValueError: No task vectors, not one weight for each, or weights that are not finite, negative or all 0.

    Source: Yadav et al., "TIES-Merging" (arXiv 2306.01708), section 3.2, steps 2 and 3, with weights.
    """
    pairs = _paired(trimmed, weights)
    first, weight = next(pairs)
    sums = _SignedSums.zeros(first)
    sums.add(first, weight)
    for vector, weight in pairs:
        sums.add(vector, weight)
    return sums.merged()


def ties(task_vectors: Iterable[Tensor], *, weights: Sequence[float], density: float) -> Tensor:
    """Merge the task vectors of one tensor by TIES: trim each, elect a sign per entry, average those that agree.

    TIES of a single task vector at density below 1 is its trimmed form, not itself.

    Args: As in `elect_and_merge` and `trim`.

    Source: Yadav et al., "TIES-Merging" (arXiv 2306.01708), algorithm 1.
    """
    return elect_and_merge((trim(vector, density=density) for vector in task_vectors), weights=weights)


def linear(task_vectors: Iterable[Tensor], *, weights: Sequence[float]) -> Tensor:
    """Return the weighted mean Σ w_i τ_i / Σ w_i of the task vectors of one tensor.

    Arguments, errors: see `elect_and_merge`.

    Source: Wortsman et al., "Model soups" (arXiv 2203.05482), with weights.
    """
    pairs = _paired(task_vectors, weights)
    first, weight_sum = next(pairs)
    total = weight_sum * first.double()
    for vector, weight in pairs:
        total.add_(vector.double(), alpha=weight)
        weight_sum += weight
    return total.div_(weight_sum)


@dataclass(frozen=True)
class _SignedSums:
    """Running sums per entry, float64: of positive and negative entries, and of the weights behind each."""

    positive: Tensor
    negative: Tensor
    positive_weight: Tensor
    negative_weight: Tensor

    @classmethod
    def zeros(cls, like: Tensor) -> "_SignedSums":
        return cls(*(torch.zeros(like.shape, dtype=torch.float64, device=like.device) for _ in range(4)))

    def add(self, vector: Tensor, weight: float) -> None:
        sums = (self.positive, self.negative, self.positive_weight, self.negative_weight)
        for tile, *tiles in zip(*(tensor.view(-1).split(_MERGE_TILE) for tensor in (vector.contiguous(), *sums)), strict=True):
            tile = tile.double()
            # Not add_(…, alpha=weight), which rounds once where a processor can: votes that cancel would be decided by that.
            tiles[0].add_(tile.clamp(min=0) * weight)
            tiles[1].add_(tile.clamp(max=0) * weight)
            tiles[2].add_((tile > 0).double() * weight)
            tiles[3].add_((tile < 0).double() * weight)

    def merged(self) -> Tensor:
        elected_plus = self.positive + self.negative >= 0
        total = torch.where(elected_plus, self.positive, self.negative)
        weight = torch.where(elected_plus, self.positive_weight, self.negative_weight)
        return (total / weight).where(weight > 0, 0.0)


def _paired(vectors: Iterable[Tensor], weights: Sequence[float]) -> Iterator[tuple[Tensor, float]]:
    """Yield each task vector with its weight relative to the largest, checked.

    Equal weights become exactly 1, so that entries which cancel sum to exactly 0, in any order of the checkpoints.
    """
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
        raise ValueError(f"weights must be finite, at least 0 and not all 0, got {list(weights)}.")
    shape: list[int] | None = None
    for vector, weight in zip_longest(vectors, weights):
        if vector is None or weight is None:
            raise ValueError(f"there is not one task vector for each of the {len(weights)} weights.")
        shape = list(vector.shape) if shape is None else shape
        if list(vector.shape) != shape:
            raise ValueError(f"shapes differ: {shape} and {list(vector.shape)}.")
        yield vector, weight / max(weights)
