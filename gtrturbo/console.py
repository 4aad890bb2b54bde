"""What a person sees while a stage works: progress and messages on stderr, and only on a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gtrturbo.distributed.processes import world

EXACT = 1e15
CONTROL_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) != "\n"} | {0x7F: 0x2421}
INVISIBLE = dict.fromkeys([*range(0x80, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)], 0xFFFD)

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


def visible(text: str) -> str:
    """Replace control characters one for one, but for line breaks: what a model wrote must not steer the terminal."""
    return text.translate(CONTROL_PICTURES | INVISIBLE)


def number(value: float) -> str:
    """Write whole numbers in full, others with four significant digits."""
    whole = float(value).is_integer() and abs(value) < EXACT
    return str(int(value)) if whole else f"{value:.4g}"
