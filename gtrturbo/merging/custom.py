"""A merge rule of the user's own, run on tiles in torch and on whole tensors; what it returns is checked."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from gtrturbo.merging.operands import Operand, RuleFailed, Tile, TileRule
from gtrturbo.merging.tiles import chunk_sums, store, task_vector, trim, wide
from gtrturbo.plugins import explained

Combine = Callable[[Tensor, Tensor], Tensor]


def apply_rule(combine: Combine, vectors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Apply a rule to flat task vectors.

    Args:
        combine: the user's.
        vectors: one per checkpoint, float64. k of [n]
        weights: one per checkpoint.

    Returns: the merged task vector, float64. [n]

    Raises:
        RuleFailed: it raises, or does not return n finite floating-point numbers.
    """
    stacked = torch.stack(list(vectors))
    try:
        merged = combine(stacked, torch.tensor(weights, dtype=torch.float64, device=stacked.device))
    except Exception as error:
        own = explained(error)
        said = f"it raises {type(error).__name__}: {error}"
        raise (RuleFailed(own.what, own.fix) if own else RuleFailed(said)) from error
    if not isinstance(merged, Tensor):
        raise RuleFailed(f"it returned {type(merged).__name__}, not a tensor.")
    if merged.shape != stacked.shape[1:]:
        raise RuleFailed(f"it returned shape {list(merged.shape)} for task vectors {list(stacked.shape)}.")
    if not merged.is_floating_point():
        raise RuleFailed(f"it returned {merged.dtype}, which is no floating-point type.")
    merged = merged.detach().to(stacked.device, torch.float64)
    if not torch.isfinite(merged).all():
        raise RuleFailed("it returned a NaN or an infinity.")
    return merged


class RuleCombiner:
    """Merges tiles by a rule of the user's own; see `operands.Combiner`."""

    def __init__(self, combine: Combine, device: str) -> None:
        self._combine, self._device = combine, device

    def combine(
        self,
        base: Tile,
        operands: Sequence[Operand],
        rule: TileRule,
        *,
        offset: int,
        out: np.ndarray,
        state: np.ndarray | None = None,
        decay: float = 1.0,
    ) -> np.ndarray | None:
        assert state is None and decay == 1  # A rule of the user's own has no running sums.
        origin = wide(base, self._device)
        vectors = [task_vector(origin, operand) for operand in operands]
        if not all(torch.isfinite(vector).all() for vector in (origin, *vectors)):
            return None
        weights = [operand.weight for operand in operands]
        mean = torch.zeros_like(origin)
        for vector, weight in zip(vectors, weights, strict=True):
            mean += weight * vector
        changed = _count_nonzero(vectors)
        touched = (changed > 0).double()
        if rule.trims:
            vectors = [trim(vector, operand, rule, offset) for vector, operand in zip(vectors, operands, strict=True)]
        kept = _count_nonzero(vectors)
        merged = rule.scale * apply_rule(self._combine, vectors, weights)
        store(rule.base_factor * origin + merged, out)
        conflicts = torch.zeros_like(origin)  # A rule elects no sign that we know of.
        return chunk_sums((merged * merged, mean * mean, merged * mean, origin * origin, conflicts, kept, changed, touched))


def _count_nonzero(vectors: Sequence[Tensor]) -> Tensor:
    return torch.stack([(vector != 0).double() for vector in vectors]).sum(dim=0)
