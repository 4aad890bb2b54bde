"""Which large files were found to hold what their manifest says, and how they looked then, so that they are hashed once.

The record lies in the user's own cache, by path: hash, size, times and inode. A file that looks otherwise now is hashed again.
Small files are not worth it. What cannot be read or written of the record costs time alone.
"""

import functools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from gtrturbo.store.files import write_whole
from gtrturbo.store.hashes import SETTLED, WORTH_REMEMBERING
from gtrturbo.store.own_cache import is_own, make_private, user_cache

VERIFIED = "verified.json"
MOST = 1024
# How old a file must be before its times tell it from a later state of itself where they tick in milliseconds. ns
SETTLED_BY_FINE_CLOCK = 50_000_000
FINE = 1_000_000  # ns

Mark = tuple[int, int, int, int]


@dataclass(frozen=True)
class Look:
    """A large file as it looked when its content was known: sha256 of it, and size, time of change, of its entry, and inode."""

    sha256: str
    mark: Mark


def mark_of(file: Path) -> Mark:
    """Return what tells a file from its later states without reading it."""
    stat = file.stat()
    return (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


def is_large(look: Look) -> bool:
    """Tell whether a file is so large that it is not read again for nothing."""
    return look.mark[0] >= WORTH_REMEMBERING


def looks() -> dict[str, Look]:
    """Read the record: looks by absolute path. Empty where there is none, or none that is this user's alone."""
    file = _record()
    try:
        return _parsed(file.read_bytes()) if file and is_own(file) else {}
    except (OSError, ValidationError):
        return {}


@functools.lru_cache(maxsize=1)
def _parsed(content: bytes) -> dict[str, Look]:
    return TypeAdapter(dict[str, Look]).validate_json(content)


def remember(folder: Path, hashed: Mapping[str, Look], *, just_written: bool = False) -> None:
    """Record how files looked before they were hashed; those that are small, or may change without a new time, are left out.

    Args:
        folder: of an artifact.
        hashed: by name in it.
        just_written: the files are so new that their times may not yet tell them from a later state: wait for that, if it is
            shorter than a twentieth of a second.
    """
    if just_written:
        _settle([look.mark for look in hashed.values() if is_large(look)])
    found = {name: look for name, look in hashed.items() if is_large(look) and _is_settled(look.mark)}
    file = _record()
    if not found or file is None:
        return
    known = looks()
    there = {str((folder / name).resolve()): look for name, look in found.items()}
    merged = {path: look for path, look in known.items() if path not in there} | there
    newest = dict(list(merged.items())[-MOST:])
    content = {path: {"sha256": look.sha256, "mark": look.mark} for path, look in newest.items()}
    try:
        make_private(file.parent)
        write_whole(file, json.dumps(content).encode(), mode=0o600)  # Under a umask of 002 others could write it.
    except OSError:
        return


def _settle(marks: Sequence[Mark]) -> None:
    newest = max((max(mark[1], mark[2]) for mark in marks if mark[1] % FINE), default=0)
    left = newest + SETTLED_BY_FINE_CLOCK - time.time_ns()
    if 0 < left <= SETTLED_BY_FINE_CLOCK:  # Not of a time to come, as that of another machine's clock.
        time.sleep(left / 1e9)


def _is_settled(mark: Mark) -> bool:
    _, changed, entry_changed, _ = mark
    age = time.time_ns() - max(changed, entry_changed)
    return age > (SETTLED if changed % FINE == 0 else SETTLED_BY_FINE_CLOCK)


def _record() -> Path | None:
    folder = user_cache()
    return folder / VERIFIED if folder else None
