"""Hash files while they are being written, in whatever order their parts appear, and send them to the disk meanwhile: neither a
second pass nor much of a wait when all is done."""

import hashlib
import heapq
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from gtrturbo.store.hashes import Digest
from gtrturbo.store.open_files import Files

STEP = 1 << 22  # bytes that are waited for
PIECE = 1 << 19  # bytes that are read at once: they stay in the nearest caches
FLUSH = 1 << 26  # bytes after which the disk is waited for


class Hasher:
    """Two threads that follow one file as far as it is written without a gap: one hashes it, the other waits for the disk."""

    def __init__(self, files: Files, path: Path, size: int, digest: Digest | None = None) -> None:
        self._files, self._path, self._size = files, path, size
        self._written: list[tuple[int, int]] = []
        self._edge = 0
        self._given_up = False
        self._changed = threading.Condition()
        self._digest = hashlib.sha256() if digest is None else digest
        self._pool = ThreadPoolExecutor(2)
        self._followers = [self._pool.submit(follow) for follow in (self._hash, self._flush)]

    def wrote(self, start: int, stop: int) -> None:
        """Say that bytes [start, stop) are in the file."""
        with self._changed:
            heapq.heappush(self._written, (start, stop))
            while self._written and self._written[0][0] <= self._edge:
                self._edge = max(self._edge, heapq.heappop(self._written)[1])
            self._changed.notify_all()

    def give_up(self) -> None:
        """End the threads before the file is whole."""
        with self._changed:
            self._given_up = True
            self._changed.notify_all()
        self._pool.shutdown()

    def digest(self) -> str:
        """Wait for the end of the file and return its hash in hex, by sha256 if no other was given.

        Raises:
            OSError: the disk does not take the file, or does not give it back.
        """
        self._pool.shutdown()
        for follower in self._followers:
            follower.result()
        return self._digest.hexdigest()

    def _steps(self, size: int) -> Iterator[tuple[int, int]]:
        """Wait for one part of the file after another: (start, stop). Ends early where the file is given up."""
        for start in range(0, self._size, size):
            stop = min(start + size, self._size)
            with self._changed:
                self._changed.wait_for(lambda stop=stop: self._edge >= stop or self._given_up)
                if self._given_up:
                    return
            yield start, stop

    def _hash(self) -> None:
        buffer = np.empty(PIECE, np.uint8)
        for first, last in self._steps(STEP):
            for start in range(first, last, PIECE):
                part = buffer[: min(PIECE, last - start)]
                self._files.read_bytes(self._path, start, part)
                self._digest.update(part.data)

    def _flush(self) -> None:
        # To send pages off is not enough: most of the wait is for the disk's own cache, which only a sync empties.
        flushed = 0
        for _, stop in self._steps(FLUSH):
            if flushed < stop < self._size:  # Whoever finishes the file waits for its end.
                flushed = self._edge
                self._files.flush(self._path)
