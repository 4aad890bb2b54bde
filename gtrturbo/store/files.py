"""Files: those of an artifact, and how one is written whole or not at all."""

import json
import os
import secrets
from pathlib import Path
from typing import Any

from gtrturbo.store.names import MANIFEST, PRUNED, TIMING


def list_files(folder: Path) -> list[str]:
    """Name the files that a manifest covers, relative and sorted: all but itself, the timing and the record of pruned ones."""
    names = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    left = f".{PRUNED}."  # By a process that was killed while it wrote the record.
    return sorted(name for name in names if name not in (MANIFEST, TIMING, PRUNED) and not name.startswith(left))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: into a hidden sibling, on the disk before it takes the file's name.

    The sibling is always made anew, under a name that nobody can know before, so that no link that lies there is followed.
    It is removed if the write fails. Readers see what was there before, or all of the content.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def json_text(content: Any) -> str:
    """Return JSON in a canonical form: sorted keys, two spaces; NaN is refused."""
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def save_json(path: Path, content: Any) -> None:
    """Write JSON in a canonical form, whole or not at all: sorted keys, two spaces; NaN is refused."""
    write_whole(path, json_text(content).encode())
