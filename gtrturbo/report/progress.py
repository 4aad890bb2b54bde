"""How far runs are, while they go on: a section of the page, and the loop that writes the page anew."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gtrturbo.analysis.history import History, read_history
from gtrturbo.console import stderr
from gtrturbo.report.page import paragraph, section, table
from gtrturbo.store.names import MANIFEST

MINUTE, HOUR = 60, 3600


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        updates, planned: done, and of how many.
        ended: nothing more comes: all is there, or the run collapsed.
        seconds: of an update with its rollout and its teacher, on average; None before the first.
        quiet: seconds since it wrote anything.
    """

    updates: int
    planned: int
    ended: bool
    seconds: float | None
    quiet: float

    @property
    def left(self) -> float | None:
        """Seconds that the updates to come will take, evaluations apart, if they take as long as those before."""
        return None if self.ended or self.seconds is None else self.seconds * (self.planned - self.updates)


def progress_of(run: History, *, now: float) -> Progress:
    """Say how far a run is at a time, in seconds since the epoch."""
    updates = run.updated
    written = [entry.path / MANIFEST for entries in (*run.entries.values(), run.others) for entry in entries]
    quiet = now - max((file.stat().st_mtime for file in written), default=now)
    each = run.training_seconds / updates if updates else None
    return Progress(updates, run.planned, run.ended, each, max(quiet, 0.0))


def progress_section(runs: Sequence[History], *, now: float) -> str:
    """Tabulate the runs that go on; nothing where all have ended."""
    going = [(run, found) for run in runs if not (found := progress_of(run, now=now)).ended]
    if not going:
        return ""
    rows = [
        [
            str(run.path),
            f"{found.updates} of {found.planned}",
            "–" if found.seconds is None else _time(found.seconds),
            "–" if found.left is None else _time(found.left),
            _time(found.quiet),
        ]
        for run, found in going
    ]
    note = "Their numbers are of what they have evaluated so far; a run that writes nothing for long may have been ended."
    head = ["run", "updates", "each", "left, without evaluations", "wrote last, ago"]
    return section("How far they are", table("runs that go on", head, rows), paragraph(note, kind="faint"))


def watch(paths: Sequence[Path], write: Callable[[], Path], *, every: float) -> Path:
    """Write a page anew every so many seconds until all its runs have ended, and once more then."""
    told: dict[Path, str] = {}
    while True:
        runs = [read_history(path) for path in paths]
        found = [progress_of(run, now=time.time()) for run in runs]
        for run, progress in zip(runs, found, strict=True):
            said = _told(run, progress)
            if told.get(run.path) != said:
                stderr.print(f"{run.path}: {said}", style="dim", soft_wrap=True)
            told[run.path] = said
        ended = all(progress.ended for progress in found)
        if ended or all(run.entries["student"] for run in runs):
            out = write()
            if ended:
                return out
        time.sleep(every)


def _told(run: History, progress: Progress) -> str:
    if not run.entries["student"] and not progress.ended:
        return "waits for its first evaluation"
    ended = " collapsed" if run.collapsed else " ended" if progress.ended else ""
    return f"{progress.updates} of {progress.planned} updates{ended}"


def _time(seconds: float) -> str:
    if seconds < 2 * MINUTE:
        return f"{seconds:.0f} s"
    return f"{seconds / MINUTE:.0f} min" if seconds < 2 * HOUR else f"{seconds / HOUR:.1f} h"
