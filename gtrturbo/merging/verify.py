"""Recompute tensors of a merge by the slow reference: whole, in torch, from the definitions in `algorithms`."""

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from gtrturbo.algorithms import merging
from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.custom import Entries, apply_rule, measure
from gtrturbo.merging.operands import RuleFailed
from gtrturbo.merging.parts import BaseWithAdapter, Full, LowRank, Zeros
from gtrturbo.merging.plan import MergePlan
from gtrturbo.merging.rearranged import PADDING, Adapted, Gathered, Held
from gtrturbo.merging.sources import Sources, Target
from gtrturbo.merging.tiles import random_mask
from gtrturbo.merging.whole_changes import whole_change, whole_tensor
from gtrturbo.store.open_files import Files, read_tensor
from gtrturbo.store.safetensors_files import TensorEntry

Seeds = Callable[[str, int], int]
Sized = tuple[Tensor, Tensor]  # a tensor, and the size of the terms that it is the sum of; both float64
ROUNDED = 2.0**-48  # of their size: what either way of summing terms may be off by


def verify(
    plan: MergePlan, sources: Sources, files: Files, written: Callable[[TensorEntry], TensorEntry], seeds: Seeds, *, count: int
) -> int:
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
        found = _tensor(read_tensor(files, written(target.entry)))
        largest = torch.finfo(found.dtype).max  # What is beyond has been refused, or was to be set to it.
        worst = _worst(found, ((expected.clamp(-largest, largest), size) for expected, size in references(plan, target, seeds)))
        if not worst <= 1:  # A NaN, too.
            raise GtrTurboError(f"{target.name} differs from the reference by {worst:.3g} units in the last place.")
    return len(chosen)


def _worst(found: Tensor, expected: Iterable[Sized]) -> float:
    """Return how far the worst entry is from the nearest of several references; others than the first are rarely needed."""
    off = torch.full(found.shape, torch.inf, dtype=torch.float64)
    for one, size in expected:
        off = torch.minimum(off, ulps(found, one, size))
        if off.max() <= 1:
            break
    return float(off.max())


def references(plan: MergePlan, target: Target, seeds: Seeds) -> Iterator[Sized]:
    """Merge one tensor as the definitions say, in float64 before the last rounding; and the size of what was summed.

    First as it is, then with what the last bit of a sum decides the other way: what is kept, and which sign is elected.
    """
    plan = target.plan or plan
    base, size = _base(target)
    found = [_vector(part, base) for part in target.parts]
    keys = [seeds(target.draw, index) for index in range(len(found))]
    total = size + sum(terms for _, terms in found)
    vectors = [vector for vector, _ in found]
    products = not isinstance(target.base, Full | Zeros) or any(not isinstance(part, Full) for part in target.parts)
    doubts = [ROUNDED * (size + terms) * products for _, terms in found]  # A difference of stored weights is rounded once.
    for leaning in (0, 1, -1) if products and (plan.rule.vote or plan.method.keeps in ("largest", "middle")) else (0,):
        yield _result(plan, target, base, TaskVectors(vectors, keys, [leaning * doubt for doubt in doubts])), total
    for sign in (1, -1) if plan.rule.vote else ():
        moved = [vector + sign * ROUNDED / 4 * total * (vector != 0) for vector in vectors]
        yield _result(plan, target, base, TaskVectors(moved, keys, [0 * doubt for doubt in doubts])), total


@dataclass(frozen=True)
class TaskVectors:
    """Task vectors of one tensor, with the keys of what is dropped at random.

    `leanings`: entries as near to a bound of what is kept as |leaning| are all kept (> 0), or not (< 0).
    """

    vectors: list[Tensor]
    keys: list[int]
    leanings: list[Tensor]


def _result(plan: MergePlan, target: Target, base: Tensor, given: TaskVectors) -> Tensor:
    try:
        merged = _by_rule(plan, target, base, given) if plan.method.rule else _merge(plan, given)
    except RuleFailed as failure:
        raise failure.at(target.name, rule=plan.name) from failure
    return plan.rule.base_factor * base + plan.rule.scale * merged.reshape(base.shape)


def _by_rule(plan: MergePlan, target: Target, base: Tensor, given: TaskVectors) -> Tensor:
    """Apply a rule in Python to whole tensors, as to one tile."""
    rule = plan.method.rule
    assert rule is not None
    vectors = _kept(plan, given) if plan.rule.trims else given.vectors
    settings = replace(plan.rule.given, width=rule.row_width(target.entry.shape))
    entries = Entries([vector.flatten() for vector in vectors], plan.weights, base.flatten(), given.keys)
    if rule.measure:
        found = measure(rule, entries, settings)
        order = found.sort().values
        places = [order[int(share * (len(found) - 1))] for share in rule.quantiles]
        settings = replace(settings, measured=np.array(places) if rule.quantiles else found.numpy())
    return apply_rule(rule, entries, settings)


def _merge(plan: MergePlan, given: TaskVectors) -> Tensor:
    method, weights, rule = plan.method, plan.weights, plan.rule
    if method.coefficients:
        return merging.weighted_sum(given.vectors, weights=plan.coefficients(merging.gram(given.vectors).numpy()))
    if method.keeps == "varied":
        return merging.sce(given.vectors, density=plan.densities[0])
    vectors = _kept(plan, given)
    if rule.vote:
        return merging.kept_sum(vectors, weights=weights, count=rule.vote == "count", average=rule.average)
    return merging.weighted_sum(vectors, weights=weights) / rule.divisor


def _kept(plan: MergePlan, given: TaskVectors) -> list[Tensor]:
    """Keep of each task vector what the method keeps."""
    return [
        torch.where(_near(plan, index, vector, kept, leaning.abs()), torch.where(leaning > 0, vector, 0.0), kept)
        for index, (vector, kept, leaning) in enumerate(zip(given.vectors, _chosen(plan, given), given.leanings, strict=True))
    ]


def _near(plan: MergePlan, index: int, vector: Tensor, kept: Tensor, off: Tensor) -> Tensor:
    """Tell which magnitudes are within `off` (> 0) of 0, or of the smallest or largest that counts."""
    found, bounds = kept[kept != 0].abs(), [0.0]
    if plan.thresholds:
        bounds.append(plan.thresholds[index])
    elif plan.method.keeps in ("largest", "middle") and len(found):
        bounds += [float(found.min()), *([float(found.max())] if plan.method.keeps == "middle" else [])]
    return (off > 0) & torch.stack([(vector.abs() - bound).abs() <= off for bound in bounds]).any(dim=0)


def _chosen(plan: MergePlan, given: TaskVectors) -> list[Tensor]:
    vectors = given.vectors
    pairs = list(zip(vectors, plan.densities, strict=True))
    if plan.thresholds:
        return [vector.where(vector.abs() >= low, 0.0) for vector, low in zip(vectors, plan.thresholds, strict=True)]
    if plan.method.keeps == "largest":
        return [merging.trimmed(vector, density=density) if density else 0 * vector for vector, density in pairs]
    if plan.method.keeps == "middle":
        gammas = plan.gammas or [plan.gamma] * len(pairs)
        return [
            merging.breadcrumbs(vector, density=density, gamma=gamma) if density else 0 * vector
            for (vector, density), gamma in zip(pairs, gammas, strict=True)
        ]
    if plan.method.keeps == "random" and plan.rule.keep < 1:
        return [
            merging.drop(vector, kept=random_mask(key, vector.numel(), density).reshape(vector.shape), density=density)
            for (vector, density), key in zip(pairs, given.keys, strict=True)
        ]
    return vectors


def _base(target: Target) -> Sized:
    """What a tensor is measured from, read again by safetensors."""
    if isinstance(target.base, Zeros):
        zeros = torch.zeros(target.entry.shape, dtype=torch.float64)
        return zeros, zeros
    weights, size = _weights(target.base)
    return weights.reshape(target.entry.shape), size.reshape(target.entry.shape)


def _weights(part: Full | BaseWithAdapter | Adapted | Gathered | Held) -> Sized:
    """W, W + ΔW, or their rows in another order."""
    if isinstance(part, Gathered):
        return _gathered(part)
    if isinstance(part, Held):
        held = _tensor(part.values).double()
        return held, held.abs()
    if isinstance(part, Adapted):
        part = part.under
    weights = whole_tensor(part.entry)
    if isinstance(part, Full) or part.origin is None:
        return weights, weights.abs()
    moved, size = whole_change(part.origin, weights)
    return weights + moved, weights.abs() + size


def _gathered(part: Gathered) -> Sized:
    weights, size = (each.reshape(-1, part.width) for each in _weights(part.part))
    rows = [torch.zeros(part.width, dtype=torch.float64)] * len(part.rows)
    for row, place in enumerate(part.rows.tolist()):
        if place >= 0:
            rows[row] = weights[place]
        elif others := part.mixed.get(row):
            rows[row] = torch.stack([_weights(other)[0].reshape(-1, part.width)[at] for other, at in others]).mean(dim=0)
    inner = [rows[row] for row, place in enumerate(part.rows.tolist()) if place != PADDING]
    mean = torch.stack(inner).mean(dim=0)
    out = torch.stack([mean if place == PADDING else rows[row] for row, place in enumerate(part.rows.tolist())])
    return out, out.abs() + size.max()


def _vector(part: Full | LowRank | Adapted | Gathered | Held, base: Tensor) -> Sized:
    """A checkpoint's vector: W_i, W_i − W or ΔW_i."""
    if not isinstance(part, LowRank):
        weights, size = _weights(part)
        weights, size = weights.reshape(base.shape), size.reshape(base.shape)
        return (weights if part.whole else weights - base), size
    weights = whole_tensor(part.under.entry)
    vector, size = weights * float(part.whole), weights.abs() * float(part.whole)
    for change, sign in ((part.change, 1), (part.origin, -1)):
        if change:
            moved, terms = whole_change(change, weights)
            vector, size = vector + sign * moved, size + terms
    return vector, size


def _tensor(values: np.ndarray) -> Tensor:
    tensor = torch.from_numpy(values)
    return tensor.view(torch.bfloat16) if values.dtype == np.uint16 else tensor


def ulps(found: Tensor, expected: Tensor, size: Tensor) -> Tensor:
    """Return the distances of `found` from float64 values, in units in the last place of its own type.

    Where terms of the given size cancel, the unit is 2^-48 of them, which either way of summing may be off by.
    """
    spacing = torch.finfo(found.dtype)
    exponent = torch.frexp(expected.abs().clamp(min=spacing.tiny)).exponent
    unit = torch.ldexp(torch.full_like(expected, spacing.eps), exponent - 1)
    return (found.double() - expected).abs() / torch.maximum(unit, size * ROUNDED)
