"""What one process keeps from stage to stage of a run, so that it is not made for every stage; outside of a run nothing is kept.

Whatever is kept must be what would be made again: its key names all that it is made from.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Made = TypeVar("Made")

_shelves: list[dict[str, tuple[Hashable, object]]] = []


@contextmanager
def caching() -> Iterator[None]:
    """Keep what `kept` makes for as long as the block runs."""
    _shelves.append({})
    try:
        yield
    finally:
        _shelves.pop()


def cached(name: str, key: Hashable, make: Callable[[], Made]) -> Made:
    """Return what is kept under `name` if it has this key, else make it, and keep it inside of `keeping`.

    One thing is kept per name. The one before is let go first, so that there are never two at once.
    """
    if not _shelves:
        return make()
    shelf = _shelves[-1]
    if name not in shelf or shelf[name][0] != key:
        shelf.pop(name, None)
        shelf[name] = (key, make())
    return shelf[name][1]  # type: ignore[return-value]


def drop(name: str) -> None:
    """Forget what is kept under `name`, if anything is."""
    if _shelves:
        _shelves[-1].pop(name, None)
