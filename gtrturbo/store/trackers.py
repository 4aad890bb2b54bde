"""Who is told the numbers of every stage as they arise: metrics.jsonl in the artifact always, services, and the user's own."""

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from gtrturbo.distributed.escapes import complain
from gtrturbo.distributed.processes import group
from gtrturbo.errors import GtrTurboError
from gtrturbo.plugins import explained, find
from gtrturbo.store.names import METRICS_LOG
from gtrturbo.store.tracker_services import SERVICES, require_package

ALWAYS = "jsonl"


class Tracker(Protocol):
    """Receives numbers. One is made for the steps of a stage and one for what comes out of it; each is closed after that."""

    def log(self, stage: str, out: Path, step: int | None, numbers: Mapping[str, float]) -> None:
        """Take the numbers of one step of a stage, or with step None those of the whole stage.

        Args:
            stage: its command: ppo-step, sft, rollout.
            out: the artifact that it writes, which may not be there yet.
            step: optimiser step, from 0.
            numbers: by name.
        """

    def close(self) -> None:
        """Let go of files and connections."""


class JsonLines:
    """Writes each step's numbers as one line of metrics.jsonl in the folder of the artifact; the manifest has the stage's."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / METRICS_LOG).open("w")

    def log(self, stage: str, out: Path, step: int | None, numbers: Mapping[str, float]) -> None:
        if step is not None:
            self._file.write(json.dumps(dict(numbers), allow_nan=False) + "\n")

    def close(self) -> None:
        self._file.close()


# What a tracker is called with, by place.
METHODS = {"log": ("stage", "out", "step", "numbers"), "close": ()}
# All but the first, which is always there, are made of nothing, as those of the user's own are.
TRACKERS: dict[str, Callable[..., Tracker]] = {ALWAYS: JsonLines, **SERVICES}
Track = Callable[[str, Path, int | None, Mapping[str, float]], None]


@contextmanager
def tracking(names: Sequence[str], folder: Path | None = None) -> Iterator[Track]:
    """Open trackers while the block runs, and yield what tells all of them; see `Tracker.log` for its arguments.

    Args:
        names: of `TRACKERS`, or trackers of the user's own.
        folder: where the artifact is being written, which always gets its metrics.jsonl; None: there are no steps to write.

    Raises:
        GtrTurboError: there is no tracker of such a name.
    """
    # Of several processes one tells what all of them do.
    told = [_Guarded(name) for name in dict.fromkeys(names) if name != ALWAYS and group().world.first]
    trackers: list[Tracker] = [JsonLines(folder), *told] if folder else [*told]

    def track(stage: str, out: Path, step: int | None, numbers: Mapping[str, float]) -> None:
        for tracker in trackers:
            tracker.log(stage, out, step, numbers)

    try:
        yield track
    finally:
        for tracker in trackers:
            tracker.close()


# Names of the trackers that have failed in the stage that is at work, the innermost last.
_failed: list[set[str]] = []


@contextmanager
def telling_of_one_stage() -> Iterator[None]:
    """Let a tracker that fails while the block runs be told no more until it ends, however often trackers are opened."""
    _failed.append(set())
    try:
        yield
    finally:
        _failed.pop()


def require_trackers(names: Sequence[str]) -> None:
    """Find trackers before the work that they are to be told of.

    Raises:
        GtrTurboError: there is none of such a name, its package is missing, it cannot be called without arguments, or it is a
            class whose trackers cannot be told anything or closed.
    """
    for name in names:
        require_package(name)
        make = find("tracker", name, TRACKERS)
        if not callable(make):
            raise GtrTurboError(f"{name} makes no tracker: it cannot be called.", "name a class, or a function that makes one.")
        if name == ALWAYS:
            continue
        if not _takes(make):
            raise GtrTurboError(f"{name} makes no tracker: it wants arguments.", "let it take none, or give each a default.")
        if fault := _class_fault(make) if isinstance(make, type) else None:
            raise GtrTurboError(
                f"{name} makes no tracker: {fault}.", "give it log(self, stage, out, step, numbers) and close(self)."
            )


def _class_fault(made: type) -> str | None:
    """Say which method a class of trackers lacks, or which takes other arguments; an instance may have more than its class."""
    for method, arguments in METHODS.items():
        found = inspect.getattr_static(made, method, None)
        if found is None:
            if not hasattr(made, "__getattr__"):
                return f"it has no {method}"
        elif not callable(getattr(made, method)):
            return f"its {method} cannot be called"
        elif not _takes(getattr(made, method), *([] if isinstance(found, classmethod | staticmethod) else ["self"]), *arguments):
            return f"its {method} takes other arguments"
    return None


def _takes(call: Callable[..., Any], *arguments: str) -> bool:
    """Tell whether something can be called with as many arguments by place; what tells nothing of itself may."""
    try:
        signature = inspect.signature(call)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


def _number(value: Any) -> float:
    """Return a number as one of Python's own: services and JSON take no other."""
    return value if type(value) in (int, float, bool) else float(value)


class _Guarded:
    """A service or a tracker of the user's own, which is told no more in a stage after it has raised once."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._failed = _failed[-1] if _failed else set[str]()
        self._make: Any = find("tracker", name, TRACKERS)
        self._tracker: Tracker | None = None
        self._try(self._open)

    def _open(self) -> None:
        self._tracker = self._make()

    def log(self, stage: str, out: Path, step: int | None, numbers: Mapping[str, float]) -> None:
        tracker = self._tracker
        if tracker:
            self._try(lambda: tracker.log(stage, out, step, {name: _number(value) for name, value in numbers.items()}))

    def close(self) -> None:
        tracker = self._tracker
        if tracker:
            self._try(lambda: tracker.close())

    def _try(self, call: Callable[[], None]) -> None:
        if self._name in self._failed:
            return
        try:
            call()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            # The one place where an error of others is not raised again: numbers that a tracker loses are in the artifact
            # all the same, and hours of training must not end because a network or a disk of the tracker's did.
            self._failed.add(self._name)
            complain(f"tracker {self._name} fails and is told no more: {explained(error) or f'{type(error).__name__}: {error}'}")
