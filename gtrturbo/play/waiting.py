"""What a user is told while a server is waited for: seldom, however many requests wait for it."""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from gtrturbo.distributed.escapes import complain

TOLD_EVERY = 60.0  # seconds between two words of one address that does not answer
LATE, LATE_TOLD_EVERY = 60.0, 600.0  # seconds without an answer after which a user is told, and between two such words
_told: dict[tuple[str, str], float] = {}
_telling = threading.Lock()


def tell_waiting(url: str, why: Exception) -> None:
    """Say that a server is waited for, once a minute."""
    if _is_new(url, "waiting", every=TOLD_EVERY):
        complain(f"{url} {why} It is waited for.")


@contextmanager
def telling_late(url: str, seconds: float) -> Iterator[None]:
    """Say it, once in ten minutes, if this block takes so many seconds: of a server that hangs nothing else is heard."""

    def tell() -> None:
        if _is_new(url, "late", every=LATE_TOLD_EVERY):
            complain(f"{url} has not answered for {seconds:.0f} seconds. It is waited for.")

    timer = threading.Timer(seconds, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _is_new(url: str, word: str, *, every: float) -> bool:
    """Tell whether a user was not told this of an address for so many seconds; from now on it counts as told."""
    with _telling:
        now = time.monotonic()
        if now - _told.get((url, word), -math.inf) < every:
            return False
        _told[url, word] = now
        return True
