"""Work that several threads do at once, and that nobody waits for any more once it is interrupted or has failed."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, TypeVar

Made = TypeVar("Made")


def map_at_once(work: Callable[..., Made], *items: Iterable[Any], threads: int | None = None) -> list[Made]:
    """Return what `work` makes of each of the items, in their order; the first error, or Ctrl-C, ends the waiting."""
    pool = ThreadPoolExecutor(threads)
    try:
        return list(pool.map(work, *items))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def hear_at_once(
    work: Callable[[Any], Made], items: Sequence[Any], heard: Callable[[Any, Made], object], *, threads: int | None = None
) -> None:
    """Tell `heard`, in this thread, each item and what `work` made of it, as they come; the first error ends the waiting."""
    pool = ThreadPoolExecutor(threads)
    try:
        asked = {pool.submit(work, item): item for item in items}
        for done in as_completed(asked):
            heard(asked[done], done.result())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
