"""The compiled inner loops: C that is built once with the machine's compiler; without one, tiles.py does the same."""

import ctypes
import errno
import functools
import math
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from gtrturbo.console import stderr
from gtrturbo.distributed.escapes import one_line
from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.building import built
from gtrturbo.merging.operands import BINS, CHUNK, SUMS, TABLES, Operand, Search, Tile, TileRule
from gtrturbo.merging.product_kernel import ProductKernel
from gtrturbo.store.open_files import Mapped, StoredTile

_DTYPES = {np.dtype(np.float64): 0, np.dtype(np.float32): 1, np.dtype(np.uint16): 2, np.dtype(np.float16): 3}
_VOTES = {None: 0, "total": 1, "count": 2}


class _Input(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int64),
        ("difference", ctypes.c_int64),
        ("weight", ctypes.c_double),
        ("low", ctypes.c_double),
        ("high", ctypes.c_double),
        ("key", ctypes.c_uint64),
        ("descriptor", ctypes.c_int64),
        ("place", ctypes.c_int64),
        ("mapped", ctypes.c_int64),
        ("part", ctypes.c_int64),
        ("step", ctypes.c_int64),
    )


class _RuleStruct(ctypes.Structure):
    _fields_ = (
        ("vote", ctypes.c_int64),
        ("average", ctypes.c_int64),
        ("divisor", ctypes.c_double),
        ("keep", ctypes.c_double),
        ("scale", ctypes.c_double),
        ("base_factor", ctypes.c_double),
        ("trimmed", ctypes.c_int64),
    )


UNREADABLE = -2  # See streams.c.


class CompiledKernel:
    """The compiled loops behind arrays and files; they release the interpreter lock, so threads run them side by side."""

    name = "compiled"

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library), use_errno=True)
        self._library.gtrturbo_gather.restype = ctypes.c_int64
        self._library.gtrturbo_map.restype = ctypes.c_void_p
        # To let go of the interpreter for a call that takes no time is to wait for the other threads.
        self._quick = ctypes.PyDLL(str(library))
        self._quick.gtrturbo_room.restype = ctypes.c_int64
        self._quick.gtrturbo_start.restype = ctypes.c_void_p
        self._local = threading.local()
        self._mapping = threading.Lock()
        self.products = ProductKernel(self._library) if self._quick.gtrturbo_product_able() else None

    def tables(self) -> np.ndarray:
        return np.zeros((TABLES, BINS), np.uint32)

    def histogram(self, base: Tile, operand: Operand, *, prefix: int, prefix_shift: int, shift: int, tables: np.ndarray) -> int:
        found = self._library.gtrturbo_histogram(
            ctypes.c_int64(len(operand.data)),
            ctypes.byref(self._tile(base)),
            ctypes.byref(self._input(operand)),
            ctypes.c_uint64(prefix),
            ctypes.c_int64(prefix_shift),
            ctypes.c_int64(shift),
            _pointer(tables),
            self._buffers(1),
        )
        return self._readable(found, base, [operand])

    def span(self, base: Tile, operand: Operand, search: Search) -> bool:
        above, found = ctypes.c_int64(search.above), ctypes.c_int64(search.found)
        fine = self._library.gtrturbo_span(
            ctypes.c_int64(len(operand.data)),
            ctypes.byref(self._tile(base)),
            ctypes.byref(self._input(operand)),
            ctypes.c_uint64(search.first),
            ctypes.c_uint64(search.width),
            _pointer(search.tables),
            ctypes.byref(above),
            _pointer(search.rest),
            ctypes.c_int64(len(search.rest)),
            ctypes.byref(found),
            self._buffers(1),
        )
        search.above, search.found = above.value, found.value
        return bool(self._readable(fine, base, [operand]))

    def gather(self, base: Tile, operand: Operand, *, prefix: int, prefix_shift: int, out: np.ndarray) -> int:
        found = self._library.gtrturbo_gather(
            ctypes.c_int64(len(operand.data)),
            ctypes.byref(self._tile(base)),
            ctypes.byref(self._input(operand)),
            ctypes.c_uint64(prefix),
            ctypes.c_int64(prefix_shift),
            _pointer(out),
            self._buffers(1),
        )
        return self._readable(found, base, [operand])

    def combine(
        self,
        base: Tile,
        operands: Sequence[Operand],
        rule: TileRule,
        *,
        offset: int,
        out: np.ndarray,
        state: np.ndarray | None = None,
        decay: float = 1.0,
    ) -> np.ndarray | None:
        sums = np.zeros((-(-len(base) // CHUNK), SUMS))
        inputs = (_Input * max(1, len(operands)))(*map(self._input, operands))
        fine = self._library.gtrturbo_combine(
            ctypes.c_int64(len(base)),
            ctypes.c_int64(offset),
            ctypes.byref(self._tile(base)),
            ctypes.c_int64(len(operands)),
            inputs,
            ctypes.byref(rule_struct(rule)),
            None if state is None else _pointer(state),
            ctypes.c_double(decay),
            _pointer(out),
            _pointer(sums),
            self._buffers(len(operands)),
        )
        return sums if self._readable(fine, base, operands) else None

    @contextmanager
    def in_memory(self, data: Tile) -> Iterator[ctypes.Structure]:
        """Describe a tile that other loops read in memory or in a mapped file.

        Raises:
            GtrTurboError: the file became shorter meanwhile.
        """
        data = data.load() if isinstance(data, StoredTile) and data.files is None else data
        yield self._tile(data)
        self._readable(1, data, [])

    def _buffers(self, k: int) -> ctypes.c_void_p:
        """Buffers of this thread for pieces of a base and k inputs."""
        size = self._quick.gtrturbo_room(ctypes.c_int64(k))
        buffer = getattr(self._local, "buffer", None)
        if buffer is None or len(buffer) < size:
            buffer = self._local.buffer = np.empty(size, np.uint8)
        return _pointer(buffer)

    def _input(self, operand: Operand) -> _Input:
        tile = self._tile(operand.data)
        tile.difference, tile.weight, tile.key = operand.difference, operand.weight, operand.key
        tile.low, tile.high = operand.low, operand.high
        if operand.sample:
            tile.part, tile.step = operand.sample
        return tile

    def _tile(self, data: Tile) -> _Input:
        tile = _Input(dtype=_DTYPES[data.dtype], descriptor=-1, weight=1.0, high=math.inf)
        if isinstance(data, np.ndarray):
            tile.data = data.ctypes.data
        elif data.files is None:
            tile.descriptor, tile.place = data.descriptor, data.place
        else:
            mapped = data.files.mapped(data.path, self._map)
            if data.place + len(data) * data.dtype.itemsize > mapped.size:
                raise data.unreadable(0)
            tile.data, tile.mapped = mapped.start + data.place, 1 + data.again
        return tile

    def _readable(self, result: int, base: Tile, operands: Sequence[Operand]) -> int:
        """Return what a loop returned, unless it is that a file cannot be read."""
        tiles = [base, *(operand.data for operand in operands)]
        for tile in tiles:
            if isinstance(tile, StoredTile) and tile.files and tile.files.mapped(tile.path, self._map).torn():
                raise tile.unreadable(0)
        if result > UNREADABLE:
            return result
        tile = tiles[UNREADABLE - result]
        assert isinstance(tile, StoredTile)
        raise tile.unreadable(ctypes.get_errno())

    def _map(self, descriptor: int, path: Path) -> Mapped:
        size = os.fstat(descriptor).st_size
        with self._mapping:
            mapping = self._library.gtrturbo_map(ctypes.c_int(descriptor), ctypes.c_int64(size))
        if mapping is None:
            raise OSError(errno.ENODEV, "its file system maps no files", str(path))
        return _Mapping(self._library, self._quick, self._mapping, ctypes.c_void_p(mapping), size)


class _Mapping:
    """A file in memory, see mapping.c."""

    def __init__(
        self, library: ctypes.CDLL, quick: ctypes.PyDLL, lock: threading.Lock, mapping: ctypes.c_void_p, size: int
    ) -> None:
        self._library, self._quick, self._lock, self._mapping = library, quick, lock, mapping
        self.start, self.size = quick.gtrturbo_start(mapping), size

    def torn(self) -> bool:
        return bool(self._quick.gtrturbo_torn(self._mapping))

    def close(self) -> None:
        with self._lock:
            self._library.gtrturbo_unmap(self._mapping)


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


def rule_struct(rule: TileRule) -> _RuleStruct:
    """Describe a rule to the loops."""
    return _RuleStruct(_VOTES[rule.vote], rule.average, rule.divisor, rule.keep, rule.scale, rule.base_factor, rule.trims)


@functools.cache
def compiled_kernel() -> CompiledKernel | None:
    """Build them, or take them as they were built before; None where that cannot be done, which is told with its reason."""
    try:
        with built() as library:
            return CompiledKernel(library)
    except GtrTurboError as error:
        reason = error.what
    except OSError as error:
        reason = f"the compiled loops cannot be loaded: {error}."
    stderr.print(one_line(reason), style="yellow", soft_wrap=True)
    return None
