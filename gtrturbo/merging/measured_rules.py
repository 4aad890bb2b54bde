"""What a rule in Python measures of a whole tensor before its tiles are merged: sums over tiles, or values of a sorted order."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch

from gtrturbo.merging.custom import Entries, measure
from gtrturbo.merging.magnitudes import NotFinite, kth_largest
from gtrturbo.merging.method import MergeRule
from gtrturbo.merging.operands import Kernel, Operand, RuleInputs, Tile
from gtrturbo.merging.plan import MergePlan
from gtrturbo.merging.sources import Target
from gtrturbo.merging.tiles import task_vector, wide
from gtrturbo.store.open_files import Files

PLAIN = np.zeros(1, np.float32)


def measured_by(
    target: Target, plan: MergePlan, *, kernel: Kernel, files: Files, seeds: Callable[[str, int], int], device: str
) -> np.ndarray:
    """Let a rule measure one tensor. [m] float64

    Raises:
        NotFinite: an entry is a NaN or an infinity.
        RuleFailed: the rule raises.
    """
    rule = plan.method.rule
    assert rule is not None
    given = replace(plan.rule.given, width=rule.row_width(target.entry.shape))
    keys = [seeds(target.name, index) for index in range(len(target.parts))]

    def tiles() -> Iterator[Entries]:
        base, readers = target.base.reader(files), [part.reader(files) for part in target.parts]
        for first, last in target.tiles(0, target.entry.entries):
            origin = wide(base(first, last)[0], device)
            pairs = [read(first, last) for read in readers]
            vectors = [task_vector(origin, Operand(values, difference)) for values, difference in pairs]
            if not all(torch.isfinite(vector).all() for vector in (origin, *vectors)):
                raise NotFinite
            yield Entries(vectors, plan.weights, origin, keys, first)

    if rule.quantiles:
        return _quantiles(rule, kernel, tiles, given, target.entry.entries)
    sums = [measure(rule, entries, given).cpu().numpy() for entries in tiles()]
    return np.array([math.fsum(column) for column in np.stack(sums).T.tolist()])


def _quantiles(
    rule: MergeRule, kernel: Kernel, tiles: Callable[[], Iterator[Entries]], given: RuleInputs, entries: int
) -> np.ndarray:
    """The entries at given shares of the sorted order: the one of place ⌊share · (n − 1)⌋, 0 the smallest."""

    def magnitudes(share: int = 1) -> Iterator[tuple[Tile, Operand]]:
        for part in tiles():
            numbers = measure(rule, part, given).cpu().numpy()
            yield PLAIN, Operand(numbers[: -(-len(numbers) // share)], difference=True)

    ranks = [entries - int(share * (entries - 1)) for share in rule.quantiles]
    return np.array(kth_largest(kernel, magnitudes, entries, ranks))
