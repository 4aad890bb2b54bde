"""Folders that one process at a time writes beside the place that they will take, and how they take it.

What becomes runs/a is written in the hidden folder runs/.a.partial, which is made anew each time and locked for as long as its
writer lives. The kernel drops the lock when a process dies, however it dies, so a killed writer blocks nobody. What it left goes
away before the next one begins, if it bears a sign that it was left by us; a folder of others under that name stays.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gtrturbo.distributed.escapes import shell_word
from gtrturbo.errors import GtrTurboError
from gtrturbo.store.files import is_locked, make_folder
from gtrturbo.store.inside import FOLDER, remove_whole
from gtrturbo.store.names import DRAFT_MARK, MANIFEST, MODEL_CONFIG, STATE

TRIES = 3
SIGNS = (DRAFT_MARK, MANIFEST, STATE)  # that a folder was made here: while it is written, and when it is whole


def partial(out: Path) -> Path:
    """Where a folder is written."""
    return out.parent / f".{out.name}.partial"


def replaced(out: Path) -> Path:
    """Where a folder is while the next one takes its place."""
    return out.parent / f".{out.name}.replaced"


@contextmanager
def claimed_anew(out: Path, busy: GtrTurboError) -> Iterator[Path]:
    """Make the folder that is to become `out`, empty, and keep it from others; if the block fails it goes away.

    What a killed writer left there goes away before, and a link as a link: what it leads to is not touched.

    Raises:
        GtrTurboError: `busy`, where another process holds it; or something is in its place that no writer leaves, or where the
            folder that it replaces is put meanwhile.
    """
    place = partial(out)
    make_folder(place.parent)
    _require_own(replaced(out))
    lock = None
    try:
        lock = _made(place, busy)
        yield place
    except BaseException:
        if lock is not None and _is_open_as(lock, place):
            _remove_own(place)
        raise
    finally:
        if lock is not None:
            os.close(lock)


def _made(place: Path, busy: GtrTurboError) -> int:
    """Make a folder that was not there, and lock it; two who do so at once find that one of them has it."""
    for _ in range(TRIES):
        try:
            place.mkdir()
        except FileExistsError:
            remove_left_draft(place, busy)
        else:
            try:
                lock = _locked(place, busy)
            except OSError:
                place.rmdir()
                raise
            _sign(place, lock)
            return lock
    raise busy


def _sign(place: Path, lock: int) -> None:
    try:
        _sign_within(lock)
    except BaseException:  # As where the disk is full, or Ctrl-C comes when the mark is just there.
        with suppress(FileNotFoundError):
            os.unlink(DRAFT_MARK, dir_fd=lock)
        os.close(lock)
        place.rmdir()
        raise


def _sign_within(folder: int) -> None:
    os.close(os.open(DRAFT_MARK, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666, dir_fd=folder))


def remove_left_draft(place: Path, busy: GtrTurboError) -> None:
    """Remove what a killed writer left where a folder is written; of a link the link alone.

    Raises:
        GtrTurboError: `busy`, where a living process holds it; or something is there that no writer leaves.
    """
    if place.is_symlink():
        place.unlink(missing_ok=True)
        return
    _require_own(place)
    lock = _locked(place, busy)
    try:
        _remove_own(place)
    finally:
        os.close(lock)


def is_own(place: Path) -> bool:
    """Tell whether a folder bears a sign that it was made here, or holds nothing: its writer was killed before it could sign."""
    if place.is_symlink() or not place.is_dir():
        return False
    with os.scandir(place) as entries:
        there = list(entries)
    return not there or any(entry.name in SIGNS and entry.is_file(follow_symlinks=False) for entry in there)


def _require_own(place: Path) -> None:
    """Refuse what others put where a folder is written, or put aside; of a link it is no matter where it leads.

    Raises:
        GtrTurboError: names it.
    """
    try:
        if not os.path.lexists(place) or place.is_symlink() or is_own(place):
            return
    except FileNotFoundError:  # It has just become what it was written for.
        return
    folder = place.is_dir()
    kind = "a folder that gtrturbo did not make" if folder else "a file, where a folder is written"
    remove = f"rm {'-r ' if folder else ''}{shell_word(str(place))}"
    raise GtrTurboError(f"{place} is in the way: {kind}.", f"move it away, or remove it: {remove}")


def _remove_own(place: Path) -> None:
    """Remove a folder of ours, its signs last: what is left by who is killed meanwhile is still known as ours."""
    if place.is_symlink() or not place.is_dir():
        place.unlink(missing_ok=True)
        return
    for name in sorted(os.listdir(place), key=SIGNS.__contains__):
        remove_whole(place / name)
    place.rmdir()


def _locked(place: Path, busy: GtrTurboError) -> int:
    try:
        lock = os.open(place, FOLDER)
    except (FileNotFoundError, NotADirectoryError):  # Another has just taken it away, or put a link there.
        raise busy from None
    try:
        if not is_locked(lock, place) or not _is_open_as(lock, place):
            raise busy
    except BaseException:
        os.close(lock)
        raise
    return lock


def _is_open_as(lock: int, place: Path) -> bool:
    """Tell whether an open folder is the one that lies there now: it may have become `out`, or gone away."""
    try:
        return os.path.samestat(os.fstat(lock), place.lstat())
    except FileNotFoundError:
        return False


def put_in_place(written: Path, out: Path) -> None:
    """Give a folder that is whole the name that it is for, in the place of what has it; of a link, of the link alone.

    Raises:
        GtrTurboError: where the old one is put aside lies something of others.
    """
    aside = replaced(out)
    _require_own(aside)
    if os.path.lexists(out):
        _remove_own(aside)  # A writer was killed between the renames.
        out.rename(aside)
    (written / DRAFT_MARK).unlink(missing_ok=True)
    written.rename(out)
    _remove_own(aside)


def holds_no_links(folder: Path) -> bool:
    """Tell whether a folder is one itself and all in it are folders and files that have this name alone."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return all(
            holds_no_links(Path(entry.path))
            if entry.is_dir(follow_symlinks=False)
            else entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_nlink == 1
            for entry in entries
        )


def require_own_file(path: Path, option: str = "--out") -> None:
    """Refuse to write a file into an artifact, or among the files of a model, which is known by all of them.

    Raises:
        GtrTurboError: names the folder.
    """
    require_outside_artifacts(path, option)
    folder = path.parent
    if (folder / MODEL_CONFIG).is_file() and any(folder.glob("*.safetensors")):
        raise GtrTurboError(f"{path} lies among the files of the model {folder}.", f"choose another {option}.")


def require_replaceable(path: Path, written: str, is_written: Callable[[bytes], bool]) -> None:
    """Refuse to replace what a command did not write itself; `written` is what that is called, `is_written` tells it.

    Raises:
        GtrTurboError: something else lies there.
    """
    if os.path.lexists(path) and not (path.is_file() and is_written(path.read_bytes())):
        raise GtrTurboError(f"{path} exists and is no {written}.", "choose another --out.")


def require_outside_artifacts(path: Path, option: str = "--out") -> None:
    """Refuse to write into a finished artifact, which is never changed, by whichever way one gets there.

    Raises:
        GtrTurboError: names the artifact.
    """
    above = Path(os.path.realpath(path.parent))  # Which links in a circle do not stop.
    for folder in (above, *above.parents):
        if (folder / MANIFEST).is_file():
            raise GtrTurboError(f"{path} lies in the artifact {folder}, which stays as it is.", f"choose another {option}.")
