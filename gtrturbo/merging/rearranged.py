"""Parts of a merge that only recipes ask for: a model with an adapter on top, and rows in another order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from gtrturbo.merging.operands import loaded
from gtrturbo.merging.parts import BaseWithAdapter, Full, TileReader
from gtrturbo.store.open_files import Files, widen

PADDING = -2


@dataclass(frozen=True)
class Adapted:
    """Weights with what an adapter adds to them, W + ΔW, in float64."""

    folder: Path
    under: BaseWithAdapter
    whole: bool = False

    def reader(self, files: Files) -> TileReader:
        read = self.under.reader(files)
        return lambda first, last: (read(first, last)[0], self.whole)


@dataclass(frozen=True, eq=False)
class Held:
    """A tensor in memory. `whole` takes it as a vector of its own, not as a difference from the base."""

    values: np.ndarray
    whole: bool = False

    def reader(self, _: Files) -> TileReader:
        return lambda first, last: (self.values[first:last], self.whole)


@dataclass(frozen=True, eq=False)
class Gathered:
    """Rows of a tensor in the order of another vocabulary.

    Attributes:
        part: the tensor. [rows, width]
        rows: for each row that comes out, which one it is; −1 where it is in `mixed`, PADDING where it is the mean of all others.
            [V]
        mixed: rows that are the mean of rows of several tensors; of none they are 0.
        width: entries of a row.
    """

    folder: Path
    part: Full | Adapted
    rows: np.ndarray
    mixed: "dict[int, tuple[tuple[Full | Adapted, int], ...]]"
    width: int
    whole: bool = False

    def reader(self, files: Files) -> TileReader:
        read = _rows(self.part, files, self.width)
        others = {id(part): _rows(part, files, self.width) for each in self.mixed.values() for part, _ in each}

        def gather(first: int, last: int) -> tuple[np.ndarray, bool]:
            start, stop = first // self.width, -(-last // self.width)
            out = np.zeros((stop - start, self.width))
            wanted = self.rows[start:stop]
            for begin, end in _runs(wanted):
                if wanted[begin] >= 0:
                    out[begin:end] = read(int(wanted[begin]), int(wanted[begin]) + end - begin)
            if (wanted == PADDING).any():
                inner = int((self.rows != PADDING).sum())
                out[wanted == PADDING] = gather(0, inner * self.width)[0].reshape(-1, self.width).mean(axis=0)
            for row in range(start, stop):
                for part, place in self.mixed.get(row, ()):
                    out[row - start] += others[id(part)](place, place + 1)[0] / len(self.mixed[row])
            return out.reshape(-1)[first - start * self.width : last - start * self.width], self.whole

        return gather


def _rows(part: Full | Adapted, files: Files, width: int) -> Callable[[int, int], np.ndarray]:
    read = part.reader(files)
    return lambda first, last: widen(loaded(read(first * width, last * width)[0])).astype(np.float64).reshape(-1, width)


def _runs(rows: np.ndarray) -> Sequence[tuple[int, int]]:
    """Cut rows where the next is not the one after. [(begin, end), …]"""
    cuts = np.flatnonzero(np.diff(rows) != 1) + 1
    edges = [0, *cuts.tolist(), len(rows)]
    return list(pairwise(edges)) if len(rows) else []
