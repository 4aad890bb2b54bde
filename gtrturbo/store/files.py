"""Files: those of an artifact, and how one is written whole or not at all."""

import errno
import fcntl
import json
import os
import secrets
import string
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gtrturbo.errors import GtrTurboError, naming
from gtrturbo.store.names import DRAFT_MARK, MANIFEST, MOVED, PRUNED, TIMING

DRAFT_DIGITS = 16
# What flock says where there are no locks; NFS says EBADF of what is not open for writing.
WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.EBADF)


def list_files(folder: Path) -> list[str]:
    """Name the files that a manifest covers, relative and sorted: all but itself, the timing, what moved, and what was pruned."""
    names = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    left = f".{PRUNED}."  # By a process that was killed while it wrote the record.
    return sorted(
        name for name in names if name not in (MANIFEST, TIMING, MOVED, PRUNED, DRAFT_MARK) and not name.startswith(left)
    )


def make_folder(folder: Path) -> None:
    """Make a folder, and those that it lies in, if it is not there.

    Raises:
        GtrTurboError: nothing can be made there, as in /proc.
        OSError: with the path.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError:  # Of a folder that is to be made, so that its spelling is not what is wrong.
        above = next(each for each in folder.parents if each.is_dir())
        raise GtrTurboError(f"nothing can be made in {above}.", "name another place.") from None


def write_whole(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write a file whole or not at all: into a hidden sibling, on the disk before it takes the file's name.

    The sibling is always made anew, under a name that nobody can know before, so that no link that lies there is followed.
    It is removed if the write fails, and so is what killed writers of this file left. Readers see what was there before, or all
    of the content. `mode`: who may do what with it, but for what the umask takes away.

    Raises:
        OSError: with the path.
    """
    if not path.name:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    _remove_left(path)
    write_one_of_many(path, content, mode=mode)


def write_one_of_many(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write a file as `write_whole` does, in a folder of very many files, which is not searched for what was left in it."""
    draft = _written(path, content, mode)
    try:
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def write_all_whole(contents: Mapping[Path, bytes]) -> None:
    """Write files that belong together: none takes its name before all are on the disk, as where it is full.

    Raises:
        OSError: with the path.
    """
    drafts: dict[Path, Path] = {}
    try:
        for path, content in contents.items():
            _remove_left(path)
            drafts[path] = _written(path, content, 0o666)
        for path, draft in drafts.items():
            draft.replace(path)
    except BaseException:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)
        raise


def _written(path: Path, content: bytes, mode: int) -> Path:
    """Write the hidden sibling of a file, onto the disk; it is removed if that fails."""
    draft, descriptor = _made_anew(path, mode)
    try:
        with naming(path), os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return draft


def _made_anew(path: Path, mode: int) -> tuple[Path, int]:
    """Make the hidden sibling and lock it for as long as its writer lives; who finds it without a lock may remove it."""
    while True:
        draft = path.with_name(f".{path.name}.{secrets.token_hex(DRAFT_DIGITS // 2)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        try:
            if is_locked(descriptor, path) and os.fstat(descriptor).st_nlink:
                return draft, descriptor
        except OSError:
            os.close(descriptor)
            draft.unlink(missing_ok=True)
            raise
        os.close(descriptor)  # Another saw it before it was locked, and took it for one that was left.


def _remove_left(path: Path) -> None:
    with os.scandir(path.parent) as entries:
        left = [entry.path for entry in entries if _is_draft(entry.name, path.name)]
    for draft in left:
        with suppress(OSError):  # What cannot be locked stays: whether it is still written is not known.
            remove_left_file(Path(draft))


def remove_left_file(draft: Path) -> bool:
    """Remove a file that a killed writer left; return False where a living process still writes it.

    Raises:
        OSError: with the path; it cannot be locked, and stays.
    """
    try:
        descriptor = os.open(draft, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return True  # It has just taken its place, or is none of ours.
    try:
        free = is_locked(descriptor, draft)
        if free:
            os.unlink(draft)
    except FileNotFoundError:
        return True  # Another was faster.
    finally:
        os.close(descriptor)
    return free


def _is_draft(name: str, of: str) -> bool:
    start, end = name[:-DRAFT_DIGITS], name[-DRAFT_DIGITS:]
    return start == f".{of}." and all(digit in string.hexdigits for digit in end)


def is_locked(descriptor: int, path: Path) -> bool:
    """Lock an open file or folder unless another process has it; the kernel lets go of it when this one dies.

    Raises:
        OSError: with the path; ENOLCK where its file system has no locks, or none for what is open as this is.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        number = errno.ENOLCK if error.errno in WITHOUT_LOCKS else error.errno
        raise OSError(number, os.strerror(number or 0), str(path)) from error
    return True


def json_text(content: Any) -> str:
    """Return JSON in a canonical form: sorted keys, two spaces; NaN is refused."""
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def save_json(path: Path, content: Any) -> None:
    """Write JSON in a canonical form, whole or not at all: sorted keys, two spaces; NaN is refused."""
    write_whole(path, json_text(content).encode())
