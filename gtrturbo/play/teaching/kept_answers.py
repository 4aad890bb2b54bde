"""Answers that were paid for, on disk, each under the hash of what was asked, so that nothing is asked twice.

A file holds the answer and what it was an answer to, but for the pictures; it is written whole before its question counts as
answered. What is damaged is asked again. A lock keeps two processes from asking the same at once: the second finds the answer.
"""

import fcntl
import functools
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from gtrturbo.errors import GtrTurboError
from gtrturbo.store.claims import require_outside_artifacts
from gtrturbo.store.files import write_one_of_many
from gtrturbo.store.own_cache import make_private, user_cache
from gtrturbo.store.prices import TokenCounts

FORMAT = 1
LOCK = "asking.lock"
BYTES_OF_LOCK = 12  # hexadecimal digits of a key that choose the byte of the file that stands for it
Count = Annotated[int, Field(ge=0, lt=2**53)]


@dataclass(frozen=True)
class Answered:
    """What a teacher answered.

    Attributes:
        text: as it was; empty where it said nothing.
        tokens: read and written, as the server counts them; 0 where it does not.
        refused: the model declines to answer.
        truncated: the answer was cut at its longest length.
        model, fingerprint: what the server says of itself.
        seconds: that the answer took when it was paid for.
        told: the server counted its tokens.
        form: that the answer was held to: schema, json or text; empty where none was sent.
        heated: a temperature was sent; a server that takes none has its own.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    text: str
    tokens: TokenCounts = field(default_factory=TokenCounts)
    refused: bool = False
    truncated: bool = False
    model: str = ""
    fingerprint: str = ""
    seconds: float = 0.0
    told: bool = False
    form: str = ""
    heated: bool = True


@dataclass(frozen=True)
class _Kept:
    __pydantic_config__ = ConfigDict(extra="forbid")

    format: int
    asked: dict[str, Any]
    answer: Answered


def default_folder() -> Path:
    """Return where answers are kept if the user does not say it.

    Raises:
        GtrTurboError: the user has no home.
    """
    folder = user_cache()
    if folder is None:
        raise GtrTurboError("there is no home to keep the teacher's answers in.", "add: --answers FOLDER")
    return folder / "answers"


class KeptAnswers:
    """A folder of answers; may be used from several threads and processes."""

    def __init__(self, folder: Path) -> None:
        require_outside_artifacts(folder, "--answers")
        make_private(folder)
        self.folder = folder
        self._lock = _lock_of(folder.resolve() / LOCK)

    def find(self, key: str) -> Answered | None:
        """Return the answer to a question; None where it was not asked, or what is there is damaged."""
        try:
            kept = TypeAdapter(_Kept).validate_json(self._file(key).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
        return kept.answer if kept.format == FORMAT else None

    def keep(self, key: str, asked: dict[str, Any], answer: Answered) -> None:
        """Write an answer, whole, and `asked` beside it for who looks at it.

        Raises:
            OSError: with the path.
        """
        file = self._file(key)
        file.parent.mkdir(exist_ok=True, mode=0o700)
        content = {"format": FORMAT, "asked": asked, "answer": asdict(answer)}
        write_one_of_many(file, json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1).encode())

    @contextmanager
    def asking(self, key: str) -> Iterator[None]:
        """Keep other processes from asking the same while the block runs; threads must not ask the same at once."""
        place = int(key[:BYTES_OF_LOCK], 16)
        with suppress(OSError):  # Some disks of networks have no locks: then two may ask the same.
            fcntl.lockf(self._lock, fcntl.LOCK_EX, 1, place)
        try:
            yield
        finally:
            with suppress(OSError):
                fcntl.lockf(self._lock, fcntl.LOCK_UN, 1, place)

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


@functools.cache
def _lock_of(file: Path) -> int:
    """Open a file for as long as the process lives: the kernel drops its locks when any descriptor of the file is closed."""
    return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def key_of(asked: dict[str, Any]) -> str:
    """Hash what is asked: server, model, messages with their pictures, sampling."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()).hexdigest()
