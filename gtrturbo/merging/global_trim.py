"""Trimming over all tensors of a checkpoint at once, as the authors of TIES do: one threshold per checkpoint."""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.magnitudes import NotFinite, kth_largest
from gtrturbo.merging.operands import Kernel, Operand, Tile
from gtrturbo.merging.plan import MergePlan
from gtrturbo.merging.sources import Sources
from gtrturbo.merging.workers import WorkerPool
from gtrturbo.store.open_files import Files


def with_global_thresholds(plan: MergePlan, sources: Sources, kernel: Kernel, files: Files, *, threads: int) -> MergePlan:
    """Find the magnitude of each checkpoint's max(1, ⌊density · n⌋)-th largest entry among all n that are merged.

    Source: Yadav et al., "TIES-Merging" (arXiv 2306.01708), section 3.2; the authors' code trims the flattened task vector.

    Raises:
        GtrTurboError: an entry is a NaN or an infinity.
    """
    entries = sum(target.entry.entries for target in sources.targets)
    found: dict[int, float] = {}

    def search(index: int) -> None:
        rank = max(1, int(plan.densities[index] * entries))
        try:
            found[index] = kth_largest(kernel, partial(_tiles, sources, files, index), entries, [rank])[0]
        except NotFinite:
            what = f"checkpoint {index + 1} of {len(plan.densities)}, or the base, holds a NaN or an infinity."
            raise GtrTurboError(what, "without --trim global the tensor is named.") from None

    def jobs(workers: WorkerPool) -> None:
        workers.add_all([partial(search, index) for index in range(len(plan.densities))])

    WorkerPool(threads).run(jobs)
    return replace(plan, thresholds=tuple(found[index] for index in range(len(plan.densities))))


def _tiles(sources: Sources, files: Files, index: int, share: int = 1) -> Iterator[tuple[Tile, Operand]]:
    """Name the tiles of all tensors of one checkpoint, the longest first."""
    for target in sorted(sources.targets, key=lambda each: -min(each.step, each.entry.entries)):
        base, read = target.base.reader(files), target.parts[index].reader(files)
        for first, last in target.tiles(0, target.entry.entries, share):
            data, difference = read(first, last)
            yield base(first, last)[0], Operand(data, difference)


def bounds_of(plan: MergePlan, sources: Sources) -> dict[tuple[str, int], tuple[float, float]]:
    """The same bounds for every tensor."""
    thresholds = plan.thresholds or ()
    return {(target.name, index): (low, math.inf) for target in sources.targets for index, low in enumerate(thresholds)}
