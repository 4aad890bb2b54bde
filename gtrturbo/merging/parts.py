"""The parts of a merge, tile by tile: a tensor of full weights, an adapter's dense delta, and what either is measured from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gtrturbo.merging.adapters import Adapter, Delta
from gtrturbo.merging.operands import Tile, loaded
from gtrturbo.merging.products import ProductCache
from gtrturbo.store.open_files import Files, widen
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
    """ΔW of one module under an adapter, minus that of the adapter that the run started from, if there is one.

    `under`: the weights below it, where W + ΔW is taken as a vector of its own.
    """

    folder: Path
    adapter: Adapter
    module: str
    origin: Adapter | None = None
    under: Full | None = None

    def reader(self, files: Files, cache: ProductCache | None = None) -> TileReader:
        """Read tiles; products are taken from `cache`, and put there."""
        delta = Delta.read(files, self.adapter, self.module)
        origin = Delta.read(files, self.origin, self.module) if self.origin else None
        under = self.under.reader(files) if self.under else None
        width = delta.a.shape[1]

        def read(first: int, last: int) -> tuple[np.ndarray, bool]:
            rows = (first // width, last // width)
            moved = cache.find(first, last) if cache else None
            if moved is None:
                moved = delta.rows(*rows, cache.place(first, last) if cache else None).reshape(-1)
            if origin:
                moved = moved.astype(np.float64) - origin.rows(*rows).reshape(-1)
            if under:
                moved = widen(loaded(under(first, last)[0])).astype(np.float64) + moved
            return moved, True

        return read


@dataclass(frozen=True)
class BaseWithAdapter:
    """The base under an adapter that has a change of its own: W + ΔW, rounded to W's type."""

    entry: TensorEntry
    origin: Adapter
    module: str

    def reader(self, files: Files) -> TileReader:
        under = Full(self.entry.file.parent, self.entry).reader(files)
        delta = Delta.read(files, self.origin, self.module)
        width = delta.a.shape[1]

        def read(first: int, last: int) -> tuple[np.ndarray, bool]:
            values = loaded(under(first, last)[0])
            sums = widen(values).astype(np.float64) + delta.rows(first // width, last // width).reshape(-1)
            return narrow(sums, values.dtype), False

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
