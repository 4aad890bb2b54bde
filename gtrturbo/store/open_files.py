"""Files of tensors, shared by threads: tiles are read and written, never whole files."""

import os
import resource
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from gtrturbo.errors import GtrTurboError, naming
from gtrturbo.store.safetensors_files import FLOATS, TensorEntry

COMPARED = 1 << 22  # bytes
MOST_OPEN, FEWEST_OPEN = 256, 8


@dataclass(frozen=True)
class StoredTile:
    """Entries that still lie in a file, from byte `place` on: in one that is open, or that `files` open when it is read.

    `again`: they are read again soon, so that what is mapped of them may stay.
    """

    path: Path
    descriptor: int
    place: int
    entries: int
    dtype: np.dtype
    files: "Files | None" = None
    again: bool = False

    def __len__(self) -> int:
        return self.entries

    def load(self) -> np.ndarray:
        """Read them. [entries]"""
        out = np.empty(self.entries, self.dtype)
        if self.files:
            self.files.read_bytes(self.path, self.place, out)
        else:
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


class Mapped(Protocol):
    """A file in memory: its address and size. `torn`: a page of it could not be read."""

    start: int
    size: int

    def torn(self) -> bool: ...

    def close(self) -> None: ...


def room_for_descriptors() -> int:
    """How many files may be kept open: a part of what this process may open, which has others, too."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_OPEN if soft == resource.RLIM_INFINITY else max(FEWEST_OPEN, min(MOST_OPEN, soft // 4))


@dataclass
class Files:
    """Files, by path, shared by threads: reads and writes name their offset.

    Any number may be named: they are opened when they are needed, and those that were used last stay open.
    """

    most: int = field(default_factory=room_for_descriptors)
    _flags: dict[Path, int] = field(default_factory=dict)
    _inodes: dict[Path, tuple[int, int]] = field(default_factory=dict)
    _open: OrderedDict[Path, int] = field(default_factory=OrderedDict)
    _users: Counter[Path] = field(default_factory=Counter)
    _mapped: dict[Path, Mapped] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    # Writers of one file wait for each other anyway: here they do it asleep, in the kernel they would spin.
    _writing: threading.Lock = field(default_factory=threading.Lock)

    def read(self, entry: TensorEntry, first: int, out: np.ndarray) -> None:
        """Read entries [first, first + len(out)) of a tensor into `out`, whose dtype is the file's."""
        self.read_bytes(entry.file, entry.start + first * entry.width, out)

    def read_bytes(self, path: Path, offset: int, data: np.ndarray) -> None:
        """Fill an array from an offset of a file."""
        with self._held(path) as descriptor:
            _fill(descriptor, path, offset, data)

    def stored(self, entry: TensorEntry) -> Callable[[int, int], StoredTile]:
        """Return what names the entries [first, last) of a tensor, unread."""
        path, dtype, start, width = entry.file, np.dtype(FLOATS[entry.dtype]), entry.start, entry.width
        return lambda first, last: StoredTile(path, -1, start + first * width, last - first, dtype, self)

    def mapped(self, path: Path, make: Callable[[int, Path], Mapped]) -> Mapped:
        """Return a file in memory; `make` maps it from its descriptor, once."""
        if path not in self._mapped:
            with self._held(path) as descriptor, self._lock:
                if path not in self._mapped:
                    self._mapped[path] = make(descriptor, path)
        return self._mapped[path]

    def write(self, path: Path, offset: int, data: np.ndarray) -> None:
        """Write an array's bytes at an offset of a file that was opened for writing."""
        left = data.view(np.uint8).data
        with naming(path), self._held(path) as descriptor, self._writing:
            while len(left):
                done = os.pwrite(descriptor, left, offset)
                left, offset = left[done:], offset + done

    def flush(self, path: Path) -> None:
        """Wait until the disk holds what was written so far."""
        with naming(path), self._held(path) as descriptor:
            os.fsync(descriptor)

    def open(self, path: Path) -> None:
        """Open a file for reading, once."""
        if path not in self._flags:
            self._flags[path] = os.O_RDONLY
            with self._held(path):
                pass

    def create(self, path: Path, header: bytes, size: int) -> None:
        """Make a file that was not there, of its final size, with its header, so that a full disk is found before the work."""
        with self._lock:
            self._open[path] = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
            self._flags[path] = os.O_RDWR | os.O_NOFOLLOW
        with naming(path), self._held(path) as descriptor:
            reserve = getattr(os, "posix_fallocate", None)
            if reserve:
                reserve(descriptor, 0, max(1, size))
            else:  # macOS reserves nothing: there a full disk is found in the work.
                os.ftruncate(descriptor, max(1, size))
            os.pwrite(descriptor, header, 0)

    def close(self) -> None:
        for mapped in self._mapped.values():
            mapped.close()
        for descriptor in self._open.values():
            os.close(descriptor)
        self._mapped.clear()
        self._open.clear()
        self._flags.clear()

    @contextmanager
    def _held(self, path: Path) -> Iterator[int]:
        """Keep a file open as long as the block runs."""
        with self._lock:
            if path not in self._open:
                self._open[path] = self._reopened(path)
            self._open.move_to_end(path)
            self._users[path] += 1
            descriptor = self._open[path]
            idle = [each for each in self._open if not self._users[each]] if len(self._open) > self.most else []
            for each in idle[: len(self._open) - self.most]:
                os.close(self._open.pop(each))
        try:
            yield descriptor
        finally:
            with self._lock:
                self._users[path] -= 1

    def _reopened(self, path: Path) -> int:
        descriptor = os.open(path, self._flags[path])
        stat = os.fstat(descriptor)
        if self._inodes.setdefault(path, (stat.st_dev, stat.st_ino)) != (stat.st_dev, stat.st_ino):
            os.close(descriptor)
            raise GtrTurboError(f"{path} was replaced while it was read.", "run it again when nothing writes there.")
        return descriptor


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
