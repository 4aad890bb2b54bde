"""Work that several threads do at once, and that nobody waits for any more once it is interrupted or has failed."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Made = TypeVar("Made")


def map_at_once(work: Callable[..., Made], *items: Iterable[Any], threads: int | None = None) -> list[Made]:
    """Return what `work` makes of each of the items, in their order; the first error, or Ctrl-C, ends the waiting."""
    pool = ThreadPoolExecutor(threads)
    try:
        return list(pool.map(work, *items))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
