"""What a person sees while a stage works: progress and messages on stderr, and only on a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.segment import Segment

from gtrturbo.distributed.escapes import visible
from gtrturbo.distributed.processes import world

EXACT = 1e15


class PlainConsole(Console):
    """A console to which all text is text: no markup in it counts, and nothing in it steers the terminal."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, highlight=False, emoji=False, **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Lay out as rich does, whose own colours and movements are no text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


# Of several processes one tells what all of them do.
stderr = PlainConsole(stderr=True, quiet=not world().first)


class Bar:
    """A progress bar that can also carry a short message, such as the current loss."""

    def __init__(self, progress: Progress, description: str, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(description, total=total, note="")

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._progress.advance(self._task, steps)
        if note:
            self._progress.update(self._task, note=note)


@contextmanager
def progress_bar(description: str, total: int) -> Iterator[Bar]:
    """Show progress on stderr while the block runs; silent where stderr is not a terminal."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=stderr, disable=stderr.quiet or not stderr.is_terminal, transient=True) as progress:
        yield Bar(progress, description, total)


def number(value: float) -> str:
    """Write whole numbers in full, others with four significant digits."""
    whole = float(value).is_integer() and abs(value) < EXACT
    return str(int(value)) if whole else f"{value:.4g}"
