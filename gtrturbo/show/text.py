"""How `show` writes to stdout: aligned names, four significant digits, and nothing from a file that steers the terminal."""

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from gtrturbo.console import PlainConsole
from gtrturbo.distributed.escapes import visible
from gtrturbo.store.ids import short

NO_WRAP = 10_000
INDENT, GAP = 2, 2
LEAST_NAME, LEAST_VALUE = 16, 30  # columns that a long name or value leaves to the other

Row = tuple[str, str | Text]


class _Lines(io.StringIO):
    """Text that is to be written in an encoding: rich draws tables with signs that it has."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:
        return self._encoding


@contextmanager
def stdout() -> Iterator[Console]:
    """Yield a console on stdout: colours and wrapping on a terminal; elsewhere plain lines, never wrapped or padded."""
    console = PlainConsole()
    if console.is_terminal:
        yield console
        return
    lines = _Lines(console.encoding)
    try:
        yield PlainConsole(file=lines, width=NO_WRAP, no_color=True)
    finally:
        console.out("\n".join(line.rstrip() for line in lines.getvalue().split("\n")), highlight=False, end="")


def has_colours(console: Console) -> bool:
    """Tell whether colours reach the reader: on a terminal that has them, unless NO_COLOR is set."""
    return console.color_system is not None and not console.no_color


def section(console: Console, title: str, rows: Iterable[Row]) -> None:
    """Print a title and, indented, names beside their values; nothing where there are no rows."""
    rows = list(rows)
    widest = max((cell_len(value if isinstance(value, str) else value.plain) for _, value in rows), default=0)
    room = max(LEAST_NAME, console.width - INDENT - 2 * GAP - min(widest, max(LEAST_VALUE, console.width // 2)))
    table = Table.grid(padding=(0, GAP))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(" " * INDENT + cut(visible(name), room), Text(visible(value)) if isinstance(value, str) else value)
    if table.row_count:
        console.print(Text(visible(title), "bold"))
        console.print(table)


def cut(text: str, room: int) -> str:
    """Leave out the middle of a text that is wider than `room` columns: names of tensors differ at both ends."""
    if cell_len(text) <= room:
        return text
    last = (room - 1) // 2
    ending = set_cell_size(text[::-1], last)[::-1]
    return f"{set_cell_size(text, room - 1 - last)}…{ending}"


def setting(value: Any) -> str:
    """Write a knob as the command line takes it; lists with spaces."""
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def identity(value: Any) -> str:
    """Abbreviate an id, or a list of ids, as error messages do."""
    return " ".join(map(short, value)) if isinstance(value, list) else short(value)


def link(path: Path) -> Text:
    """Write a path that a terminal can open by a click."""
    return Text(visible(str(path)), Style(link=Path(os.path.realpath(path)).as_uri()))
