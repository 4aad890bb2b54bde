"""Open files of tensors, shared by threads: tiles are read into and written from buffers, never whole files."""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gtrturbo.errors import GtrTurboError
from gtrturbo.store.safetensors_files import FLOATS, TensorEntry

COMPARED = 1 << 22  # bytes


@dataclass(frozen=True)
class StoredTile:
    """Entries that still lie in an open file, from byte `place` on."""

    path: Path
    descriptor: int
    place: int
    entries: int
    dtype: np.dtype

    def __len__(self) -> int:
        return self.entries

    def load(self) -> np.ndarray:
        """Read them. [entries]"""
        out = np.empty(self.entries, self.dtype)
        _fill(self.descriptor, self.path, self.place, out)
        return out

    def unreadable(self, errno: int) -> Exception:
        """Say why they could not be read; errno 0: the file ended."""
        return OSError(errno, os.strerror(errno), str(self.path)) if errno else _shorter(self.path)


def _fill(descriptor: int, path: Path, offset: int, data: np.ndarray) -> None:
    out = data.view(np.uint8).data
    while len(out):
        got = os.preadv(descriptor, [out], offset)
        if not got:
            raise _shorter(path)
        out, offset = out[got:], offset + got


def _shorter(path: Path) -> GtrTurboError:
    return GtrTurboError(f"{path} became shorter while it was read.")


@dataclass
class Files:
    """Open files, by path, shared by threads: reads and writes name their offset."""

    _open: dict[Path, int] = field(default_factory=dict)
    # Writers of one file wait for each other anyway: here they do it asleep, in the kernel they would spin.
    _writing: threading.Lock = field(default_factory=threading.Lock)

    def read(self, entry: TensorEntry, first: int, out: np.ndarray) -> None:
        """Read entries [first, first + len(out)) of a tensor into `out`, whose dtype is the file's."""
        self.read_bytes(entry.file, entry.start + first * entry.width, out)

    def read_bytes(self, path: Path, offset: int, data: np.ndarray) -> None:
        """Fill an array from an offset of a file."""
        _fill(self._open[path], path, offset, data)

    def stored(self, entry: TensorEntry) -> Callable[[int, int], StoredTile]:
        """Return what names the entries [first, last) of a tensor, unread."""
        path, descriptor, dtype = entry.file, self._open[entry.file], np.dtype(FLOATS[entry.dtype])
        start, width = entry.start, entry.width
        return lambda first, last: StoredTile(path, descriptor, start + first * width, last - first, dtype)

    def write(self, path: Path, offset: int, data: np.ndarray) -> None:
        """Write an array's bytes at an offset of a file that was opened for writing."""
        left = data.view(np.uint8).data
        with self._writing:
            while len(left):
                done = os.pwrite(self._open[path], left, offset)
                left, offset = left[done:], offset + done

    def flush(self, path: Path) -> None:
        """Wait until the disk holds what was written so far."""
        os.fsync(self._open[path])

    def open(self, path: Path) -> None:
        """Open a file for reading, once."""
        if path not in self._open:
            self._open[path] = os.open(path, os.O_RDONLY)

    def create(self, path: Path, header: bytes, size: int) -> None:
        """Make a file that was not there, of its final size, with its header, so that a full disk is found before the work."""
        self._open[path] = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        os.posix_fallocate(self._open[path], 0, max(1, size))
        os.pwrite(self._open[path], header, 0)

    def close(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()


def read_tensor(files: Files, entry: TensorEntry) -> np.ndarray:
    """Read one whole floating-point tensor, in its shape; bfloat16 as the uint16 of its bits."""
    flat = np.empty(entry.entries, FLOATS[entry.dtype])
    files.read(entry, 0, flat)
    return flat.reshape(entry.shape)


def same_bytes(a: TensorEntry, b: TensorEntry) -> bool:
    """Tell whether two tensors are the same, byte for byte."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    with a.file.open("rb") as ours, b.file.open("rb") as theirs:
        ours.seek(a.start)
        theirs.seek(b.start)
        pieces = [min(COMPARED, a.size - first) for first in range(0, a.size, COMPARED)]
        return all(ours.read(size) == theirs.read(size) for size in pieces)


def widen(values: np.ndarray) -> np.ndarray:
    """Turn a tile as it is on disk into float32, or float64 where it is that."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values if values.dtype == np.float64 else values.astype(np.float32)
