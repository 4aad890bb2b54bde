"""What a stage has finished so far, kept beside the artifact that it will become, so that a killed stage goes on from there.

The log of runs/a/turns is the hidden folder runs/a/.turns.journal. It names the work that it belongs to by the hash of its
provenance: what other work left there is discarded. Each entry is one line of JSON, written at once; a line that a killed
process did not finish is cut off. Several processes write a file each and read all of them.
"""

import hashlib
import json
import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from gtrturbo import __version__
from gtrturbo.distributed.processes import group
from gtrturbo.errors import GtrTurboError
from gtrturbo.store.claims import holds_no_links, partial
from gtrturbo.store.files import write_whole
from gtrturbo.store.inside import remove_whole
from gtrturbo.store.provenance import Provenance

T = TypeVar("T")
OWNER = "work"


class ResumeLog(Generic[T]):
    """Entries of one kind, a dataclass, of the work that makes one artifact.

    `folder` may hold other files that the entries speak of; `found` are the entries that were there when it was opened.
    Opened by all processes of the group; what each appends goes to a file of its own.

    Raises:
        GtrTurboError: a whole line is no such entry.
    """

    def __init__(self, out: Path, provenance: Provenance, kind: type[T]) -> None:
        self.folder = _folder(out)
        self._adapter = TypeAdapter(kind)
        self._own: BinaryIO | None = None
        if group().world.first:
            self._claim(_key(provenance))
        group().barrier()
        self.found = self.read()
        group().barrier()  # Before anyone appends: all must find the same.

    def _claim(self, key: str) -> None:
        owner = self.folder / OWNER
        # What is reached through a link was not made here: a log in its place begins anew, and what it leads to stays.
        if not (holds_no_links(self.folder) and owner.is_file() and owner.read_text(encoding="utf-8") == key):
            remove_whole(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(owner, key.encode())

    def append(self, entry: T) -> None:
        """Add an entry; from now on it outlives this process."""
        if self._own is None:
            self._own = self._open_own()
        self._own.write(self._adapter.dump_json(entry) + b"\n")
        self._own.flush()

    def _open_own(self) -> BinaryIO:
        path = self.folder / f"{group().world.rank}.jsonl"
        whole = _whole_lines(path.read_bytes()) if path.exists() else b""
        file = path.open("ab")
        file.truncate(len(whole))
        return file

    def read(self) -> list[T]:
        """Read the entries of all processes, in no particular order."""
        files = sorted(self.folder.glob("*.jsonl"))
        return [self._entry(file, line) for file in files for line in _whole_lines(file.read_bytes()).splitlines()]

    def _entry(self, file: Path, line: bytes) -> T:
        try:
            return self._adapter.validate_json(line, strict=False)
        except ValidationError as error:
            raise GtrTurboError(f"{file} is damaged: {error.errors()[0]['msg']}.", f"start anew: rm -r {self.folder}") from None

    def remove(self) -> None:
        """Remove the log: the artifact is there."""
        self._close()
        if group().world.first:
            remove_whole(self.folder)

    def _close(self) -> None:
        if self._own:
            self._own.close()

    def __enter__(self) -> "ResumeLog[T]":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Keep what was finished when the work was interrupted; where that is nothing, no log stays."""
        if kind is None:
            return
        self._close()
        if group().world.first and not any(file.stat().st_size for file in self.folder.glob("*.jsonl")):
            remove_whole(self.folder)


def remove_left(out: Path) -> None:
    """Remove the log of an artifact that is there: its writer was killed before it could. Not while another writes it anew."""
    if not os.path.lexists(partial(out)):
        remove_whole(_folder(out))


def is_log(folder: Path) -> bool:
    """Tell whether a folder is a log of some work of ours: it names the work by a hash."""
    owner = folder / OWNER
    return owner.is_file() and re.fullmatch(r"[0-9a-f]{64}", owner.read_text(encoding="utf-8", errors="replace")) is not None


def _folder(out: Path) -> Path:
    return out.parent / f".{out.name}.journal"


def _key(provenance: Provenance) -> str:
    content = json.dumps([__version__, asdict(provenance)], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()


def _whole_lines(content: bytes) -> bytes:
    return content[: content.rfind(b"\n") + 1]
