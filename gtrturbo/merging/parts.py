"""The parts of a merge, tile by tile: a tensor of full weights, an adapter's dense delta, and what either is measured from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gtrturbo.merging.changes import Change, OpenChange, RowReader, rows_of
from gtrturbo.merging.factored import Delta
from gtrturbo.merging.operands import Tile
from gtrturbo.merging.products import ProductCache
from gtrturbo.store.open_files import Files
from gtrturbo.store.safetensors_files import TensorEntry

# Reads entries [first, last) of one checkpoint's tensor: the values, and whether they are a task vector already.
TileReader = Callable[[int, int], tuple[Tile, bool]]


@dataclass(frozen=True)
class Full:
    """A tensor as it is in a full checkpoint. `whole` takes it as a vector of its own, not as a difference from the base."""

    folder: Path
    entry: TensorEntry
    whole: bool = False

    def reader(self, files: Files) -> TileReader:
        stored = files.stored(self.entry)
        return lambda first, last: (stored(first, last), self.whole)


@dataclass(frozen=True)
class Zeros:
    """A base that is nothing: what is merged around it are vectors of their own."""

    dtype: np.dtype

    def reader(self, _: Files) -> TileReader:
        return lambda first, last: (np.zeros(last - first, self.dtype), False)


@dataclass(frozen=True)
class LowRank:
    """ΔW of one tensor under an adapter, minus that of the adapter that the run started from, if there is one.

    Attributes:
        folder: the adapter.
        change: what it does; None: nothing.
        under: the weights under it.
        width: entries of a row.
        origin: what the adapter that the run started from does.
        whole: W + ΔW is taken as a vector of its own.
    """

    folder: Path
    change: Change | None
    under: Full
    width: int
    origin: Change | None = None
    whole: bool = False

    def reader(self, files: Files, cache: ProductCache | None = None) -> "LowRankReader":
        """Read tiles, float64; products are taken from `cache`, and put there."""
        weights = rows_of(files, self.under.entry, self.width)
        change = self.change.open(files, weights) if self.change else None
        origin = self.origin.open(files, weights) if self.origin else None
        return LowRankReader(self, change, origin, weights, cache)


@dataclass(frozen=True)
class LowRankReader:
    """A part that is open: its changes, the weights under it, and where products are kept."""

    part: LowRank
    change: OpenChange | None
    origin: OpenChange | None
    weights: RowReader
    cache: ProductCache | None

    def __call__(self, first: int, last: int) -> tuple[np.ndarray, bool]:
        rows, cache = (first // self.part.width, last // self.part.width), self.cache
        moved = cache.find(first, last) if cache else None
        if moved is None and self.change:
            moved = self.change.rows(*rows, cache.place(first, last) if cache else None).reshape(-1)
        if moved is None:
            moved = np.zeros(last - first)
        if self.origin:
            moved = moved - self.origin.rows(*rows).reshape(-1)
        if self.part.whole:
            moved = moved + self.weights(*rows).reshape(-1)
        return moved, True

    def some_rows(self) -> Callable[[int], np.ndarray] | None:
        """Return what makes a sample of the rows, see `Delta.some_rows`; None where a row is more than one product."""
        change = self.change
        if not isinstance(change, Delta) or self.origin or self.part.whole:
            return None
        return lambda share: change.some_rows(share).reshape(-1)


@dataclass(frozen=True)
class BaseWithAdapter:
    """The base under an adapter, float64: W, or W + ΔW where it is an adapter with a change of its own."""

    entry: TensorEntry
    origin: Change | None
    width: int

    def reader(self, files: Files) -> TileReader:
        weights = rows_of(files, self.entry, self.width)
        origin = self.origin.open(files, weights) if self.origin else None

        def read(first: int, last: int) -> tuple[np.ndarray, bool]:
            rows = (first // self.width, last // self.width)
            under = weights(*rows)
            return (under + origin.rows(*rows) if origin else under).reshape(-1), False

        return read


def narrow(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Round float64 to a tile's type by way of float32, to nearest, ties to even; uint16 stands for bfloat16."""
    if dtype == np.float64:
        return values
    single = values.astype(np.float32)
    if dtype != np.uint16:
        return single.astype(dtype)
    words = single.view(np.uint32)
    return ((words + (0x7FFF + ((words >> 16) & 1))) >> 16).astype(np.uint16)
