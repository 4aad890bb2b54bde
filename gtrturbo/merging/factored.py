"""Changes that are products of an adapter's factors, alone or with what its initialisation took away or a norm divides.

Sources: Hu et al., "LoRA" (arXiv 2106.09685); Liu et al., "DoRA" (2402.09353), equation 5; Meng et al., "PiSSA" (2404.02948);
Büyükakyüz, "OLoRA" (2406.01775); Wang et al., "KaSA" (2412.06071).
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from gtrturbo.merging.changes import MadeRows, OpenChange, RowReader, in_double, width_of
from gtrturbo.store.open_files import Files, read_tensor, widen
from gtrturbo.store.safetensors_files import TensorEntry

Matrices = tuple[np.ndarray, np.ndarray]
# What an initialisation takes out of W before training: the largest singular components, the smallest, or the head of its QR.
Removed = Literal["largest", "smallest", "qr"]
NORM_BLOCK = 1 << 18  # entries that are looked at at once where columns are measured


@dataclass
class Delta:
    """A product scale · L R with its factors in memory: L [rows, r] as it is stored, R [r, width] float64.

    The scale comes last, as in PEFT: products of stored factors are exact in float64, so what cancels or ties stays so.
    """

    left: np.ndarray
    right: np.ndarray
    scale: float = 1.0
    _buffer: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))

    def rows(self, first: int, last: int, out: np.ndarray | None = None) -> np.ndarray:
        """See `OpenChange`: fresh memory costs more time than the product."""
        if out is None and len(self._buffer) < last - first:
            self._buffer = np.empty((last - first, self.right.shape[1]))
        out = self._buffer[: last - first] if out is None else out.reshape(last - first, -1)
        return self._make(self.left[first:last], out)

    def some_rows(self, share: int) -> np.ndarray:
        """Make about one row of so many, not by a power of two: rows of attention come in heads of that many."""
        return self._make(self.left[:: share | 1])

    def _make(self, left: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        with np.errstate(invalid="ignore", over="ignore"):  # What is not finite is found, and named, where it is read.
            made = np.matmul(in_double(left), self.right, out=out)
        return made if self.scale == 1 else np.multiply(made, self.scale, out=made)


@dataclass(frozen=True)
class Product:
    """ΔW = scale · B A of a linear layer, a convolution or an embedding.

    Attributes:
        a: [r, in, …].
        b: [out, r, 1 …].
        scale: α/r, or α/√r.
        shape: of the tensor.
        transposed: the tensor holds (B A)ᵀ, as that of an embedding or of a Conv1D does.
        diagonal: d of B diag(d) A, where there is one. [r] or [r, 1]
    """

    a: TensorEntry
    b: TensorEntry
    scale: float
    shape: tuple[int, ...]
    transposed: bool = False
    diagonal: TensorEntry | None = None

    @property
    def embedding(self) -> bool:
        return self.a.name.endswith("lora_embedding_A")

    @property
    def width(self) -> int:
        return width_of(self.shape)

    @property
    def entries(self) -> tuple[TensorEntry, ...]:
        return (self.a, self.b, *([self.diagonal] if self.diagonal else []))

    def open(self, files: Files, weights: RowReader) -> Delta:
        return Delta(*self.factors(files), self.scale)

    def factors(self, files: Files) -> Matrices:
        """L as it is stored, and R without the scale. [rows, r], [r, width] float64"""
        a, b = (_matrix(files, entry) for entry in (self.a, self.b))
        left, right = (a.T, b.T) if self.transposed else (b, a)
        right = in_double(right)
        if self.diagonal:
            right = right * in_double(read_tensor(files, self.diagonal)).reshape(-1, 1)
        return left, np.ascontiguousarray(right)

    def singles(self, files: Files) -> Matrices:
        """L and R without the scale, float32, as they are stored if that is no wider. [rows, r], [r, width]"""
        a, b = (_matrix(files, entry) for entry in (self.a, self.b))
        left, right = (a.T, b.T) if self.transposed else (b, a)
        return np.ascontiguousarray(_single(left)), np.ascontiguousarray(_single(right))


def _single(values: np.ndarray) -> np.ndarray:
    return values if values.dtype == np.float32 else widen(values)


def _matrix(files: Files, entry: TensorEntry) -> np.ndarray:
    stored = read_tensor(files, entry)
    return stored.reshape(len(stored), -1)


@dataclass(frozen=True)
class Experts:
    """ΔW of stacked experts: for each e, scale · B_e A_e, or its transpose, with A [experts · r, in] and B [out, r · experts].

    `first`, `count`, `top`, `shape`: the part of the stack that the tensor on disk is: experts from `first` on, of each the rows
    from `top` on.
    """

    a: TensorEntry
    b: TensorEntry
    scale: float
    experts: int
    shape: tuple[int, ...]
    transposed: bool
    first: int = 0
    top: int = 0

    @property
    def width(self) -> int:
        return self.shape[-1]

    @property
    def entries(self) -> tuple[TensorEntry, ...]:
        return (self.a, self.b)

    def open(self, files: Files, weights: RowReader) -> OpenChange:
        a, b = (_matrix(files, entry) for entry in self.entries)
        height = self.shape[-2]
        count = self.shape[0] if len(self.shape) == 3 else 1
        chosen = slice(self.first, self.first + count)
        a = in_double(a.reshape(self.experts, -1, a.shape[1])[chosen])  # [count, r, in]
        b = in_double(b.reshape(len(b), -1, self.experts)[:, :, chosen]).transpose(2, 0, 1)  # [count, out, r]
        left, right = (a.transpose(0, 2, 1), b.transpose(0, 2, 1)) if self.transposed else (b, a)
        return _Stack([Delta(left[e, self.top : self.top + height], right[e], self.scale) for e in range(count)], height)


@dataclass(frozen=True)
class _Stack:
    """Products one below the other, each of `height` rows."""

    parts: list[Delta]
    height: int

    def rows(self, first: int, last: int, out: np.ndarray | None = None) -> np.ndarray:
        out = np.empty((last - first, self.parts[0].right.shape[1])) if out is None else out.reshape(last - first, -1)
        start = first
        while start < last:
            part, row = divmod(start, self.height)
            stop = min(last, start - row + self.height)
            self.parts[part].rows(row, row + stop - start, out[start - first : stop - first])
            start = stop
        return out


@dataclass(frozen=True)
class Directed:
    """DoRA: ΔW = m / ‖W + V‖ · (W + V) − W with V of `product`; norms over the inputs of each output, which m is for.

    `by_column`: the outputs are the tensor's columns, as in a Conv1D and, by PEFT's definition, in an embedding.
    """

    product: Product
    magnitude: TensorEntry
    by_column: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return self.product.shape

    @property
    def width(self) -> int:
        return self.product.width

    @property
    def entries(self) -> tuple[TensorEntry, ...]:
        return (*self.product.entries, self.magnitude)

    def open(self, files: Files, weights: RowReader) -> OpenChange:
        product = self.product.open(files, weights)
        magnitude = in_double(read_tensor(files, self.magnitude)).reshape(-1)
        columns = magnitude / _column_norms(self.shape, product, weights) if self.by_column else None

        def make(first: int, last: int) -> np.ndarray:
            under = weights(first, last)
            moved = under + product.rows(first, last)
            rows = None if columns is not None else magnitude[first:last] / np.sqrt(np.square(moved).sum(axis=1))
            return (columns if rows is None else rows[:, None]) * moved - under

        return MadeRows(make)


def _column_norms(shape: tuple[int, ...], product: OpenChange, weights: RowReader) -> np.ndarray:
    rows, width = shape[0], width_of(shape)
    squares = np.zeros(width)
    step = max(1, NORM_BLOCK // width)
    for first in range(0, rows, step):
        last = min(first + step, rows)
        squares += np.square(weights(first, last) + product.rows(first, last)).sum(axis=0)
    return np.sqrt(squares)


@dataclass(frozen=True)
class Residual:
    """ΔW = V − R, where `product` is V and R what the initialisation took out of W, as PEFT does again when it loads the adapter.

    largest (PiSSA), smallest (KaSA): R are the r singular components of W that are such; qr (OLoRA): R = scale · Q[:, :r] R[:r].
    """

    product: Product
    removed: Removed
    _known: dict[str, Matrices] = field(default_factory=dict, compare=False, repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.product.shape

    @property
    def width(self) -> int:
        return self.product.width

    @property
    def entries(self) -> tuple[TensorEntry, ...]:
        return self.product.entries

    def open(self, files: Files, weights: RowReader) -> Delta:
        left, right = self.product.factors(files)
        if "removed" not in self._known:  # Two threads may find the same.
            self._known["removed"] = self._factors(weights(0, self.shape[0]), right.shape[0])
        gone, rest = self._known["removed"]
        return Delta(np.concatenate([in_double(left), -gone], axis=1), np.concatenate([right * self.product.scale, rest]))

    def _factors(self, weights: np.ndarray, rank: int) -> Matrices:
        if self.removed == "qr":
            matrix = weights.T if self.product.transposed else weights
            q, r = np.linalg.qr(matrix)
            q, r = q[:, :rank] * self.product.scale, r[:rank]
            return (r.T, q.T) if self.product.transposed else (q, r)
        u, s, vt = np.linalg.svd(weights, full_matrices=False)
        part = slice(None, rank) if self.removed == "largest" else slice(len(s) - rank, None)
        return u[:, part] * s[part], np.ascontiguousarray(vt[part])
