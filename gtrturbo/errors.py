"""The one error that a user is meant to read, and the one place where an error of the operating system becomes one."""

import errno
import os
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class GtrTurboError(Exception):
    """Say what is wrong, with the value, and what mends it.

    Args:
        what: one sentence, lower-case start, naming the offending value.
        fix: the command or change that mends it; empty when `what` already says so.
    """

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(f"{what}\n{fix}" if fix else what)
        self.what = what
        self.fix = fix


class Collapse(GtrTurboError):
    """Say that a policy cannot be trained on: none of its replies is legal, or its numbers are no longer finite.

    A command that it ends leaves with exit code 3, so that what runs many of them can tell it from a mistake.
    """


class UnprovedError(GtrTurboError):
    """Say that another model answers than the one of which it was proved, or otherwise, nobody knows since when.

    A stage that it ends keeps nothing of what it answered: `speaker`, as turns name who spoke, or None: of what anyone did.
    """

    def __init__(self, what: str, fix: str = "", *, speaker: str | None = None) -> None:
        super().__init__(what, fix)
        self.speaker = speaker


COLLAPSE_CODE = 3
AGAIN = "then give the same command again: what was finished is kept."
# By the error's number: what is so of a path, and what mends it.
SAID = {
    errno.ENOSPC: ("cannot be written: its disk is full.", f"make room there, {AGAIN}"),
    errno.EDQUOT: ("cannot be written: your quota on its disk is used up.", f"make room there, {AGAIN}"),
    errno.EFBIG: ("cannot be written: it would be larger than a file may be there.", "choose a place on another disk."),
    errno.EROFS: ("cannot be written: its disk can only be read.", "choose a place that can be written to."),
    errno.EACCES: ("may not be used: permission denied.", "change its permissions (chmod, chown), or name another place."),
    errno.EPERM: ("may not be used: permission denied.", "change its permissions (chmod, chown), or name another place."),
    errno.ENOENT: ("does not exist.", "check its spelling."),
    errno.ENOTDIR: ("is no folder.", "move it away, or name another place."),
    errno.EISDIR: ("is a folder, and a file is meant.", "name a file, or another place."),
    errno.EEXIST: ("is there already.", "move it away, or name another place."),
    errno.ENOTEMPTY: ("is a folder that is not empty.", "move it away, or name another place."),
    errno.ELOOP: ("is a symbolic link that leads in a circle.", "remove the link, or name another place."),
    errno.EXDEV: ("lies on two disks.", "name a place on one disk."),
    errno.EIO: ("cannot be read or written: its disk reports an error.", f"look after the disk, {AGAIN}"),
    errno.ENXIO: ("is no regular file.", "name a file."),
    errno.ENOLCK: (
        "cannot be locked: its file system has no locks that work.",
        "have it mounted with locks (NFS without nolock, Lustre with flock), or choose a place on another disk.",
    ),
    errno.ESTALE: ("is no longer what it was on its server.", AGAIN.removeprefix("then ")),
}
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# How libraries that are written in Rust tell an error of the system.
NUMBER, PATH = re.compile(r"\(os error (\d+)\)"), re.compile(r"at path \"(.+?)\"")
# What is being made has such a name: drafts of folders and of files, what they replace, logs of what is finished.
BEING_MADE = re.compile(r"\.(.+)\.(?:partial|replaced|journal|[0-9a-f]{16})")
MOST_CHARACTERS = 160
MOST_SAID = 300
MOST_NAMED = 5


def of_system(error: OSError) -> GtrTurboError:
    """Say of an error of the operating system which path it is about, what is wrong there, and what mends it."""
    number = error.errno
    if number in (errno.EMFILE, errno.ENFILE):
        return GtrTurboError("too many files are open at once.", "allow more with: ulimit -n 4096")
    name = error.filename2 if number == errno.EEXIST and error.filename2 else error.filename
    if name is None or isinstance(name, int):
        what = os.strerror(number) if number else _short(str(error)) or type(error).__name__
        return GtrTurboError(f"the operating system refuses: {what}.", AGAIN.removeprefix("then "))
    path = Path(os.fsdecode(name))
    if number != errno.ENOENT:
        path = _outward(path)
    if number == errno.ENAMETOOLONG:
        return GtrTurboError(
            f"the path {_short(str(path))} is too long for its disk, which also has to hold a name that is a little longer.",
            "choose a shorter name.",
        )
    if number == errno.ENOENT and path.name.startswith(".") and path.parent.is_dir():  # What is being made has such a name.
        return GtrTurboError(f"nothing can be made in {_short(str(path.parent))}.", "name another place.")
    if number == errno.ENOTDIR:
        path = _file_above(path)
    if number == errno.EEXIST and not path.is_dir():
        number = errno.ENOTDIR  # What was to be made is a folder: files are replaced.
    said, fix = SAID.get(number or 0, (f"cannot be used: {os.strerror(number) if number else error}.", ""))
    return GtrTurboError(f"{_short(str(path))} {said}", fix)


def _outward(path: Path) -> Path:
    """Return what a user calls the place of a hidden folder or file in which it is made."""
    for folder in (*reversed(path.parents), path):
        if found := BEING_MADE.fullmatch(folder.name):
            return folder.with_name(found[1])
    return path


def few(names: Sequence[str], *, between: str = " ") -> str:
    """Name the first five, and say how many more there are."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return between.join(names[:MOST_NAMED]) + more


def said_by(error: BaseException) -> str:
    """Return the text of an error in one line, of 300 characters at most."""
    return " ".join(str(error).split())[:MOST_SAID]


def _file_above(path: Path) -> Path:
    """Return what is no folder on the way to a path."""
    above = [folder for folder in (*reversed(path.parents), path) if os.path.lexists(folder)]
    return next((folder for folder in above if not folder.is_dir()), path)


def _short(text: str) -> str:
    half = MOST_CHARACTERS // 2
    return text if len(text) <= MOST_CHARACTERS else f"{text[:half]}…{text[-half:]}"


def hidden(error: Exception) -> OSError | None:
    """Return the error of the system that a library tells in the text of its own; None where it tells none."""
    found = NUMBER.search(str(error))
    if not found:
        return None
    path = PATH.search(str(error))
    return OSError(int(found[1]), os.strerror(int(found[1])), *([path[1]] if path else []))


@contextmanager
def naming(path: Path, numbers: Collection[int] | None = None) -> Iterator[None]:
    """Say of an error of the operating system that names no path, as those of open files do, that it is about this one.

    Errors of libraries that hide such an error in their text are raised as what they are.

    Args:
        numbers: of the errors that can only be about this path; all if not given.

    Raises:
        OSError: with a path.
    """
    try:
        yield
    except GtrTurboError:
        raise
    except Exception as error:
        told = error if isinstance(error, OSError) and error.errno else hidden(error)
        if told is None or told.errno is None or told.filename is not None or (numbers is not None and told.errno not in numbers):
            raise
        raise OSError(told.errno, os.strerror(told.errno), str(path)) from error


def require_unix() -> None:
    """Refuse to begin where there are no locks and signals as Unix has them.

    Raises: GtrTurboError: this is Windows.
    """
    if sys.platform == "win32":
        raise GtrTurboError(
            "gtrturbo runs on Linux and macOS, and on Windows in WSL.", "install WSL, and gtrturbo in it: wsl --install"
        )
