"""What killed processes left under a folder: drafts, logs of unfinished work, and what another was to take the place of.

The next start that owns a name removes what was left of it. These are the rest: of work that nobody starts again. Only what is
there under a name that is given here, made as it is made here and held by no living process counts; no link is followed.
"""

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gtrturbo.errors import GtrTurboError, of_system
from gtrturbo.store.claims import claimed_anew, holds_no_links, is_own, remove_left_draft
from gtrturbo.store.files import DRAFT_DIGITS, remove_left_file
from gtrturbo.store.inside import remove_whole
from gtrturbo.store.names import MANIFEST
from gtrturbo.store.resume_log import is_log

FOLDER_OF = re.compile(r"\.(?P<name>.+)\.(?P<kind>partial|replaced|journal)")
FILE_OF = re.compile(rf"\..+\.[0-9a-f]{{{DRAFT_DIGITS}}}")


@dataclass(frozen=True)
class Leftover:
    """Something that was left. `kind`: partial, replaced or journal of a folder, or file."""

    path: Path
    kind: str
    size: int  # bytes

    @property
    def out(self) -> Path:
        """The folder that it was to become, or was, or is the log of."""
        return self.path.parent / self.path.name[1 : -len(f".{self.kind}")]


def find_leftovers(folder: Path) -> list[Leftover]:
    """List what was left under a folder, by path; also what a living process still holds."""
    return sorted(_found(folder), key=lambda left: left.path)


def _found(folder: Path) -> Iterator[Leftover]:
    for above, names, files in os.walk(folder):
        for name in list(names):
            path, match = Path(above, name), FOLDER_OF.fullmatch(name)
            if match and _is_ours(path, match["kind"]):
                names.remove(name)
                yield Leftover(path, match["kind"], sum(file.stat().st_size for file in path.rglob("*") if file.is_file()))
        for path in (Path(above, name) for name in files if FILE_OF.fullmatch(name)):
            if not path.is_symlink() and path.is_file() and path.stat().st_uid == os.getuid():
                yield Leftover(path, "file", path.stat().st_size)


def _is_ours(path: Path, kind: str) -> bool:
    if path.lstat().st_uid != os.getuid() or not holds_no_links(path):
        return False
    return is_log(path) if kind == "journal" else is_own(path)


def remove_leftover(left: Leftover) -> str:
    """Remove something that was left; return why it was not, empty if it was."""
    if left.kind == "replaced" and not (left.out / MANIFEST).is_file():
        return f"it is the only copy of {left.out.name}: give it that name back, or remove it yourself"
    busy = GtrTurboError("a process is at work on it")
    try:
        if left.kind == "file":
            return "" if remove_left_file(left.path) else "a process is writing it"
        if left.kind == "partial":
            remove_left_draft(left.path, busy)
            return ""
        with claimed_anew(left.out, busy) as claim:  # Nobody begins or goes on with the work meanwhile.
            remove_whole(left.path)
            remove_whole(claim)
    except GtrTurboError as error:
        return error.what
    except OSError as error:
        if error.errno != errno.ENOLCK:
            raise
        return of_system(error).what
    return ""
