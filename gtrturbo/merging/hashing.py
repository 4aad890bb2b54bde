"""Hash files while they are being written, in whatever order their parts appear, and send them to the disk meanwhile: neither a
second pass nor much of a wait when all is done."""

import hashlib
import heapq
import threading
from pathlib import Path

import numpy as np

from gtrturbo.merging.files import Files

STEP = 1 << 22  # bytes


class Hasher:
    """A thread that hashes one file as far as it is written without a gap, and has the disk follow."""

    def __init__(self, files: Files, path: Path, size: int) -> None:
        self._files, self._path, self._size = files, path, size
        self._written: list[tuple[int, int]] = []
        self._edge = 0
        self._given_up = False
        self._changed = threading.Condition()
        self._sha = hashlib.sha256()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def wrote(self, start: int, stop: int) -> None:
        """Say that bytes [start, stop) are in the file."""
        with self._changed:
            heapq.heappush(self._written, (start, stop))
            while self._written and self._written[0][0] <= self._edge:
                self._edge = max(self._edge, heapq.heappop(self._written)[1])
            self._changed.notify()

    def give_up(self) -> None:
        """End the thread before the file is whole."""
        with self._changed:
            self._given_up = True
            self._changed.notify()
        self._thread.join()

    def digest(self) -> str:
        """Wait for the end of the file and return its sha256 in hex."""
        self._thread.join()
        return self._sha.hexdigest()

    def _follow(self) -> None:
        buffer, done = np.empty(STEP, np.uint8), 0
        read = self._files.reading(self._path)
        while done < self._size:
            with self._changed:
                while self._edge < min(done + STEP, self._size) and not self._given_up:
                    self._changed.wait()
                if self._given_up:
                    return
            part = buffer[: min(STEP, self._size - done)]
            read(done, part)
            self._sha.update(part.data)
            self._files.flush(self._path, done, len(part))
            done += len(part)
