"""What a stage has finished so far, kept beside the artifact that it will become, so that a killed stage goes on from there.

The log of runs/a/turns is the hidden folder runs/a/.turns.journal. It names the work that it belongs to by the hash of its
provenance: what other work left there is discarded. Each entry is one line, written at once: a hash of the work and the entry,
and JSON that names the files that it speaks of with theirs. Whoever opens the log verifies all of it: an entry that is damaged,
or whose files are, of other work, there twice, or not finished by a killed process is taken out, and what it stood for is done
again. Several processes write a file each and read all of them.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

from pydantic import TypeAdapter

from gtrturbo import __version__
from gtrturbo.distributed.escapes import shell_word
from gtrturbo.distributed.interrupts import NOTHING_YET
from gtrturbo.distributed.processes import group
from gtrturbo.errors import GtrTurboError, UnprovedError
from gtrturbo.store.claims import holds_no_links, partial
from gtrturbo.store.files import make_folder, write_whole
from gtrturbo.store.ids import sha256_file
from gtrturbo.store.inside import remove_inside, remove_whole
from gtrturbo.store.provenance import Provenance

T = TypeVar("T")
OWNER, DISOWNED = "work", ".work.gone"
ENTRIES = ".jsonl"
LOG_FORMAT = 3


class ResumeLog(Generic[T]):
    """Entries of one kind, a dataclass, of the work that makes one artifact.

    `folder` may hold other files that the entries speak of; `found` are the entries that were there when it was opened.
    Opened by all processes of the group; what each appends goes to a file of its own.

    Args:
        out: the artifact's folder.
        provenance: of the work.
        kind: of the entries.
        speakers: who spoke in an entry, as an `UnprovedError` names them; without it, or with None among them, it is anyone's.
    """

    def __init__(
        self, out: Path, provenance: Provenance, kind: type[T], speakers: Callable[[T], Collection[str | None]] | None = None
    ) -> None:
        self.folder = _folder(out)
        self._speakers = speakers
        self._adapter = TypeAdapter(kind)
        self._own: BinaryIO | None = None
        self._key = _key(provenance)
        if group().world.first:
            self._claim(self._key)
        group().barrier()
        self.found = self.read()
        group().barrier()  # Before anyone appends: all must find the same.

    def _claim(self, key: str) -> None:
        owner = self.folder / OWNER
        require_log(self.folder)
        # What is reached through a link was not made here: a log in its place begins anew, and what it leads to stays.
        if not (holds_no_links(self.folder) and owner.is_file() and owner.read_bytes() == key.encode()):
            _remove(self.folder)
        make_folder(self.folder)
        write_whole(owner, key.encode())
        self._keep_whole()

    def _keep_whole(self) -> None:
        """Take out what is damaged, and the files that no whole entry speaks of."""
        spoken_of, there = set(), set()
        for file in sorted(self.folder.glob(f"*{ENTRIES}")):
            lines = dict.fromkeys(_whole_lines(file.read_bytes()).splitlines(keepends=True))
            whole = [line for line in lines if line not in there and self._is_whole(line)]
            there.update(whole)
            spoken_of |= {name for line in whole for name in self._content(line)["files"]}
            write_whole(file, b"".join(whole))
        others = {OWNER, *(file.name for file in self.folder.glob(f"*{ENTRIES}"))}
        for file in [path for path in self.folder.rglob("*") if path.is_file()]:
            if (name := str(file.relative_to(self.folder))) not in spoken_of | others:
                remove_inside(self.folder, name)

    def _is_whole(self, line: bytes) -> bool:
        try:
            content = self._content(line)
            self._adapter.validate_python(content["entry"])
            files = content["files"].items()
            return all((self.folder / name).is_file() and sha256_file(self.folder / name) == sha256 for name, sha256 in files)
        except (ValueError, KeyError):
            return False

    def append(self, entry: T, files: Iterable[str] = ()) -> None:
        """Add an entry; from now on it outlives this process.

        Args:
            files: that it speaks of, by their names in the log's folder, which are there.
        """
        if self._own is None:
            self._own = self._open_own()
        hashes = {name: sha256_file(self.folder / name) for name in sorted(set(files))}
        self._own.write(self._line({"entry": self._adapter.dump_python(entry, mode="json"), "files": hashes}))
        self._own.flush()

    def _open_own(self) -> BinaryIO:
        path = self.folder / f"{group().world.rank}{ENTRIES}"
        whole = _whole_lines(path.read_bytes()) if path.exists() else b""
        file = path.open("ab")
        file.truncate(len(whole))
        return file

    def read(self) -> list[T]:
        """Read the entries of all processes, in no particular order."""
        files = sorted(self.folder.glob(f"*{ENTRIES}"))
        lines = [line for file in files for line in _whole_lines(file.read_bytes()).splitlines(keepends=True)]
        return [self._adapter.validate_python(self._content(line)["entry"]) for line in lines]

    def _line(self, content: dict[str, Any]) -> bytes:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        return self._seal(text) + b" " + text + b"\n"

    def _content(self, line: bytes) -> dict[str, Any]:
        """Read a line back. Raises ValueError: it is not what this work wrote."""
        seal, _, text = line.rstrip(b"\n").partition(b" ")
        if self._seal(text) != seal:
            raise ValueError("its hash is another")
        return json.loads(text)

    def _seal(self, text: bytes) -> bytes:
        return hashlib.sha256(self._key.encode() + text).hexdigest().encode()

    def remove(self) -> None:
        """Remove the log: the artifact is there."""
        self._close()
        if group().world.first:
            _remove(self.folder)

    def _close(self) -> None:
        if self._own:
            self._own.close()

    def __enter__(self) -> "ResumeLog[T]":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """Keep what was finished when the work was interrupted; where that is nothing, or not to be believed, no log stays."""
        if kind is None:
            return
        self._close()
        if isinstance(error, UnprovedError):
            self._leave_out(error.speaker)
        nothing = not any(file.stat().st_size for file in self.folder.glob(f"*{ENTRIES}"))
        if nothing and group().world.first:
            _remove(self.folder)
            if isinstance(error, KeyboardInterrupt):
                error.add_note(NOTHING_YET)

    def _leave_out(self, speaker: str | None) -> None:
        """Take out the entries in which somebody spoke; None: all."""
        for file in self.folder.glob(f"*{ENTRIES}"):
            lines = _whole_lines(file.read_bytes()).splitlines(keepends=True)
            write_whole(file, b"".join(line for line in lines if not self._is_by(speaker, line)))

    def _is_by(self, speaker: str | None, line: bytes) -> bool:
        if speaker is None or self._speakers is None:
            return True
        named = self._speakers(self._adapter.validate_python(self._content(line)["entry"]))
        return speaker in named or None in named


def remove_left(out: Path) -> None:
    """Remove the log of an artifact that is there: its writer was killed before it could. Not while another writes it anew."""
    folder = _folder(out)
    if not os.path.lexists(partial(out)) and (folder.is_symlink() or is_log(folder)):
        _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a log; of a link the link alone.

    What is left by who is killed meanwhile belongs to no work, and is still known as a log: its owner's name goes first, and
    leaves a sign that goes last.
    """
    if not folder.is_symlink() and folder.is_dir():
        if (folder / OWNER).is_file():
            (folder / OWNER).rename(folder / DISOWNED)
        for path in sorted(folder.iterdir(), key=lambda path: path.name == DISOWNED):
            remove_whole(path)
    remove_whole(folder)


def require_log(folder: Path) -> None:
    """Refuse what others put in the place of a log; a link is no matter, which is removed as one.

    Raises:
        GtrTurboError: names it.
    """
    if os.path.lexists(folder) and not folder.is_symlink() and not is_log(folder):
        raise GtrTurboError(
            f"{folder} is in the way: no log that gtrturbo wrote whole.",
            f"move it away, or remove it: rm -r {shell_word(str(folder))}",
        )


def is_log(folder: Path) -> bool:
    """Tell whether a folder is a log of some work of ours: it names the work by a hash, or does not yet or no longer."""
    if not folder.is_dir():
        return False
    owner, names = folder / OWNER, os.listdir(folder)
    if OWNER not in names:
        return DISOWNED in names or all(name.startswith(f".{OWNER}.") for name in names)
    return owner.is_file() and re.fullmatch(r"[0-9a-f]{64}", owner.read_text(encoding="utf-8", errors="replace")) is not None


def _folder(out: Path) -> Path:
    return out.parent / f".{out.name}.journal"


def _key(provenance: Provenance) -> str:
    content = json.dumps([LOG_FORMAT, __version__, asdict(provenance)], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()


def _whole_lines(content: bytes) -> bytes:
    return content[: content.rfind(b"\n") + 1]
