"""Stream a merge: threads take jobs, a job reads, computes and writes its own tiles. Results do not depend on who does what.

A tensor is first measured where its method asks for that (magnitudes of given ranks, inner products), one job per checkpoint,
then merged in ranges. What is measured of one tensor is merged at once, while its bytes are still in the page cache.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.accumulators import Accumulators
from gtrturbo.merging.hashing import Hasher
from gtrturbo.merging.magnitudes import NotFinite
from gtrturbo.merging.measuring import MeasuredTensor, inner_products, most_varied
from gtrturbo.merging.operands import Combiner, Kernel, RuleFailed
from gtrturbo.merging.outcome import TensorReport, report_of
from gtrturbo.merging.overflow import OutOfRange
from gtrturbo.merging.parts import LowRank
from gtrturbo.merging.plan import MergePlan
from gtrturbo.merging.products import BufferPool, ProductCache
from gtrturbo.merging.ranges import MERGE_RANGE
from gtrturbo.merging.singles import singles_of
from gtrturbo.merging.sources import Sources, Target
from gtrturbo.merging.thresholds import Thresholds
from gtrturbo.merging.tile_merger import OpenTarget, TileMerger
from gtrturbo.merging.workers import Countdown, Job, WorkerPool
from gtrturbo.store.open_files import Files
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
        self._tiles.caches.clear()
        self.sums = self.accumulators.hashes() if self.accumulators else {}
        self.hashes = {name: hasher.digest() for name, hasher in self._hashers.items()}
        weights = {target.name: self.weights.get(target.name, self._plan(target).weights) for target in self.sources.targets}
        return [
            report_of(target.name, target.entry.entries, self.reports[target.name], weights[target.name], len(target.parts))
            for target in self.sources.targets
        ]

    @cached_property
    def _tiles(self) -> TileMerger:
        return TileMerger(
            self.kernel,
            self.combiner,
            self.files,
            self.sources.base.folder,
            self.seeds,
            self.thresholds,
            self.accumulators,
            singles_of(self.kernel, self.files),
        )

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
        self._tiles.caches = {
            (target.name, index): ProductCache(pool, target.step, target.entry.entries) for target, index in measured
        }

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
        self.thresholds[target.name, index] = self._tiles.bounds(target, self._plan(target), index)
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
            raise self._tiles.not_finite(target) from None
        except ValueError as error:
            raise GtrTurboError(f"{plan.name} fails at {target.name}: {error}", "change --weights.") from None
        except RuleFailed as failure:
            raise failure.at(target.name, rule=plan.name) from failure

    def _merge(self, target: Target, first: int, last: int, measured: MeasuredTensor | None) -> None:
        """Merge entries [first, last) of a tensor, tile by tile."""
        tiles = OpenTarget(self._tiles, target, self._plan(target), measured)
        out = np.empty(min(target.step, last - first), FLOATS[target.entry.dtype])
        for start, stop in target.tiles(first, last):
            tile = out[: stop - start]
            rows = tiles.merge(start, tile)
            self.reports[target.name].append(rows)
            self.range.look(target.entry, rows, tile)
            self._write(target.entry, start * target.entry.width, tile)
            self.on_progress((stop - start) * target.entry.width)

    def _write(self, entry: TensorEntry, offset: int, data: np.ndarray) -> None:
        if self.sink:
            self.sink(entry, offset, data)
            return
        name, start = entry.file.name, entry.start + offset
        self.files.write(self._paths[name], start, data)
        self._hashers[name].wrote(start, start + data.nbytes)
