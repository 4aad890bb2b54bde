"""The compiled loops for products of adapters' factors: made in float32 where they are looked at, and exact all the same.

See products.c.
"""

import ctypes
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gtrturbo.merging.operands import SUMS, TileRule

PANEL, CHAIN = 64, 32  # See products.c.
UNIT = 2.0**-24  # of float32
LEAST = 2.0**-126
SLACK = 1.001  # above what the bounds themselves are rounded by
MOST_RANK = 4096
MOST_SAFE = 2.0**90  # of an entry, so that no sum of many overflows


@dataclass(frozen=True)
class PackedFactors:
    """L [rows, rank] and R [rank, width] of a product scale · L R, float32, R in panels of 64 columns, with norms.

    `right`: [panels, rank, 64], zeros beyond the width. `left_norms`: of L's rows. `right_norms`: the largest of each panel.
    In float32 an entry is off by at most `unit` times its two norms, and `least`; any entry by `off`.
    """

    left: np.ndarray
    right: np.ndarray
    left_norms: np.ndarray
    right_norms: np.ndarray
    width: int
    scale: float

    @property
    def rows(self) -> int:
        return self.left.shape[0]

    @property
    def rank(self) -> int:
        return self.left.shape[1]

    @property
    def size(self) -> int:
        return self.left.nbytes + self.right.nbytes + self.left_norms.nbytes + self.right_norms.nbytes

    @cached_property
    def norms(self) -> tuple[float, float]:
        """The largest of each."""
        return float(self.left_norms.max(initial=0.0)), float(self.right_norms.max(initial=0.0))

    @property
    def nothing(self) -> bool:
        """All entries are 0."""
        return not (self.rank and self.scale and all(self.norms))

    @cached_property
    def unit(self) -> float:
        roundings = min(self.rank, CHAIN) + -(-self.rank // CHAIN) + 2
        return roundings * UNIT * abs(self.scale) * SLACK

    @cached_property
    def least(self) -> float:
        return (self.rank * (1 + sum(self.norms)) * (1 + abs(self.scale)) + 2) * LEAST

    @property
    def off(self) -> float:
        return self.unit * self.norms[0] * self.norms[1] + self.least

    @property
    def bounded(self) -> bool:
        """Whether the bounds hold: nothing overflows, and all is finite."""
        largest = (1 + self.norms[0]) * (1 + self.norms[1]) * (1 + abs(self.scale))
        return self.rank <= MOST_RANK and largest < MOST_SAFE

    @cached_property
    def addresses(self) -> list[int]:
        return [array.ctypes.data for array in (self.left, self.right, self.left_norms, self.right_norms)]


class _Factors(ctypes.Structure):
    _fields_ = (
        ("left", ctypes.c_void_p),
        ("right", ctypes.c_void_p),
        ("left_norms", ctypes.c_void_p),
        ("right_norms", ctypes.c_void_p),
        ("rank", ctypes.c_int64),
        ("scale", ctypes.c_double),
        ("unit", ctypes.c_double),
        ("least", ctypes.c_double),
        ("weight", ctypes.c_double),
        ("low", ctypes.c_double),
    )


def _struct(factors: PackedFactors, weight: float = 1.0, low: float = 0.0) -> _Factors:
    return _Factors(*factors.addresses, factors.rank, factors.scale, factors.unit, factors.least, weight, low)


@dataclass
class Candidates:
    """Magnitudes that may lie between two numbers, float32, and their places; `above`: number of larger ones.

    `found`: how many there are, which the arrays hold if there was room for them.
    """

    values: np.ndarray
    places: np.ndarray
    above: int
    found: int


class ProductKernel:
    """What a library that has them makes of factors; it releases the interpreter lock."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._library.gtrturbo_product_span.restype = ctypes.c_int64
        self._library.gtrturbo_product_room.restype = ctypes.c_int64
        self._local = threading.local()

    def pack(self, left: np.ndarray, right: np.ndarray, scale: float) -> PackedFactors:
        """Lay out L [rows, rank] and R [rank, width], float32."""
        rank, width = right.shape
        panels = -(-width // PANEL)
        packed = np.empty((panels, rank, PANEL), np.float32)
        norms, most = np.empty(len(left)), np.empty(panels)
        self._library.gtrturbo_product_pack(
            ctypes.c_int64(len(left)),
            ctypes.c_int64(rank),
            ctypes.c_int64(width),
            *map(_pointer, (left, right, packed, norms, most)),
        )
        return PackedFactors(left, packed, norms, most, width, scale)

    def gather(self, factors: PackedFactors, low: float, high: float, room: int) -> Candidates:
        """Find the magnitudes that may lie in [low, high), and count those that do not lie below."""
        values, places = (np.empty(room + 16, dtype) for dtype in (np.float32, np.int32))
        above = ctypes.c_int64(0)
        found = self._library.gtrturbo_product_span(
            ctypes.byref(_struct(factors)),
            ctypes.c_int64(0),
            ctypes.c_int64(factors.rows),
            ctypes.c_int64(factors.width),
            ctypes.c_double(low),
            ctypes.c_double(high),
            *map(_pointer, (values, places)),
            ctypes.c_int64(room + 16),
            ctypes.byref(above),
        )
        held = min(found, room)
        return Candidates(values[:held], places[:held], above.value, found)

    def magnitudes(self, factors: PackedFactors, places: np.ndarray) -> np.ndarray:
        """Make some entries' magnitudes in float64."""
        places, out = np.ascontiguousarray(places), np.empty(len(places))
        self._library.gtrturbo_product_exact(
            ctypes.byref(_struct(factors)),
            ctypes.c_int64(factors.width),
            ctypes.c_int64(len(places)),
            _pointer(places),
            _pointer(out),
        )
        return out

    def combine(
        self,
        base: ctypes.Structure,
        factors: Sequence[PackedFactors],
        rows: tuple[int, int],
        rule: ctypes.Structure,
        *,
        weights: Sequence[float],
        lows: Sequence[float],
        out: np.ndarray,
    ) -> np.ndarray | None:
        """Merge some rows around a base in bfloat16, as `Combiner.combine` does with products in float64. [1, SUMS]"""
        k, sums = len(factors), np.zeros((1, SUMS))
        given = (_Factors * k)(*map(_struct, factors, weights, lows))
        fine = self._library.gtrturbo_product_combine(
            *map(ctypes.c_int64, (*rows, factors[0].width)),
            ctypes.byref(base),
            ctypes.c_int64(k),
            given,
            ctypes.byref(rule),
            _pointer(out),
            _pointer(sums),
            self._room(k),
        )
        return sums if fine else None

    def _room(self, k: int) -> ctypes.c_void_p:
        size = self._library.gtrturbo_product_room(ctypes.c_int64(k))
        room = getattr(self._local, "room", None)
        if room is None or len(room) < size:
            room = self._local.room = np.empty(size, np.uint8)
        return _pointer(room)


def takes(rule: TileRule, weights: Sequence[float]) -> bool:
    """Whether the loops know such a merge, and their bounds hold in it."""
    known = rule.keep == 1 and rule.base_factor == 1 and rule.vote != "count" and bool(rule.vote or not rule.trims)
    numbers = (*weights, rule.divisor)
    return known and len(weights) <= 256 and all(2.0**-20 <= n <= 2.0**20 for n in numbers) and abs(rule.scale) <= 2.0**20


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)
