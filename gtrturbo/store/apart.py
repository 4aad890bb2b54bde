"""Nothing is written over or into what is read, by whichever way one gets there."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from gtrturbo.errors import GtrTurboError
from gtrturbo.store.claims import partial, replaced

Identity = tuple[int, int]  # Device and inode: the same through links, mounts and spellings that differ by case.


def require_apart(option: str, place: Path, others: Iterable[Path], *, replacing: bool = True) -> None:
    """Refuse a place to write to that is, or lies in, one of the folders that stay as they are; its hidden siblings, too.

    Args:
        option: how the place was named.
        place: where is written; need not exist.
        others: folders that stay as they are.
        replacing: whatever is in the place goes away, so that none of the others may be in it either.

    Raises:
        GtrTurboError: names both.
    """
    written = (place, partial(place), replaced(place)) if replacing else (place,)
    for folder in others:
        within = any(_lies_in(each, folder) for each in written)
        around = replacing and any(_lies_in(folder, each) for each in written)
        if within or around:
            how = f"{place} holds {folder}" if around and not within else f"{place} is or lies in {folder}"
            raise GtrTurboError(f"{option} {how}, which stays as it is.", f"choose another {option}.")


def _lies_in(path: Path, folder: Path) -> bool:
    """Tell whether a path is a folder or lies in it; by name, where neither exists."""
    if Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        return True
    return not set(_below(folder)).isdisjoint(_above(path))


def _above(path: Path) -> Iterator[Identity]:
    """Identify a folder and all folders that it lies in, as far as they exist."""
    place = Path(os.path.realpath(path))
    for folder in (place, *place.parents):
        if folder.exists():
            yield _identity(folder)


def _below(path: Path) -> Iterator[Identity]:
    """Identify a folder and all folders in it."""
    for folder, _, _ in os.walk(os.path.realpath(path)):
        yield _identity(Path(folder))


def _identity(path: Path) -> Identity:
    status = path.stat()
    return status.st_dev, status.st_ino
