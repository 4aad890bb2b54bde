"""Recompute tensors of a merge by the slow reference: whole, in torch, from the definitions in `algorithms`."""

import math
import random
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from gtrturbo.algorithms import merging
from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.methods import DROPPED, PAIRS, Plan
from gtrturbo.merging.operands import loaded
from gtrturbo.merging.sources import Full, Grounded, LowRank, Sources, Target, Zeros
from gtrturbo.merging.tiles import random_mask
from gtrturbo.store.safetensors_files import Entry, Files, read_tensor

Seeds = Callable[[str, int], int]


def verify(plan: Plan, sources: Sources, files: Files, written: Callable[[Entry], Entry], seeds: Seeds, *, count: int) -> int:
    """Compare `count` tensors of a finished merge, chosen at random, with the reference; return how many were compared.

    Args:
        plan, sources: of the merge.
        files: open, inputs and outputs.
        written: gives the place of a tensor in the output.
        seeds: keys of the random drop, by tensor and checkpoint.
        count: tensors to compare.

    Raises:
        GtrTurboError: an entry differs by more than one unit in the last place of its type.
    """
    chosen = random.Random(0).sample(sources.targets, min(count, len(sources.targets)))
    for target in chosen:
        expected, size = reference(plan, target, files, seeds)
        found = _tensor(read_tensor(files, written(target.entry)))
        if (worst := ulps(found, expected, size)) > 1:
            raise GtrTurboError(f"{target.name} differs from the reference by {worst:.3g} units in the last place.")
    return len(chosen)


def reference(plan: Plan, target: Target, files: Files, seeds: Seeds) -> tuple[Tensor, Tensor]:
    """Merge one tensor as the definitions say, in float64 before the last rounding; and the size of what was summed."""
    base = _whole(target.base, target, files)
    vectors = [_whole(part, target, files) for part in target.parts]
    vectors = [
        vector if plan.whole or isinstance(part, LowRank) else vector - base
        for vector, part in zip(vectors, target.parts, strict=True)
    ]
    keys = [seeds(target.name, index) for index in range(len(vectors))]
    merged = _merge(plan, vectors, keys)
    size = base.abs() + sum(vector.abs() for vector in vectors)
    return plan.rule.base_factor * base + plan.rule.scale * merged.reshape(base.shape), size


def _merge(plan: Plan, vectors: list[Tensor], keys: list[int]) -> Tensor:
    method, weights, rule = plan.method, plan.weights, plan.rule
    if method in PAIRS:
        lerp_above = {"lerp_above": plan.lerp_above}
        return merging.slerp(vectors, t=weights[1] / math.fsum(weights), **lerp_above)
    if method == "multislerp":
        return merging.multislerp(vectors, weights=weights)
    if method == "model-stock":
        return merging.model_stock(vectors)
    if method == "sce":
        return merging.sce(vectors, density=plan.densities[0])
    if method == "breadcrumbs":
        vectors = [
            merging.breadcrumbs(vector, density=density, gamma=plan.gamma)
            for vector, density in zip(vectors, plan.densities, strict=True)
        ]
    if method in DROPPED and rule.keep < 1:
        vectors = [
            merging.drop(vector, kept=random_mask(key, vector.numel(), rule.keep).reshape(vector.shape), density=rule.keep)
            for vector, key in zip(vectors, keys, strict=True)
        ]
    if method == "ties":
        vectors = [merging.trimmed(vector, density=density) for vector, density in zip(vectors, plan.densities, strict=True)]
    if rule.vote:
        return merging.kept_sum(vectors, weights=weights, count=rule.vote == "count", average=rule.average)
    return merging.weighted_sum(vectors, weights=weights) / rule.divisor


def _whole(part: Full | Grounded | Zeros | LowRank, target: Target, files: Files) -> Tensor:
    read = part.reader(files)
    tiles = [loaded(read(first, last)[0]) for first, last in target.tiles(0, target.entry.entries)]
    return _tensor(np.concatenate(tiles)).double().reshape(target.entry.shape)


def _tensor(values: np.ndarray) -> Tensor:
    tensor = torch.from_numpy(values)
    return tensor.view(torch.bfloat16) if values.dtype == np.uint16 else tensor


def ulps(found: Tensor, expected: Tensor, size: Tensor) -> float:
    """Return the largest distance of `found` from float64 values, in units in the last place of its own type.

    Where terms of the given size cancel, the unit is 2^-48 of them, which either way of summing may be off by.
    """
    spacing = torch.finfo(found.dtype)
    exponent = torch.frexp(expected.abs().clamp(min=spacing.tiny)).exponent
    unit = torch.ldexp(torch.full_like(expected, spacing.eps), exponent - 1)
    return float(((found.double() - expected).abs() / torch.maximum(unit, size * 2.0**-48)).max())
