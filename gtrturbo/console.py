"""What a person sees while a stage works: progress and messages on stderr, only on a terminal, and in a notebook below a cell."""

import importlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.segment import Segment

from gtrturbo.distributed.escapes import visible
from gtrturbo.distributed.processes import world

EXACT = 1e15
WIDTH = 80  # of a terminal that does not say it
SECONDS_BETWEEN = 0.2  # two looks of a notebook at a bar


class PlainConsole(Console):
    """A console to which all text is text: no markup in it counts, and nothing in it steers the terminal."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, highlight=False, emoji=False, **settings)
        if self.width < 1:  # As COLUMNS=0 says, and nothing would be shown.
            self.width = WIDTH

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Lay out as rich does, whose own colours and movements are no text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


# Of several processes one tells what all of them do.
stderr = PlainConsole(stderr=True, quiet=not world().first)


class Bar(Protocol):
    """A progress bar that can also carry a short message, such as the current loss."""

    def advance(self, steps: int = 1, note: str = "") -> None: ...


class TerminalBar:
    """A bar on a terminal."""

    def __init__(self, progress: Progress, description: str, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(description, total=total, note="")

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._progress.advance(self._task, steps)
        if note:
            self._progress.update(self._task, note=note)


class NotebookBar:
    """A line below a notebook's cell, written anew as work goes on, at most a few times a second; it needs no widgets."""

    def __init__(self, description: str, total: int) -> None:
        self._description, self._total, self._done, self._note = description, total, 0, ""
        self._started, self._shown = time.monotonic(), 0.0
        self._line = importlib.import_module("IPython.display").display(self._text(), raw=True, display_id=True)

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._done += steps
        self._note = note or self._note
        if time.monotonic() - self._shown > SECONDS_BETWEEN:
            self.show()

    def show(self) -> None:
        self._shown = time.monotonic()
        self._line.update(self._text(), raw=True)

    def _text(self) -> dict[str, str]:
        seconds = time.monotonic() - self._started
        told = f"{self._description} {self._done}/{self._total}  {seconds:.0f} s  {self._note}".rstrip()
        return {"text/plain": visible(told)}


@contextmanager
def progress_bar(description: str, total: int) -> Iterator[Bar]:
    """Show progress while the block runs, on stderr or below a notebook's cell; silent where stderr is not a terminal."""
    if stderr.is_jupyter and not stderr.quiet:
        line = NotebookBar(description, total)
        try:
            yield line
        finally:
            line.show()
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=stderr, disable=stderr.quiet or not stderr.is_terminal, transient=True) as progress:
        yield TerminalBar(progress, description, total)


def number(value: float) -> str:
    """Write whole numbers in full, others with four significant digits."""
    whole = float(value).is_integer() and abs(value) < EXACT
    return str(int(value)) if whole else f"{value:.4g}"
