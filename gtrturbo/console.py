"""What a person sees while a stage works: progress and messages on stderr, and only on a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gtrturbo.processes import world

# Of several processes one tells what all of them do.
stderr = Console(stderr=True, highlight=False, quiet=not world().first)


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
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=stderr, disable=stderr.quiet or not stderr.is_terminal, transient=True) as progress:
        yield Bar(progress, description, total)
