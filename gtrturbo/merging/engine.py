"""Stream a merge: threads take jobs, a job reads, computes and writes its own tiles. Results do not depend on who does what.

A tensor is first measured where its method asks for that (magnitudes of given ranks, inner products), one job per checkpoint,
then merged in ranges. What is measured of one tensor is merged at once, while its bytes are still in the page cache.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.accumulators import Accumulators
from gtrturbo.merging.hashing import Hasher
from gtrturbo.merging.magnitudes import NotFinite
from gtrturbo.merging.measuring import MeasuredTensor, bounds, inner_products, most_varied, selected, vectors_of
from gtrturbo.merging.operands import Combiner, Kernel, Operand, RuleFailed, Tile, TileRule, loaded
from gtrturbo.merging.outcome import TensorReport, report_of
from gtrturbo.merging.overflow import OutOfRange
from gtrturbo.merging.parts import Full, LowRank, LowRankReader, TileReader, narrow
from gtrturbo.merging.plan import MergePlan
from gtrturbo.merging.products import BufferPool, ProductCache
from gtrturbo.merging.ranges import MERGE_RANGE
from gtrturbo.merging.sources import Sources, Target
from gtrturbo.merging.thresholds import Thresholds
from gtrturbo.merging.workers import Countdown, Job, WorkerPool
from gtrturbo.store.open_files import Files, widen
from gtrturbo.store.safetensors_files import FLOATS, TensorEntry

COPY = 1 << 22  # bytes
KEPT = 1 << 27  # bytes of products per thread that wait to be merged,
MOST_KEPT = 1 << 29  # and of all threads


def room_for_products(threads: int) -> int:
    """Bytes of adapters' products that are kept from the measurement of a tensor until it is merged."""
    return min(KEPT * threads, MOST_KEPT)


@dataclass
class Merge:
    """A merge under way. `thresholds` may be given for tensors that were measured before; it is filled with the others.

    `kernel` measures; `combiner` gives what merges by a plan: the kernel too, or a rule in Python, which may measure whole
    tensors by `measurer`.
    `extra_jobs`: others for the same threads. `sink`: takes what is merged in place of files: tensor, byte offset, entries.
    """

    plan: MergePlan
    sources: Sources
    kernel: Kernel
    combiner: Callable[[MergePlan], Combiner]
    files: Files
    folder: Path
    seeds: Callable[[str, int], int]
    thresholds: Thresholds = field(default_factory=dict)
    accumulators: Accumulators | None = None
    on_progress: Callable[[int], None] = lambda _: None
    extra_jobs: Sequence[Job] = ()
    range: OutOfRange = field(default_factory=OutOfRange)
    measurer: Callable[[Target, MergePlan], np.ndarray] | None = None
    sink: Callable[[TensorEntry, int, np.ndarray], None] | None = None
    reports: dict[str, list[np.ndarray]] = field(default_factory=dict)
    weights: dict[str, tuple[float, ...]] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    sums: dict[str, str] = field(default_factory=dict)
    _paths: dict[str, Path] = field(default_factory=dict)
    _caches: dict[tuple[str, int], ProductCache] = field(default_factory=dict)
    _hashers: dict[str, Hasher] = field(default_factory=dict)

    def run(self, threads: int) -> list[TensorReport]:
        """Merge everything; return a report per merged tensor, in the order of the base's files.

        Raises:
            GtrTurboError: a NaN or an infinity (file and tensor are named), a result beyond the output's
                type, a file that became shorter, a rule that fails.
            OSError: a full disk.
        """
        try:
            self._create_files()
            # Our threads make the products B A, each alone: products that share threads wait for each other.
            with threadpool_limits(1, user_api="blas"):
                self._make_caches(room_for_products(threads))
                WorkerPool(threads).run(self._add_jobs)
            self.range.require_none([target.entry for target in self.sources.targets])
        except BaseException:
            for hasher in [*self._hashers.values(), *([self.accumulators] if self.accumulators else [])]:
                hasher.give_up()
            raise
        self._caches.clear()
        self.sums = self.accumulators.hashes() if self.accumulators else {}
        self.hashes = {name: hasher.digest() for name, hasher in self._hashers.items()}
        weights = {target.name: self.weights.get(target.name, self._plan(target).weights) for target in self.sources.targets}
        return [
            report_of(target.name, target.entry.entries, self.reports[target.name], weights[target.name], len(target.parts))
            for target in self.sources.targets
        ]

    def _plan(self, target: Target) -> MergePlan:
        return target.plan or self.plan

    def _create_files(self) -> None:
        for name, header in self.sources.base.headers.items():
            size = self.sources.base.file_size(name)
            self.files.create(self.folder / name, header, size)
            self._paths[name] = self.folder / name
            self._hashers[name] = Hasher(self.files, self._paths[name], size)
            self._hashers[name].wrote(0, len(header))

    def _make_caches(self, size: int) -> None:
        """Make room, of so many bytes, for products that are looked at twice: to be measured, and to be merged."""
        if self.plan.measures != "ranks":
            return
        measured = [
            (target, index)
            for target in self.sources.targets
            for index, part in enumerate(target.parts)
            if isinstance(part, LowRank) and (target.name, index) not in self.thresholds
        ]
        pool = BufferPool(size, max((target.step for target, _ in measured), default=size))
        self._caches = {(target.name, index): ProductCache(pool, target.step, target.entry.entries) for target, index in measured}

    def _add_jobs(self, workers: WorkerPool) -> None:
        others = iter(self.extra_jobs)
        # From the start, while the rest of the threads keep the disk busy, and by all threads before the last tensors: those come
        # in pieces, and so keep all busy to the end.
        workers.add_all([lambda: workers.go_through(others)] * max(1, workers.threads // 2))
        for entry in self.sources.copied:
            workers.add(lambda entry=entry: self._copy(entry, entry))
        for entry, place in self.sources.moved:
            workers.add(lambda entry=entry, place=place: self._copy(entry, place))
        targets = self.sources.targets
        for number, target in enumerate(targets):
            if number == len(targets) * 2 // 3:
                workers.add_all([lambda: workers.go_through(others)] * workers.threads)
            self.reports[target.name] = []
            self._start(workers, target)

    def _start(self, workers: WorkerPool, target: Target) -> None:
        """Measure a tensor where that is needed, then merge it."""
        measures = self._plan(target).measures
        missing = [index for index in range(len(target.parts)) if (target.name, index) not in self.thresholds]
        if measures == "ranks" and missing:
            countdown = Countdown(len(missing), lambda: self._add_ranges(workers, target, at_once=True))
            for index in missing:
                workers.add(lambda index=index: self._bound(target, index, countdown))
        elif measures and measures != "ranks":
            workers.add(lambda: self._add_ranges(workers, target, self._measure(target), at_once=True))
        else:
            self._add_ranges(workers, target)

    def _add_ranges(
        self, workers: WorkerPool, target: Target, measured: MeasuredTensor | None = None, *, at_once: bool = False
    ) -> None:
        """Add the jobs that merge a tensor; before all others where its bytes have just been read."""
        if measured:
            self.weights[target.name] = measured.weights
        step = max(1, MERGE_RANGE // target.step) * target.step
        workers.add_all(
            [
                lambda first=first: self._merge(target, first, min(first + step, target.entry.entries), measured)
                for first in range(0, target.entry.entries, step)
            ],
            at_once=at_once,
        )

    def _copy(self, entry: TensorEntry, place: TensorEntry) -> None:
        buffer = np.empty(min(COPY, max(1, entry.size)), np.uint8)
        for first in range(0, entry.size, COPY):
            part = buffer[: min(COPY, entry.size - first)]
            self.files.read_bytes(entry.file, entry.start + first, part)
            self._write(place, first, part)
        self.on_progress(entry.size)

    def _bound(self, target: Target, index: int, countdown: Countdown) -> None:
        """Find the magnitudes that bound what is kept of one checkpoint's tensor."""
        ranks = self._plan(target).ranks(target.entry.entries, index)
        base, read = target.base.reader(self.files), self._reader(target, index)
        some_rows = read.some_rows() if isinstance(read, LowRankReader) else None
        try:
            found = bounds(self.kernel, target, base, read, ranks, some_rows) if ranks else (math.inf, math.inf)
            self.thresholds[target.name, index] = found
        except NotFinite:
            raise self._not_finite(target) from None
        countdown.tick()

    def _measure(self, target: Target) -> MeasuredTensor:
        """Find the weights of a method that has a tensor's own."""
        plan = self._plan(target)
        try:
            if plan.measures == "variance":
                return most_varied(self.kernel, self.files, target, density=plan.densities[0])
            if plan.measures == "gram":
                return MeasuredTensor(plan.coefficients(inner_products(self.files, target)))
            assert self.measurer is not None
            return MeasuredTensor(plan.weights, found=self.measurer(target, plan))
        except NotFinite:
            raise self._not_finite(target) from None
        except ValueError as error:
            raise GtrTurboError(f"{plan.name} fails at {target.name}: {error}", "change --weights.") from None
        except RuleFailed as failure:
            raise failure.at(target.name, rule=plan.name) from failure

    def _merge(self, target: Target, first: int, last: int, measured: MeasuredTensor | None) -> None:
        """Merge entries [first, last) of a tensor, tile by tile."""
        base, readers = target.base.reader(self.files), [self._reader(target, index) for index in range(len(target.parts))]
        out = np.empty(min(target.step, last - first), FLOATS[target.entry.dtype])
        rule = rule_of(self._plan(target), target, measured)
        for start, stop in target.tiles(first, last):
            origin, _ = base(start, stop)
            operands = self._operands(target, base, readers, start, stop, measured)
            tile = out[: stop - start]
            if origin.dtype == out.dtype:
                rows = self._merge_tile(target, origin, operands, rule, start, tile)
            else:  # The base's own type is not what comes out: nothing is rounded before the end.
                sums = np.empty(stop - start)
                rows = self._merge_tile(target, _in_double(origin), operands, rule, start, sums)
                tile[:] = narrow(sums, out.dtype)
            self.range.look(target.entry, rows, rule, tile)
            for index in range(len(readers)):
                if cache := self._caches.get((target.name, index)):
                    cache.drop(start)
            self._write(target.entry, start * target.entry.width, out[: stop - start])
            self.on_progress((stop - start) * target.entry.width)

    def _merge_tile(
        self, target: Target, base: Tile, operands: Sequence[Operand], rule: TileRule, start: int, out: np.ndarray
    ) -> np.ndarray:
        sums = self.accumulators
        state = sums.read(target.entry, start, start + len(out)) if sums else None
        decay = sums.decay if sums else 1.0
        try:
            rows = self.combiner(self._plan(target)).combine(
                base, operands, rule, offset=start, out=out, state=state, decay=decay
            )
        except RuleFailed as failure:
            raise failure.at(target.name, rule=self._plan(target).name) from failure
        if rows is None:
            raise self._not_finite(target)
        if sums and state is not None:
            sums.write(target.entry, start, start + len(out), state)
        self.reports[target.name].append(rows)
        return rows

    def _write(self, entry: TensorEntry, offset: int, data: np.ndarray) -> None:
        if self.sink:
            self.sink(entry, offset, data)
            return
        name, start = entry.file.name, entry.start + offset
        self.files.write(self._paths[name], start, data)
        self._hashers[name].wrote(start, start + data.nbytes)

    def _operands(
        self,
        target: Target,
        base: TileReader,
        readers: Sequence[TileReader],
        start: int,
        stop: int,
        measured: MeasuredTensor | None,
    ) -> list[Operand]:
        if measured and measured.least is not None:
            return selected(vectors_of(base, readers, start, stop), measured)
        operands = []
        for index, read in enumerate(readers):
            data, difference = read(start, stop)
            low, high = self.thresholds.get((target.name, index), (0.0, math.inf))
            weight = measured.weights[index] if measured else self._plan(target).weights[index]
            operands.append(Operand(data, difference, weight, low, high, self.seeds(target.draw, index)))
        return operands

    def _reader(self, target: Target, index: int) -> TileReader:
        part = target.parts[index]
        cache = self._caches.get((target.name, index))
        return part.reader(self.files, cache) if isinstance(part, LowRank) else part.reader(self.files)

    def _not_finite(self, target: Target) -> GtrTurboError:
        """Find out whose tensor holds the NaN or the infinity."""
        for part in (target.base, *target.parts):
            read = part.reader(self.files)
            if any(not np.isfinite(widen(loaded(read(*span)[0]))).all() for span in target.tiles(0, target.entry.entries)):
                where = part.folder if isinstance(part, Full | LowRank) else self.sources.base.folder
                return GtrTurboError(f"{target.name} in {where} holds a NaN or an infinity.", "leave that checkpoint out.")
        return GtrTurboError(f"{target.name}: the differences overflow.")


def rule_of(plan: MergePlan, target: Target, measured: MeasuredTensor | None) -> TileRule:
    """The rule of a plan for one tensor, with what was measured of it."""
    rule = plan.rule
    if measured and measured.least is None:
        rule = replace(rule, divisor=1.0)
    if plan.method.rule:
        width = plan.method.rule.row_width(target.entry.shape)
        rule = replace(rule, given=replace(rule.given, width=width, measured=measured.found if measured else None))
    return rule


def _in_double(tile: Tile) -> np.ndarray:
    return widen(loaded(tile)).astype(np.float64)
