"""How tiles of a merge's tensors are read and merged, in any order: in float64, or where that gives the same bytes in float32."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.accumulators import Accumulators
from gtrturbo.merging.magnitudes import NotFinite
from gtrturbo.merging.measuring import MeasuredTensor, bounds, selected, vectors_of
from gtrturbo.merging.operands import Combiner, Kernel, Operand, RuleFailed, Tile, TileRule, loaded
from gtrturbo.merging.parts import Full, LowRank, LowRankReader, TileReader, narrow
from gtrturbo.merging.plan import MergePlan
from gtrturbo.merging.products import ProductCache
from gtrturbo.merging.singles import Singles
from gtrturbo.merging.sources import Target
from gtrturbo.merging.thresholds import Bounds, Thresholds
from gtrturbo.store.open_files import Files, widen


@dataclass
class TileMerger:
    """What all tiles of a merge share. Threads may share it.

    `kernel` measures, `combiner` gives what merges by a plan; `base`: the folder that errors name; `caches`: of products that
    are looked at twice; `singles`: what makes products in float32, where it is there.
    """

    kernel: Kernel
    combiner: Callable[[MergePlan], Combiner]
    files: Files
    base: Path
    seeds: Callable[[str, int], int]
    thresholds: Thresholds
    accumulators: Accumulators | None
    singles: Singles | None
    caches: dict[tuple[str, int], ProductCache] = field(default_factory=dict)

    def bounds(self, target: Target, plan: MergePlan, index: int) -> Bounds:
        """Find the magnitudes that bound what is kept of one checkpoint's tensor.

        Raises:
            GtrTurboError: an entry is a NaN or an infinity.
        """
        ranks = plan.ranks(target.entry.entries, index)
        if not ranks:
            return math.inf, math.inf
        low = self.singles.threshold(target, index, ranks[0]) if self.singles and len(ranks) == 1 else None
        if low is not None:
            return low, math.inf
        base, read = target.base.reader(self.files), self.reader(target, index)
        some_rows = read.some_rows() if isinstance(read, LowRankReader) else None
        try:
            return bounds(self.kernel, target, base, read, ranks, some_rows)
        except NotFinite:
            raise self.not_finite(target) from None

    def reader(self, target: Target, index: int) -> TileReader:
        part = target.parts[index]
        cache = self.caches.get((target.name, index))
        return part.reader(self.files, cache) if isinstance(part, LowRank) else part.reader(self.files)

    def not_finite(self, target: Target) -> GtrTurboError:
        """Find out whose tensor holds the NaN or the infinity."""
        for part in (target.base, *target.parts):
            read = part.reader(self.files)
            if any(not np.isfinite(widen(loaded(read(*span)[0]))).all() for span in target.tiles(0, target.entry.entries)):
                where = part.folder if isinstance(part, Full | LowRank) else self.base
                return GtrTurboError(f"{target.name} in {where} holds a NaN or an infinity.", "leave that checkpoint out.")
        return GtrTurboError(
            f"{target.name}: sums or differences of its numbers overflow.", "merge with a smaller --scale or weights."
        )


@dataclass
class OpenTarget:
    """One tensor whose tiles are merged by one thread; what it is made of is opened when it is needed."""

    merger: TileMerger
    target: Target
    plan: MergePlan
    measured: MeasuredTensor | None

    def merge(self, start: int, out: np.ndarray) -> np.ndarray:
        """Merge entries from `start` on into `out`; return what `Combiner.combine` does.

        Raises:
            GtrTurboError: an entry is a NaN or an infinity; a rule of the user's fails.
        """
        try:
            rows = self._singles.merge(self.target, self.plan, self.rule, self._lows, start, out) if self._singles else None
        except NotFinite:
            raise self.merger.not_finite(self.target) from None
        return self._in_float64(start, out) if rows is None else rows

    @cached_property
    def rule(self) -> TileRule:
        """The rule of the plan for this tensor, with what was measured of it."""
        rule, measured = self.plan.rule, self.measured
        if measured and measured.least is None:
            rule = replace(rule, divisor=1.0)
        if self.plan.method.rule:
            width = self.plan.method.rule.row_width(self.target.entry.shape)
            rule = replace(rule, given=replace(rule.given, width=width, measured=measured.found if measured else None))
        return rule

    @cached_property
    def _singles(self) -> Singles | None:
        singles = None if self.merger.accumulators else self.merger.singles
        return singles if singles and singles.merges(self.target, self.plan) else None

    @cached_property
    def _lows(self) -> list[float]:
        return [self._bounds(index)[0] for index in range(len(self.target.parts))]

    @cached_property
    def _base(self) -> TileReader:
        return self.target.base.reader(self.merger.files)

    @cached_property
    def _readers(self) -> list[TileReader]:
        return [self.merger.reader(self.target, index) for index in range(len(self.target.parts))]

    def _in_float64(self, start: int, out: np.ndarray) -> np.ndarray:
        stop = start + len(out)
        origin, _ = self._base(start, stop)
        operands = self._operands(start, stop)
        if origin.dtype == out.dtype:
            rows = self._combined(origin, operands, start, out)
        else:  # The base's own type is not what comes out: nothing is rounded before the end.
            sums = np.empty(len(out))
            rows = self._combined(widen(loaded(origin)).astype(np.float64), operands, start, sums)
            out[:] = narrow(sums, out.dtype)
        for index in range(len(self._readers)):
            if cache := self.merger.caches.get((self.target.name, index)):
                cache.drop(start)
        return rows

    def _combined(self, base: Tile, operands: Sequence[Operand], start: int, out: np.ndarray) -> np.ndarray:
        sums, entry = self.merger.accumulators, self.target.entry
        state = sums.read(entry, start, start + len(out)) if sums else None
        decay = sums.decay if sums else 1.0
        try:
            rows = self.merger.combiner(self.plan).combine(
                base, operands, self.rule, offset=start, out=out, state=state, decay=decay
            )
        except RuleFailed as failure:
            raise failure.at(self.target.name, rule=self.plan.name) from failure
        if rows is None:
            raise self.merger.not_finite(self.target)
        if sums and state is not None:
            sums.write(entry, start, start + len(out), state)
        return rows

    def _operands(self, start: int, stop: int) -> list[Operand]:
        measured = self.measured
        if measured and measured.least is not None:
            return selected(vectors_of(self._base, self._readers, start, stop), measured)
        operands = []
        for index, read in enumerate(self._readers):
            data, difference = read(start, stop)
            low, high = self._bounds(index)
            weight = measured.weights[index] if measured else self.plan.weights[index]
            operands.append(Operand(data, difference, weight, low, high, self.merger.seeds(self.target.draw, index)))
        return operands

    def _bounds(self, index: int) -> Bounds:
        return self.merger.thresholds.get((self.target.name, index), (0.0, math.inf))
