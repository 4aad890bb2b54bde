"""Reading files that are files: nobody waits for what a pipe or a device may say some day."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from gtrturbo.errors import GtrTurboError, naming


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading if it is one.

    Raises:
        OSError: with the path: there is no such file, or it is a folder.
        GtrTurboError: it is a pipe, a socket or a device.
    """
    with naming(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(kind):
            raise GtrTurboError(f"{path} is no regular file, but a pipe or a device.", "name a file.")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path, *, most: int | None = None) -> bytes:
    """Read a file whole, see `open_regular`.

    Args:
        most: bytes that it may have.

    Raises:
        OSError, GtrTurboError: as `open_regular`, or the file is larger.
    """
    with open_regular(path) as file, naming(path):
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise GtrTurboError(f"{path} has {size} bytes, and at most {most} are read of such a file.")
        return file.read()
