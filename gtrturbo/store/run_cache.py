"""What one process keeps from stage to stage of a run, so that it is not made for every stage; outside of a run nothing is kept.

Whatever is kept must be what would be made again: its key names all that it is made from.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Made = TypeVar("Made")

_kept: list[dict[str, tuple[Hashable, object]]] = []


@contextmanager
def caching() -> Iterator[None]:
    """Keep what `cached` makes for as long as the block runs."""
    _kept.append({})
    try:
        yield
    finally:
        _kept.pop()


def cached(name: str, key: Hashable, make: Callable[[], Made]) -> Made:
    """Return what is kept under `name` if it has this key, else make it, and keep it inside of `caching`.

    One thing is kept per name. The one before is dropped first, so that there are never two at once.
    """
    if not _kept:
        return make()
    kept = _kept[-1]
    if name not in kept or kept[name][0] != key:
        kept.pop(name, None)
        kept[name] = (key, make())
    return kept[name][1]  # type: ignore[return-value]


def drop(name: str) -> None:
    """Forget what is kept under `name`, if anything is."""
    if _kept:
        _kept[-1].pop(name, None)
