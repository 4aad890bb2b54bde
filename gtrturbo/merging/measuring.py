"""What is measured of a whole tensor before its tiles are merged: magnitudes that bound what is kept, inner products, variances.

Each raises `NotFinite` where an entry is a NaN or an infinity.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from gtrturbo.algorithms.weights import selected_shares
from gtrturbo.merging.magnitudes import NotFinite, kth_largest
from gtrturbo.merging.operands import Kernel, Operand, Tile, loaded
from gtrturbo.merging.parts import Full, TileReader
from gtrturbo.merging.sources import SPOT, Target
from gtrturbo.store.open_files import Files, StoredTile, widen

SEVERAL = 4  # tiles that are measured at once
STAYS = 1 << 25  # bytes of a tensor that may stay mapped between two looks at it


@dataclass(frozen=True)
class MeasuredTensor:
    """Weights of one tensor's checkpoints, and where entries are selected by variance the least one that is.

    `found`: what a rule in Python measured.
    """

    weights: tuple[float, ...]
    least: float | None = None
    found: np.ndarray | None = None


def bounds(
    kernel: Kernel,
    target: Target,
    base: TileReader,
    read: TileReader,
    ranks: list[int],
    some_rows: Callable[[int], np.ndarray] | None = None,
) -> tuple[float, float]:
    """Find the magnitudes of the given ranks, of the smallest entry that is kept and, where there is one, of the largest.

    Args:
        kernel, target, base, read: of one checkpoint.
        ranks: 1 is the largest.
        some_rows: makes such a share of the task vector's rows, spread over all, where that takes less time than parts of tiles.
    """
    found = kth_largest(kernel, partial(_pairs, target, base, read, some_rows), target.entry.entries, ranks)
    return found[0], found[1] if len(found) > 1 else math.inf


def _pairs(
    target: Target,
    base: TileReader,
    read: TileReader,
    some_rows: Callable[[int], np.ndarray] | None,
    share: int = 1,
) -> Iterator[tuple[Tile, Operand]]:
    """Name all tiles, or such a part of them."""
    entries = target.entry.entries
    if share > 1 and some_rows:
        yield np.zeros(1), Operand(some_rows(share), difference=True)
        return
    stored = target.row == 1 and isinstance(target.base, Full) and all(isinstance(part, Full) for part in target.parts)
    for first, last in _several(target, share) if stored else target.tiles(0, entries, share):
        (origin, _), (data, difference) = base(first, last), read(first, last)
        sample = (-(-SPOT // share), SPOT) if stored and share > 1 else None
        yield _again(target, origin), Operand(_again(target, data), difference, sample=sample)


def _several(target: Target, share: int) -> list[tuple[int, int]]:
    """Many tiles at once, where the kernel reads them by itself; of a sample it takes the parts by itself."""
    entries = target.entry.entries
    size = entries if share > 1 else SEVERAL * target.step
    return [(first, min(first + size, entries)) for first in range(0, entries, size)]


def _again(target: Target, tile: Tile) -> Tile:
    """What is measured is merged next: of tensors that are not too large it stays mapped until then."""
    return replace(tile, again=True) if isinstance(tile, StoredTile) and target.entry.size <= STAYS else tile


def inner_products(files: Files, target: Target) -> np.ndarray:
    """Take the inner products of a tensor's vectors, in blocks of one tile, summed exactly. [k, k] float64"""
    base, readers = target.base.reader(files), [part.reader(files) for part in target.parts]
    grams = []
    for first, last in target.tiles(0, target.entry.entries):
        vectors = vectors_of(base, readers, first, last)
        grams.append(vectors @ vectors.T)
    k = len(readers)
    gram = np.array([[math.fsum(part[i, j] for part in grams) for j in range(k)] for i in range(k)])
    if not np.isfinite(gram).all():
        raise NotFinite
    return gram


def most_varied(kernel: Kernel, files: Files, target: Target, *, density: float) -> MeasuredTensor:
    """Find the variance above which SCE selects entries, and the weights that follow from what it selects."""
    base, readers = target.base.reader(files), [part.reader(files) for part in target.parts]
    plain = np.zeros(1, np.float32)

    def tiles(share: int = 1) -> Iterator[tuple[np.ndarray, Operand]]:
        for first, last in target.tiles(0, target.entry.entries, share):
            yield plain, Operand(_variances(vectors_of(base, readers, first, last)), difference=True)

    moved = sum(int(np.count_nonzero(loaded(operand.data))) for _, operand in tiles())
    rank = int(moved * density)
    least = kth_largest(kernel, tiles, target.entry.entries, [rank])[0] if rank else math.inf
    if density == 1:
        least = 0.0
    spans = target.tiles(0, target.entry.entries)
    chosen = (_chosen(vectors_of(base, readers, first, last), least) for first, last in spans)
    squares = [[float(row @ row) for row in vectors] for vectors in chosen]
    return MeasuredTensor(tuple(selected_shares([math.fsum(column) for column in zip(*squares, strict=True)])), least)


def vectors_of(base: TileReader, readers: Sequence[TileReader], first: int, last: int) -> np.ndarray:
    """Read the vectors of one tile. [k, n] float64

    Raises:
        NotFinite: an entry is a NaN or an infinity, which a selection could leave out unseen.
    """
    origin = widen(loaded(base(first, last)[0])).astype(np.float64)
    parts = [read(first, last) for read in readers]
    vectors = np.stack([widen(loaded(data)).astype(np.float64) - (0.0 if difference else origin) for data, difference in parts])
    if not np.isfinite(vectors).all():
        raise NotFinite
    return vectors


def selected(vectors: np.ndarray, measured: MeasuredTensor) -> list[Operand]:
    """Erase what SCE does not select, and what disagrees with the sign of the sum."""
    assert measured.least is not None
    vectors = _chosen(vectors, measured.least)
    elected = np.where(vectors.sum(axis=0) >= 0, 1.0, -1.0)
    vectors = np.where(np.sign(vectors) == elected, vectors, 0.0)
    return [
        Operand(np.ascontiguousarray(vector), difference=True, weight=weight)
        for vector, weight in zip(vectors, measured.weights, strict=True)
    ]


def _chosen(vectors: np.ndarray, least: float) -> np.ndarray:
    return np.where(_variances(vectors) >= least, vectors, 0.0)


def _variances(vectors: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore"):  # Whoever counts them finds what is not finite.
        # The mean of equal numbers is rounded: it need not be what they are.
        return np.where((vectors == vectors[0]).all(axis=0), 0.0, vectors.var(axis=0))
