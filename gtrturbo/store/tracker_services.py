"""TensorBoard, Weights & Biases and Trackio as trackers; each is an extra: pip install 'gtrturbo[wandb]'.

A training loop keeps its artifacts in numbered folders of one folder per stage, `LOOP/checkpoints/0003`. A loop is one run
of a service, and the number is its iteration. The step of a minibatch counts on from the artifacts before.
"""

import atexit
import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gtrturbo.errors import GtrTurboError
from gtrturbo.store.names import METRICS_LOG

PROJECT = "gtrturbo"
# What an artifact's number is called where a service draws numbers over it, and a minibatch's step.
ITERATION, STEP = "iteration", "step"


@dataclass(frozen=True)
class Place:
    """Where an artifact stands in its loop: the folder of the loop, the series that it is one of, and its number."""

    loop: Path
    series: str
    iteration: int

    @classmethod
    def of(cls, out: Path) -> "Place":
        out = out.absolute()
        return cls(out.parent.parent, out.parent.name, int(out.name) if out.name.isdecimal() else 0)

    @property
    def name(self) -> str:
        """A name for the loop that no loop of another folder has."""
        return f"{self.loop.name or PROJECT}-{hashlib.sha256(str(self.loop).encode()).hexdigest()[:8]}"


def steps_before(out: Path) -> int:
    """Count the optimiser steps of the artifacts before this one in its series, from what they wrote."""
    if not out.name.isdecimal():
        return 0
    numbered = [path for path in out.absolute().parent.iterdir() if path.name.isdecimal()]
    logs = [path / METRICS_LOG for path in numbered if int(path.name) < int(out.name)]
    return sum(len(log.read_bytes().splitlines()) for log in logs if log.is_file())


@dataclass(frozen=True)
class _Tick:
    """Where numbers stand: the group that their names begin with, the axis that they are drawn over, and the place on it."""

    place: Place
    group: str
    axis: str
    at: int

    def named(self, numbers: Mapping[str, float]) -> dict[str, float]:
        return {f"{self.group}/{name}": value for name, value in numbers.items()}


class _Ticks:
    """Finds the tick of each step, and counts once what lies before an artifact."""

    def __init__(self) -> None:
        self._before: dict[Path, int] = {}

    def of(self, stage: str, out: Path, step: int | None) -> _Tick:
        place = Place.of(out)
        if step is None:
            return _Tick(place, stage, ITERATION, place.iteration)
        if out not in self._before:
            self._before[out] = steps_before(out)
        return _Tick(place, f"{stage}/{STEP}", f"{stage}/{STEP}", self._before[out] + step)


class TensorBoard:
    """Writes event files beside the series: LOOP/tensorboard/SERIES."""

    def __init__(self) -> None:
        self._make = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        self._ticks, self._writers = _Ticks(), dict[Path, Any]()

    def log(self, stage: str, out: Path, step: int | None, numbers: Mapping[str, float]) -> None:
        tick = self._ticks.of(stage, out, step)
        folder = tick.place.loop / "tensorboard" / tick.place.series
        if folder not in self._writers:
            self._writers[folder] = self._make(str(folder))
        for name, value in tick.named(numbers).items():
            self._writers[folder].add_scalar(name, value, tick.at)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


class WeightsAndBiases:
    """Feeds a run of wandb, which is set up by its own variables: WANDB_PROJECT, WANDB_MODE=offline, WANDB_DIR."""

    def __init__(self) -> None:
        self._wandb = importlib.import_module("wandb")
        self._ticks = _Ticks()

    def log(self, stage: str, out: Path, step: int | None, numbers: Mapping[str, float]) -> None:
        tick = self._ticks.of(stage, out, step)
        run, named = self._run(tick.place), tick.named(numbers)
        for name in named:
            run.define_metric(name, step_metric=tick.axis)
        run.log({tick.axis: tick.at} | named)

    def _run(self, place: Place) -> Any:
        if self._wandb.run is None or self._wandb.run.id != place.name:
            settings = self._wandb.Settings(silent=True)
            named = {"id": place.name, "name": place.loop.name or PROJECT, "resume": "allow", "reinit": "finish_previous"}
            self._wandb.init(project=os.environ.get("WANDB_PROJECT", PROJECT), settings=settings, **named)
        return self._wandb.run

    def close(self) -> None:
        """The run goes on with the next stage of the loop; wandb ends it when the process ends."""


class Trackio:
    """Feeds a run of trackio, whose numbers stay on this machine unless TRACKIO_SPACE_ID or TRACKIO_SERVER_URL says otherwise."""

    def __init__(self) -> None:
        with redirect_stdout(sys.stderr):
            self._trackio = importlib.import_module("trackio")
        self._current = importlib.import_module("trackio.context_vars").current_run
        self._ticks = _Ticks()

    def log(self, stage: str, out: Path, step: int | None, numbers: Mapping[str, float]) -> None:
        tick = self._ticks.of(stage, out, step)
        self._run(tick.place).log({tick.axis: tick.at} | tick.named(numbers))

    def _run(self, place: Place) -> Any:
        run = self._current.get()
        if run is None or run.name != place.name:
            with redirect_stdout(sys.stderr):  # It prints where this project's results go.
                quiet = {"auto_log_gpu": False, "auto_log_cpu": False, "embed": False}
                run = self._trackio.init(project=PROJECT, name=place.name, resume="allow", **quiet)
            atexit.register(self._finish)
        return run

    def _finish(self) -> None:
        with redirect_stdout(sys.stderr):
            if self._current.get():
                self._trackio.finish()

    def close(self) -> None:
        """The run goes on with the next stage of the loop; it ends when the process ends."""


# By the name of the package that each needs, which is that of the extra.
SERVICES: dict[str, Callable[[], Any]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "trackio": Trackio}


def require_package(name: str) -> None:
    """Find the package of a service before the work.

    Raises:
        GtrTurboError: it is not installed.
    """
    if name in SERVICES and importlib.util.find_spec(name) is None:
        raise GtrTurboError(f"--log {name} needs the package {name}, which is not installed.", f"pip install 'gtrturbo[{name}]'")
