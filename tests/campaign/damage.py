"""Ways to damage any file, and what a way to damage one is.

A mutation `breaks` when its outcome is wrong for every reader that uses the file, whatever hash a manifest gives it; otherwise it
may be another valid file, which only a hash can tell.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

ELSEWHERE = "elsewhere"  # what a link leads to, outside the artifact


@dataclass(frozen=True)
class Mutation:
    """`change` damages the file in place; it raises `Inapplicable` where the file has nothing of the kind.

    `seals`: it is also given to a reader with a new hash; if None, where it breaks.
    """

    name: str
    change: Callable[[Path, Random], None]
    breaks: bool = True
    seals: bool | None = None

    @property
    def is_sealed(self) -> bool:
        return self.breaks if self.seals is None else self.seals


class Inapplicable(Exception):
    """The file has nothing that could be changed in this way."""


# Any file: bytes in, bytes out.


def by_bytes(change: Callable[[bytes, Random], bytes]) -> Callable[[Path, Random], None]:
    def changed(path: Path, draw: Random) -> None:
        before = path.read_bytes()
        after = change(before, draw)
        if after == before:
            raise Inapplicable
        path.write_bytes(after)

    return changed


def _flip(content: bytes, draw: Random, *, first: float = 0.0, last: float = 1.0) -> bytes:
    if not content:
        raise Inapplicable
    place = min(len(content) - 1, int(len(content) * draw.uniform(first, last)))
    return content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :]


def _replaced_by(make: Callable[[Path], None]) -> Callable[[Path, Random], None]:
    def changed(path: Path, _: Random) -> None:
        path.unlink()
        make(path)

    return changed


def _link_outside(path: Path) -> None:
    (path.parent.parent / ELSEWHERE).write_bytes(b"elsewhere")
    path.symlink_to(f"../{ELSEWHERE}")


ANY = [
    Mutation("bit flipped early", by_bytes(lambda content, draw: _flip(content, draw, last=0.1)), breaks=False),
    Mutation("bit flipped", by_bytes(_flip), breaks=False),
    Mutation("bit flipped late", by_bytes(lambda content, draw: _flip(content, draw, first=0.9)), breaks=False),
    Mutation("cut in half", by_bytes(lambda content, _: content[: len(content) // 2])),
    Mutation("cut somewhere", by_bytes(lambda content, draw: content[: draw.randrange(max(1, len(content)))]), breaks=False),
    Mutation("last byte missing", by_bytes(lambda content, _: content[:-1]), breaks=False),
    Mutation("empty", by_bytes(lambda content, _: b"")),
    Mutation("one line break", by_bytes(lambda content, _: b"\n")),
    Mutation("junk", by_bytes(lambda content, draw: draw.randbytes(len(content)))),
    Mutation("zeros", by_bytes(lambda content, _: bytes(len(content)))),
    Mutation("junk behind", by_bytes(lambda content, draw: content + draw.randbytes(50)), breaks=False),
    Mutation("twice", by_bytes(lambda content, _: content + content), breaks=False),
    Mutation("byte order mark", by_bytes(lambda content, _: b"\xef\xbb\xbf" + content), breaks=False),
    Mutation("UTF-16", by_bytes(lambda content, _: content.decode("utf-8", errors="replace").encode("utf-16"))),
    Mutation("missing", lambda path, _: path.unlink(), breaks=False),
    Mutation("folder", _replaced_by(Path.mkdir)),
    Mutation("pipe", _replaced_by(lambda path: os.mkfifo(path))),
    Mutation("dangling link", _replaced_by(lambda path: path.symlink_to("nowhere"))),
    Mutation("link outside", _replaced_by(_link_outside)),
    Mutation("link to itself", _replaced_by(lambda path: path.symlink_to(path.name))),
    Mutation("link to zeros", _replaced_by(lambda path: path.symlink_to("/dev/zero"))),
]
