"""Inside a folder and nowhere else: which names a manifest may hold, and files that are opened and removed and no link followed.

A name that was read from a file is data of others: it is a plain relative name, and every folder on its way below the artifact
is a folder and no link. How one comes to the artifact itself, through links or not, is the user's own affair.
"""

import errno
import io
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from gtrturbo.errors import GtrTurboError

LONGEST = 255  # bytes of a part, as file systems have it
_CHECK = "see: gtrturbo show {} --check"
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A pipe in the place of a file is not waited for.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def plain(name: str) -> str:
    """Return a name of a file inside an artifact as it is: parts with / between them, each a plain name.

    Raises:
        ValueError: it is absolute, leads elsewhere, or has parts that no artifact's file is called.
    """
    if not is_plain(name):
        raise ValueError(f"{name!r} is no plain name of a file inside the artifact")
    return name


def is_plain(name: str) -> bool:
    """Tell whether `plain` returns a name."""
    return all(map(_is_plain_part, name.split("/")))


PlainName = Annotated[str, AfterValidator(plain)]


def _is_plain_part(part: str) -> bool:
    written = part.encode(errors="replace")
    return part not in ("", ".", "..") and "\\" not in part and part.isprintable() and len(written) <= LONGEST


@contextmanager
def open_inside(folder: Path, name: str) -> Iterator[io.BufferedReader]:
    """Open a file inside an artifact for reading.

    Raises:
        GtrTurboError: the name leads elsewhere, by itself or through a link, or what is there is no file.
        FileNotFoundError: nothing is there.
    """
    with _leading_to(folder, name) as (above, last):
        descriptor = os.open(last, _FILE, dir_fd=above)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise GtrTurboError(f"{folder / name} is no file.", _CHECK.format(folder))
    with os.fdopen(descriptor, "rb") as file:
        yield file


def remove_inside(folder: Path, name: str) -> None:
    """Remove a file inside a folder, if it is there; of a link the link alone.

    Raises:
        GtrTurboError: the name leads elsewhere, by itself or through a link, or a folder is there.
    """
    if not os.path.lexists(folder / name):
        return
    with _leading_to(folder, name) as (above, last):
        os.unlink(last, dir_fd=above)


@contextmanager
def _leading_to(folder: Path, name: str) -> Iterator[tuple[int, str]]:
    """Yield the open folder that a file lies in, and the file's own name there; nothing on the way is a link."""
    try:
        *parts, last = plain(name).split("/")
    except ValueError as error:
        raise GtrTurboError(f"{folder}: {error}.", _CHECK.format(folder)) from None
    above = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts:
            below = os.open(part, FOLDER, dir_fd=above)
            os.close(above)
            above = below
        yield above, last
    except FileNotFoundError as error:
        raise FileNotFoundError(error.errno, error.strerror, str(folder / name)) from None
    except OSError as error:
        links = error.errno in (errno.ELOOP, errno.ENOTDIR)
        reason = "a link lies on the way, and leads elsewhere" if links else error.strerror
        raise GtrTurboError(f"{folder / name} is not touched: {reason}.", _CHECK.format(folder)) from None
    finally:
        os.close(above)


def copy_own(source: Path, target: Path) -> None:
    """Copy a file that lies in a folder of others, such as a model's, whose links may lead anywhere.

    A link is followed within its folder, and to where the hub's cache keeps the files of models.

    Raises:
        GtrTurboError: it leads elsewhere.
    """
    real = Path(os.path.realpath(source))
    if leads_out(source, source.parent):
        raise GtrTurboError(
            f"{source} is a link to {real}, which is not copied.", "put the file itself in its place, or remove the link."
        )
    with open_inside(real.parent, real.name) as file, target.open("wb") as copy:
        shutil.copyfileobj(file, copy)


def leads_out(file: Path, folder: Path) -> bool:
    """Tell whether a file is a link that leads neither into a folder nor to where the hub's cache keeps the files of models."""
    real = Path(os.path.realpath(file))
    cached = real.parent.name == "blobs" and real.parent.parent.name.startswith("models--")
    return file.is_symlink() and not cached and folder.resolve() not in real.parents


def remove_whole(path: Path) -> None:
    """Remove whatever is there, a folder with all that is in it; of a link the link alone."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)
