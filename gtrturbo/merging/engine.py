"""Stream a merge: threads take jobs, a job reads, computes and writes its own tiles. Results do not depend on who does what.

A tensor is first measured where its method asks for that (magnitudes of given ranks, inner products), one job per checkpoint,
then merged in ranges. What is measured of one tensor is merged at once, while its bytes are still in the page cache.
"""

import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.accumulators import Accumulators
from gtrturbo.merging.hashing import Hasher
from gtrturbo.merging.magnitudes import NotFinite, kth_largest
from gtrturbo.merging.methods import Plan, sce_weights
from gtrturbo.merging.operands import SUMS, Kernel, Operand, Tile, loaded
from gtrturbo.merging.products import Room, Shelf
from gtrturbo.merging.sources import Full, LowRank, Reader, Sources, Target
from gtrturbo.store.safetensors_files import FLOATS, Entry, Files, widen

RANGE = 1 << 22  # entries that one job merges, unless a tile is larger
COPY = 1 << 22  # bytes
KEPT = 1 << 26  # bytes of products per thread that wait to be merged,
MOST_KEPT = 1 << 28  # and of all threads

Job = Callable[[], object]
Thresholds = dict[tuple[str, int], tuple[float, float]]


@dataclass(frozen=True)
class TensorReport:
    """What became of one tensor: squared norms of merged vector, mean and base, their product, and counts over entries."""

    name: str
    entries: int
    merged_square: float
    mean_square: float
    dot: float
    base_square: float
    conflicts: float
    kept: float
    changed: float


def room_for_products(threads: int) -> int:
    """Bytes of adapters' products that are kept from the measurement of a tensor until it is merged."""
    return min(KEPT * threads, MOST_KEPT)


@dataclass
class Merge:
    """A merge under way. `thresholds` may be given for tensors that were measured before; it is filled with the others.

    `beside`: other jobs for the same threads.
    """

    plan: Plan
    sources: Sources
    kernel: Kernel
    files: Files
    folder: Path
    seeds: Callable[[str, int], int]
    thresholds: Thresholds = field(default_factory=dict)
    accumulators: Accumulators | None = None
    told: Callable[[int], None] = lambda _: None
    beside: Sequence[Job] = ()
    reports: dict[str, list[np.ndarray]] = field(default_factory=dict)
    weights: dict[str, tuple[float, ...]] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    _paths: dict[str, Path] = field(default_factory=dict)
    _shelves: dict[tuple[str, int], Shelf] = field(default_factory=dict)
    _hashers: dict[str, Hasher] = field(default_factory=dict)

    def run(self, threads: int) -> list[TensorReport]:
        """Merge everything; return a report per merged tensor, in the order of the base's files.

        Raises:
            GtrTurboError: a NaN or an infinity (file and tensor are named), a file that became shorter.
            OSError: a full disk.
        """
        try:
            for name, header in self.sources.base.headers.items():
                size = self.sources.base.file_size(name)
                self.files.create(self.folder / name, header, size)
                self._paths[name] = self.folder / name
                self._hashers[name] = Hasher(self.files, self._paths[name], size)
                self._hashers[name].wrote(0, len(header))
            # Our threads make the products B A, each alone: products that share threads wait for each other.
            with threadpool_limits(1, user_api="blas"):
                self._put_up_shelves(room_for_products(threads))
                _Crew(threads).run(self._jobs)
        except BaseException:
            for hasher in self._hashers.values():
                hasher.give_up()
            raise
        self._shelves.clear()
        self.hashes = {name: hasher.digest() for name, hasher in self._hashers.items()}
        return [self._report(target) for target in self.sources.targets]

    def _put_up_shelves(self, size: int) -> None:
        """Make room, of so many bytes, for products that are looked at twice: to be measured, and to be merged."""
        if self.plan.measures != "ranks":
            return
        measured = [
            (target, index)
            for target in self.sources.targets
            for index, part in enumerate(target.parts)
            if isinstance(part, LowRank) and (target.name, index) not in self.thresholds
        ]
        room = Room(size, max((target.step for target, _ in measured), default=size))
        self._shelves = {(target.name, index): Shelf(room, target.step, target.entry.entries) for target, index in measured}

    def _jobs(self, crew: "_Crew") -> None:
        others = iter(self.beside)
        # From the start, while the rest of the threads keep the disk busy, and by all threads before the last tensors: those come
        # in pieces, and so keep all busy to the end.
        crew.add_all([lambda: crew.go_through(others)] * max(1, crew.threads // 2))
        for entry in self.sources.copied:
            crew.add(lambda entry=entry: self._copy(entry))
        targets = self.sources.targets
        for number, target in enumerate(targets):
            if number == len(targets) * 2 // 3:
                crew.add_all([lambda: crew.go_through(others)] * crew.threads)
            self.reports[target.name] = []
            self._start(crew, target)

    def _start(self, crew: "_Crew", target: Target) -> None:
        measures = self.plan.measures
        missing = [index for index in range(len(target.parts)) if (target.name, index) not in self.thresholds]
        if measures == "ranks" and missing:
            after = _After(len(missing), lambda: self._combine(crew, target, at_once=True))
            for index in missing:
                crew.add(lambda index=index: self._measure(target, index, after))
        elif measures and measures != "ranks":
            measure = self._gram if measures == "gram" else self._variance
            crew.add(lambda: self._combine(crew, target, measure(target), at_once=True))
        else:
            self._combine(crew, target)

    def _combine(self, crew: "_Crew", target: Target, prepared: "_Prepared | None" = None, *, at_once: bool = False) -> None:
        """Add the jobs that merge a tensor; before all others where its bytes have just been read."""
        if prepared:
            self.weights[target.name] = prepared.weights
        step = max(1, RANGE // target.step) * target.step
        crew.add_all(
            [
                lambda first=first: self._merge(target, first, min(first + step, target.entry.entries), prepared)
                for first in range(0, target.entry.entries, step)
            ],
            at_once=at_once,
        )

    def _copy(self, entry: Entry) -> None:
        buffer = np.empty(min(COPY, max(1, entry.size)), np.uint8)
        for first in range(0, entry.size, COPY):
            part = buffer[: min(COPY, entry.size - first)]
            self.files.read_bytes(entry.file, entry.start + first, part)
            self._write(entry, first, part)
        self.told(entry.size)

    def _measure(self, target: Target, index: int, after: "_After") -> None:
        """Find the magnitudes that bound what is kept of one checkpoint's tensor."""
        ranks = self.plan.ranks(target.entry.entries, index)
        base, read = target.base.reader(self.files), self._reader(target, index)
        try:
            found = kth_largest(self.kernel, partial(_pairs, target, base, read), target.entry.entries, ranks)
        except NotFinite:
            raise self._not_finite(target) from None
        self.thresholds[target.name, index] = (found[0], found[1] if len(found) > 1 else math.inf)
        after.tick()

    def _gram(self, target: Target) -> "_Prepared":
        """Take the inner products of a tensor's vectors, in blocks of one tile, summed exactly."""
        base = target.base.reader(self.files)
        readers = [part.reader(self.files) for part in target.parts]
        grams = []
        for first, last in target.tiles(0, target.entry.entries):
            vectors = _vectors(base, readers, first, last)
            grams.append(vectors @ vectors.T)
        gram = np.array([[math.fsum(part[i, j] for part in grams) for j in range(len(readers))] for i in range(len(readers))])
        if not np.isfinite(gram).all():
            raise self._not_finite(target)
        try:
            return _Prepared(weights=self.plan.coefficients(gram))
        except ValueError as error:
            raise GtrTurboError(f"{self.plan.method} fails at {target.name}: {error}", "change --weights.") from None

    def _variance(self, target: Target) -> "_Prepared":
        """Find the variance above which SCE selects entries, and the weights that follow from what it selects."""
        readers = [part.reader(self.files) for part in target.parts]
        base = target.base.reader(self.files)
        spans = target.tiles(0, target.entry.entries)
        plain = np.zeros(1, np.float32)

        def tiles(share: int = 1) -> Iterator[tuple[np.ndarray, Operand]]:
            for first, last in target.tiles(0, target.entry.entries, share):
                yield plain, Operand(_variances(_vectors(base, readers, first, last)), difference=True)

        moved = sum(int(np.count_nonzero(loaded(operand.data))) for _, operand in tiles())
        try:
            rank = int(moved * self.plan.densities[0])
            least = kth_largest(self.kernel, tiles, target.entry.entries, [rank])[0] if rank else math.inf
        except NotFinite:
            raise self._not_finite(target) from None
        if self.plan.densities[0] == 1:
            least = 0.0
        chosen = (_chosen(_vectors(base, readers, first, last), least) for first, last in spans)
        squares = [[float(row @ row) for row in vectors] for vectors in chosen]
        return _Prepared(weights=tuple(sce_weights([math.fsum(column) for column in zip(*squares, strict=True)])), least=least)

    def _merge(self, target: Target, first: int, last: int, prepared: "_Prepared | None") -> None:
        base, readers = target.base.reader(self.files), [self._reader(target, index) for index in range(len(target.parts))]
        out = np.empty(min(target.step, last - first), FLOATS[target.entry.dtype])
        shelves = [shelf for index in range(len(readers)) if (shelf := self._shelves.get((target.name, index)))]
        rule = self.plan.rule
        if prepared and prepared.least is None:
            rule = replace(rule, divisor=1.0)
        for start, stop in target.tiles(first, last):
            origin, _ = base(start, stop)
            operands = self._operands(target, base, readers, start, stop, prepared)
            merged = out[: stop - start]
            state = self.accumulators.read(target.entry, start, stop) if self.accumulators else None
            decay = self.accumulators.decay if self.accumulators else 1.0
            sums = self.kernel.combine(origin, operands, rule, offset=start, out=merged, state=state, decay=decay)
            if sums is None:
                raise self._not_finite(target)
            if self.accumulators and state is not None:
                self.accumulators.write(target.entry, start, stop, state)
            for shelf in shelves:
                shelf.drop(start)
            self._write(target.entry, start * target.entry.width, merged)
            self.reports[target.name].append(sums)
            self.told((stop - start) * target.entry.width)

    def _write(self, entry: Entry, offset: int, data: np.ndarray) -> None:
        name, start = entry.file.name, entry.start + offset
        self.files.write(self._paths[name], start, data)
        self._hashers[name].wrote(start, start + data.nbytes)

    def _operands(
        self, target: Target, base: Reader, readers: Sequence[Reader], start: int, stop: int, prepared: "_Prepared | None"
    ) -> list[Operand]:
        if prepared and prepared.least is not None:
            return _selected(_vectors(base, readers, start, stop), prepared)
        operands = []
        for index, read in enumerate(readers):
            data, difference = read(start, stop)
            low, high = self.thresholds.get((target.name, index), (0.0, math.inf))
            weight = prepared.weights[index] if prepared else self.plan.weights[index]
            operands.append(Operand(data, difference, weight, low, high, self.seeds(target.name, index)))
        return operands

    def _reader(self, target: Target, index: int) -> Reader:
        part = target.parts[index]
        shelf = self._shelves.get((target.name, index))
        return part.reader(self.files, shelf) if isinstance(part, LowRank) else part.reader(self.files)

    def _not_finite(self, target: Target) -> GtrTurboError:
        """Find out whose tensor holds the NaN or the infinity."""
        for part in (target.base, *target.parts):
            read = part.reader(self.files)
            if any(not np.isfinite(widen(loaded(read(*span)[0]))).all() for span in target.tiles(0, target.entry.entries)):
                where = part.folder if isinstance(part, Full | LowRank) else self.sources.base.folder
                return GtrTurboError(f"{target.name} in {where} holds a NaN or an infinity.", "leave that checkpoint out.")
        return GtrTurboError(f"{target.name}: the differences overflow.")

    def _report(self, target: Target) -> TensorReport:
        rows = np.concatenate([np.zeros((0, SUMS)), *self.reports[target.name]])
        totals = [math.fsum(column) for column in rows.T.tolist()]  # Exact, hence the same in any order.
        merged, square, dot, base, conflicts, kept, changed = totals
        total = math.fsum(self.weights.get(target.name, self.plan.weights)) or 1.0  # From the sum to the mean.
        mean_square, mean_dot = square / total**2, dot / total
        return TensorReport(target.name, target.entry.entries, merged, mean_square, mean_dot, base, conflicts, kept, changed)


@dataclass(frozen=True)
class _Prepared:
    """Weights of one tensor's checkpoints, and for SCE the least variance of an entry that is selected."""

    weights: tuple[float, ...]
    least: float | None = None


def _pairs(target: Target, base: Reader, read: Reader, share: int = 1) -> Iterator[tuple[Tile, Operand]]:
    """Name all tiles, or the first such part of each."""
    for first, last in target.tiles(0, target.entry.entries, share):
        data, difference = read(first, last)
        yield base(first, last)[0], Operand(data, difference)


def _vectors(base: Reader, readers: Sequence[Reader], first: int, last: int) -> np.ndarray:
    """Vectors of one tile. [k, n] float64"""
    origin = widen(loaded(base(first, last)[0])).astype(np.float64)
    parts = [read(first, last) for read in readers]
    return np.stack([widen(loaded(data)).astype(np.float64) - (0.0 if difference else origin) for data, difference in parts])


def _selected(vectors: np.ndarray, prepared: _Prepared) -> list[Operand]:
    """Erase what SCE does not select, and what disagrees with the sign of the sum."""
    assert prepared.least is not None
    vectors = _chosen(vectors, prepared.least)
    elected = np.where(vectors.sum(axis=0) >= 0, 1.0, -1.0)
    vectors = np.where(np.sign(vectors) == elected, vectors, 0.0)
    return [
        Operand(np.ascontiguousarray(vector), difference=True, weight=weight)
        for vector, weight in zip(vectors, prepared.weights, strict=True)
    ]


def _chosen(vectors: np.ndarray, least: float) -> np.ndarray:
    return np.where(_variances(vectors) >= least, vectors, 0.0)


def _variances(vectors: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore"):  # Whoever counts them finds what is not finite.
        return vectors.var(axis=0)


class _After:
    """Does something once a number of jobs are done."""

    def __init__(self, count: int, then: Job) -> None:
        self._left, self._then, self._lock = count, then, threading.Lock()

    def tick(self) -> None:
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last:
            self._then()


class _Crew:
    """Threads that take jobs from one list, where jobs may add jobs; the first error ends all."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._jobs: deque[Job] = deque()
        self._ready = threading.Condition()
        self._busy = 0
        self._stopped = False

    def add(self, job: Job) -> None:
        self.add_all([job])

    def add_all(self, jobs: Sequence[Job], *, at_once: bool = False) -> None:
        """Add jobs, to be taken in their order: the file is hashed from its beginning while they write it."""
        with self._ready:
            self._jobs.extendleft(reversed(jobs)) if at_once else self._jobs.extend(jobs)
            self._ready.notify_all()

    def go_through(self, jobs: Iterator[Job]) -> None:
        """Do jobs of which other threads may take some."""
        for job in jobs:
            if self._stopped:
                return
            job()

    def run(self, start: Callable[["_Crew"], None]) -> None:
        start(self)
        with ThreadPoolExecutor(self.threads) as pool:
            try:
                futures = [pool.submit(self._work) for _ in range(self.threads)]
                for future in as_completed(futures):
                    future.result()
            except BaseException:  # Of a job, or Ctrl-C, which reaches this thread alone.
                self._stop()
                raise

    def _work(self) -> None:
        while job := self._next():
            try:
                job()
            finally:
                with self._ready:
                    self._busy -= 1
                    self._ready.notify_all()

    def _next(self) -> Job | None:
        with self._ready:
            while not self._jobs and self._busy and not self._stopped:
                self._ready.wait()
            if self._stopped or not self._jobs:
                return None
            self._busy += 1
            return self._jobs.popleft()

    def _stop(self) -> None:
        with self._ready:
            self._stopped = True
            self._ready.notify_all()


def default_threads() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0))
