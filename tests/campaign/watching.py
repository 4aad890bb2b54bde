"""Whether files were opened, as the kernel tells it: also for readers that are not written in Python."""

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

IN_OPEN = 0x20
NONBLOCKING = 0x800


class Watch:
    """Tell whether any of some files was opened while the block ran."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths, self.opened = paths, False

    def __enter__(self) -> "Watch":
        libc = ctypes.CDLL(None, use_errno=True)
        self._queue = libc.inotify_init1(NONBLOCKING)
        if self._queue < 0:
            raise OSError(ctypes.get_errno(), "inotify")
        for path in self.paths:
            libc.inotify_add_watch(self._queue, os.fsencode(path), IN_OPEN)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.opened = bool(os.read(self._queue, 1 << 16))
        except BlockingIOError:
            self.opened = False
        os.close(self._queue)
