"""Hashes of the files of others, which have no manifest that says them; a large file that stays as it was is hashed once."""

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blake3 import blake3
from pydantic import TypeAdapter, ValidationError

from gtrturbo.errors import GtrTurboError
from gtrturbo.store.files import write_whole

WORTH_REMEMBERING = 1 << 20  # bytes
SETTLED = 2_000_000_000  # ns
_hashed: dict[str, str] = {}


def content_hash(path: Path) -> str:
    """Hash a file of others by BLAKE3, which takes a fraction of sha256's time.

    A large file that has not been touched since it was hashed is not read again.
    """
    stat = path.stat()
    key = f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"
    if key in _hashed:
        return _hashed[key]
    # Not from a mapping of the file: if it became shorter meanwhile, a signal would end the process. The type checker knows
    # only hashes of hashlib's own signatures.
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, blake3).hexdigest()  # pyright: ignore[reportArgumentType]
    # A file that is being written may change again without a new time.
    if stat.st_size >= WORTH_REMEMBERING and time.time_ns() - stat.st_mtime_ns > SETTLED:
        _hashed[key] = digest
    return digest


@contextmanager
def remembering_hashes(file: Path | None) -> Iterator[None]:
    """Keep what `content_hash` finds of large files from one process to the next, by device, inode, size and times."""
    if file is None:
        yield
        return
    if file.is_file():
        try:
            _hashed.update(TypeAdapter(dict[str, str]).validate_json(file.read_bytes()))
        except ValidationError:
            raise GtrTurboError(f"{file} is damaged.", "delete it: the files are hashed again.") from None
    known = len(_hashed)
    yield
    if len(_hashed) == known:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(_hashed).encode())
