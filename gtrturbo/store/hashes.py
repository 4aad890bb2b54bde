"""Hashes of the files of others, which have no manifest that says them; a large file that stays as it was is hashed once."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from blake3 import blake3
from pydantic import TypeAdapter, ValidationError

from gtrturbo.errors import GtrTurboError
from gtrturbo.store.files import write_whole

WORTH_REMEMBERING = 1 << 20  # bytes
SETTLED = 2_000_000_000  # ns
PIECE = 1 << 20  # bytes that are read at once
HASHES_FORMAT = 2
_hashed: dict[str, str] = {}


@dataclass(frozen=True)
class Remembered:
    """What is kept of one process for the next: hashes by what tells a file apart, and the hash of all of them."""

    format: int
    hashes: dict[str, str]
    seal: str


class Digest(Protocol):
    """What hashlib's hashes and BLAKE3 have in common."""

    def update(self, data: Any, /) -> Any: ...

    def hexdigest(self) -> str: ...


def new_hash() -> Digest:
    """Begin a hash of the kind that `content_hash` returns."""
    return blake3()


def sealed_by(content: Any) -> str:
    """Hash what JSON can say, so that a file may name the hash of its own content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def content_hash(path: Path) -> str:
    """Hash a file of others by BLAKE3, which takes a fraction of sha256's time.

    A large file that has not been touched since it was hashed is not read again.
    """
    stat = path.stat()
    key = f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"
    if key in _hashed:
        return _hashed[key]
    digest = _hash_of(path)
    # A file that is being written may change again without a new time.
    if stat.st_size >= WORTH_REMEMBERING and time.time_ns() - stat.st_mtime_ns > SETTLED:
        _hashed[key] = digest
    return digest


def _hash_of(path: Path) -> str:
    # Not from a mapping of the file: if it became shorter meanwhile, a signal would end the process. In pieces that stay in the
    # cache, and are large enough that threads seldom wait for each other.
    digest, buffer = blake3(), bytearray(PIECE)
    with path.open("rb", buffering=0) as file:
        while got := file.readinto(buffer):
            digest.update(memoryview(buffer)[:got])
    return digest.hexdigest()


@contextmanager
def remembering_hashes(file: Path | None, tell: Callable[[str], None]) -> Iterator[None]:
    """Keep what `content_hash` finds of large files from one process to the next, by device, inode, size and times.

    Where the file cannot be read or written, as where a disk is full, `tell` is told: all is hashed again, which breaks no work.

    Raises:
        GtrTurboError: the file is damaged, or was changed by hand.
    """
    if file is None:
        yield
        return
    _hashed.update(_remembered(file, tell))
    known = len(_hashed)
    yield
    if len(_hashed) == known:
        return
    content = asdict(Remembered(HASHES_FORMAT, _hashed, sealed_by(_hashed)))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(content).encode())
    except OSError as error:
        tell(f"{file} cannot be written ({error.strerror}): the next merge hashes its inputs again.")


def _remembered(file: Path, tell: Callable[[str], None]) -> dict[str, str]:
    try:
        content = file.read_bytes() if file.is_file() else None
    except OSError as error:
        tell(f"{file} cannot be read ({error.strerror}): the inputs are hashed again.")
        return {}
    if content is None:
        return {}
    try:
        found = TypeAdapter(Remembered | dict[str, str]).validate_json(content)
    except ValidationError:
        raise _damaged(file) from None
    if isinstance(found, dict):  # Of an earlier version, which sealed nothing.
        return {}
    if found.format != HASHES_FORMAT or found.seal != sealed_by(found.hashes):
        raise _damaged(file)
    return found.hashes


def _damaged(file: Path) -> GtrTurboError:
    return GtrTurboError(f"{file} is damaged.", "delete it: the files are hashed again.")
