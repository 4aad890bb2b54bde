"""Trimming a task vector to its largest entries, the first step of TIES."""

import math

import torch
from torch import Tensor

_SEARCH_TILE = 1 << 18  # entries; temporaries of a tile stay in the cache
_TOP_16_BITS = {torch.float32: (torch.int32, 15), torch.float64: (torch.int64, 47)}  # of a float without its sign


def trim_threshold(task_vector: Tensor, *, density: float) -> float:
    """Return the magnitude of the k-th largest entry, k = max(1, ⌊density · n⌋).

    Args:
        task_vector: One tensor of the model, of any shape with n > 0 entries.
        density: Share of entries to keep, in (0, 1].

    Returns: Threshold; 0 if fewer than k entries changed at all, and then trimming does nothing.

    Raises: ValueError: density is outside (0, 1], or the task vector is empty or not finite.
    """
    if not 0 < density <= 1:
        raise ValueError(f"density must be in (0, 1], got {density}.")
    magnitudes = task_vector.detach().abs().flatten()
    if not magnitudes.numel() or not math.isfinite(magnitudes.max().item()):
        raise ValueError("task vector is empty or holds a number that is not finite.")
    return _kth_largest(magnitudes, max(1, int(density * magnitudes.numel())))


def trim(task_vector: Tensor, *, density: float) -> Tensor:
    """Zero all but the largest entries of one tensor.

    Every entry tied with the threshold is kept: the result does not depend on the order of a sort, and the share kept
    may exceed the density. Arguments, errors: see `trim_threshold`.

    Source: Yadav et al., "TIES-Merging" (arXiv 2306.01708), section 3.2, step 1; per tensor instead of per model.
    """
    threshold = trim_threshold(task_vector, density=density)
    return task_vector.where(task_vector.abs() >= threshold, 0.0)


def _kth_largest(magnitudes: Tensor, k: int) -> float:
    """Select exactly: where the dtype allows, count by the top 16 bits, then select within one of these bins."""
    if int(magnitudes.count_nonzero()) < k:
        return 0.0
    if magnitudes.dtype in _TOP_16_BITS:
        magnitudes, k = _within_bin(magnitudes, k)
    if magnitudes.min() == magnitudes.max():  # selection is slow on equal values
        return magnitudes[0].item()
    return magnitudes.kthvalue(len(magnitudes) - k + 1).values.item()


def _within_bin(magnitudes: Tensor, k: int) -> tuple[Tensor, int]:
    """Return the bin that holds the k-th largest, and the rank that is left; 3 to 10 times faster than selecting at once."""
    integer, shift = _TOP_16_BITS[magnitudes.dtype]
    bins = [tile.view(integer) >> shift for tile in magnitudes.split(_SEARCH_TILE)]  # ordered as the non-negative floats are
    counts = torch.stack([torch.bincount(tile, minlength=1 << 16) for tile in bins]).sum(0)
    at_least = counts.flip(0).cumsum(0).flip(0)  # entries in this bin or above
    chosen = int((at_least >= k).sum()) - 1
    candidates = [tile[tile_bins == chosen] for tile, tile_bins in zip(magnitudes.split(_SEARCH_TILE), bins, strict=True)]
    return torch.cat(candidates), k - int(at_least[chosen] - counts[chosen])
