"""What an adapter changes of one tensor, a few rows at a time and in float64: ΔW by PEFT's own definitions.

A tensor is seen as rows: of a linear layer [out, in], of a convolution [out, in · height · width], of stacked experts
[experts · rows, columns]. A change is opened with a reader of the weights W under the adapter and then makes rows of ΔW.

Here are those that an adapter holds as they are; `factored` has the products.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gtrturbo.store.open_files import Files, read_tensor, widen
from gtrturbo.store.safetensors_files import TensorEntry

# Rows [first, last) of the weights under an adapter, float64. [n, width]
RowReader = Callable[[int, int], np.ndarray]
Shape = tuple[int, ...]


class OpenChange(Protocol):
    """An open change."""

    def rows(self, first: int, last: int, out: np.ndarray | None = None) -> np.ndarray:
        """Make ΔW[first:last], in `out` where it is given; else in memory that the next call may use again. [n, width] float64"""
        ...


class Change(Protocol):
    """What becomes of one tensor.

    `shape`: of the tensor; `width`: entries of one of its rows, as `OpenChange` counts them; `entries`: tensors that are read.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def width(self) -> int: ...

    @property
    def entries(self) -> tuple[TensorEntry, ...]: ...

    def open(self, files: Files, weights: RowReader) -> OpenChange: ...


def width_of(shape: tuple[int, ...]) -> int:
    """Entries of a row: all of one output; a vector is one row."""
    return int(np.prod(shape[1:])) if len(shape) > 1 else int(np.prod(shape))


def in_double(values: np.ndarray) -> np.ndarray:
    """Widen what is as it lies on disk."""
    return widen(values).astype(np.float64)


@dataclass(frozen=True)
class Scaled:
    """A vector that is added: scale · b, as the bias of a layer B does."""

    entry: TensorEntry
    scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.entry.shape

    @property
    def width(self) -> int:
        return width_of(self.shape)

    @property
    def entries(self) -> tuple[TensorEntry, ...]:
        return (self.entry,)

    def open(self, files: Files, weights: RowReader) -> OpenChange:
        values = in_double(read_tensor(files, self.entry)).reshape(-1, self.width) * self.scale
        return MadeRows(lambda first, last: values[first:last])


@dataclass(frozen=True)
class MadeRows:
    """An open change that a function makes."""

    make: Callable[[int, int], np.ndarray]

    def rows(self, first: int, last: int, out: np.ndarray | None = None) -> np.ndarray:
        rows = self.make(first, last)
        if out is None:
            return rows
        out.reshape(rows.shape)[:] = rows
        return out.reshape(rows.shape)


@dataclass(frozen=True)
class Replaced:
    """A tensor that the adapter holds whole, W′ in place of W, with a change of W′ above it if there is one."""

    entry: TensorEntry
    above: Change | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.entry.shape

    @property
    def width(self) -> int:
        return self.above.width if self.above else width_of(self.shape)

    @property
    def entries(self) -> tuple[TensorEntry, ...]:
        return (self.entry, *(self.above.entries if self.above else ()))

    def open(self, files: Files, weights: RowReader) -> OpenChange:
        instead = rows_of(files, self.entry, self.width)
        above = self.above.open(files, instead) if self.above else None

        def make(first: int, last: int) -> np.ndarray:
            moved = instead(first, last) - weights(first, last)
            return moved + above.rows(first, last) if above else moved

        return MadeRows(make)


@dataclass(frozen=True)
class Tokens:
    """Rows of an embedding that are replaced: those of `tokens`, by the rows of `entry` in that order."""

    entry: TensorEntry
    tokens: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def width(self) -> int:
        return width_of(self.shape)

    @property
    def entries(self) -> tuple[TensorEntry, ...]:
        return (self.entry,)

    def open(self, files: Files, weights: RowReader) -> OpenChange:
        values, tokens = in_double(read_tensor(files, self.entry)), np.array(self.tokens)

        def make(first: int, last: int) -> np.ndarray:
            moved = np.zeros((last - first, self.width))
            inside = np.flatnonzero((tokens >= first) & (tokens < last))
            if len(inside):
                at = tokens[inside] - first
                moved[at] = values[inside] - weights(first, last)[at]
            return moved

        return MadeRows(make)


def rows_of(files: Files, entry: TensorEntry, width: int) -> RowReader:
    """Read rows of a tensor on disk."""
    stored = files.stored(entry)
    return lambda first, last: in_double(stored(first * width, last * width).load()).reshape(last - first, width)
