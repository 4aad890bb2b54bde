"""How much longer does a run take with a tracker, beside the same run without, in one go on one machine?

    python -m examples.benchmarks.trackers --trackers tensorboard wandb trackio      # a few minutes on a CPU; wandb stays offline
    python -m examples.benchmarks.trackers --rows 300                                # seconds: what a minibatch's numbers take

Each round plays the same short run once without a tracker and once with each, in an order that turns from round to round, and
the ratio is taken within the round, so that what else the machine does falls on all alike. The first round warms up imports and
caches and is not counted. The id of the last artifact, which holds those of all before it, is the same with every tracker.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from examples.benchmarks.common import warm_checkpoint
from gtrturbo.config import RunConfig
from gtrturbo.runs.execute import run
from gtrturbo.store.trackers import tracking

TASK, ENV = "numberline", ("image=tiny", "horizon=5")
NONE = "none"
SETTINGS = ("rollout.max-new-tokens=48", "eval.max-new-tokens=48")


def main(arguments: Sequence[str] | None = None) -> dict[str, list[float]]:
    """Measure and print; return by tracker the ratios of its rounds to those without one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trackers", nargs="+", default=["tensorboard", "wandb", "trackio"])
    parser.add_argument("--rounds", type=int, default=3, help="that are counted")
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument("--episodes", type=int, default=32)
    parser.add_argument("--rows", type=int, help="plays nothing: tells each tracker so many minibatches of 15 numbers")
    options = parser.parse_args(arguments)
    os.environ.setdefault("WANDB_MODE", "offline")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ.setdefault("TRACKIO_DIR", str(root / "trackio"))
        os.environ.setdefault("WANDB_DIR", str(root))
        if options.rows:
            return {
                name: [_row_seconds(name, root / f"rows-{number}", options.rows)] for number, name in enumerate(options.trackers)
            }
        start = warm_checkpoint(root / "start", TASK, ENV)
        found: dict[str, list[Timed]] = {name: [] for name in (NONE, *options.trackers)}
        for number in range(options.rounds + 1):
            names = list(found)
            turned = names[number % len(names) :] + names[: number % len(names)]
            made = {}
            for name in turned:
                out = root / f"{number}-{name.rpartition(':')[2]}"
                made[name] = _timed(out, start, name, iterations=options.iterations, episodes=options.episodes)
            if len({each.id for each in made.values()}) != 1:
                raise SystemExit("a tracker changed an artifact.")
            if number:
                for name, each in made.items():
                    found[name].append(each)
    walls = {name: [each.seconds for each in some] for name, some in found.items()}
    works = {name: [each.processor_seconds for each in some] for name, some in found.items()}
    for name in found:
        print(f"{name}: wall {_told(walls, name)}; processor {_told(works, name)}")
    return {name: _ratios(walls, name) for name in options.trackers}


def _row_seconds(name: str, root: Path, rows: int) -> float:
    """Tell a tracker of minibatches; print and return what one takes, in processor seconds of this process."""
    numbers = {f"number_{place}": place / 7 for place in range(15)}
    out = root / "checkpoints" / "0001"
    out.mkdir(parents=True)
    began = time.process_time()
    with tracking([name]) as track:
        track("ppo-step", out, 0, numbers)
        first = time.process_time()
        for step in range(1, rows + 1):
            track("ppo-step", out, step, numbers)
        each = (time.process_time() - first) / rows
    print(f"{name}: {first - began:.2f} processor seconds to begin, {1000 * each:.2f} ms a minibatch")
    return each


def _ratios(seconds: dict[str, list[float]], name: str) -> list[float]:
    return [mine / none for mine, none in zip(seconds[name], seconds[NONE], strict=True)]


def _told(seconds: dict[str, list[float]], name: str) -> str:
    told = ", ".join(f"{each:.1f}" for each in seconds[name]) + " s"
    ratios = _ratios(seconds, name)
    return told if name == NONE else f"{told}, ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


@dataclass(frozen=True)
class Timed:
    """A run: wall seconds, processor seconds of this process (not of a tracker's own), and the id of its last artifact."""

    seconds: float
    processor_seconds: float
    id: str


def _timed(out: Path, start: Path, tracker: str, *, iterations: int, episodes: int) -> Timed:
    config = RunConfig(
        out=out, start=start, method="turbo-kl", task=TASK, env=ENV, iterations=iterations, episodes=episodes,
        eval_episodes=episodes, set=SETTINGS, log=() if tracker == NONE else (tracker,),
    )  # fmt: skip
    began, worked = time.monotonic(), time.process_time()
    results = run(config)
    return Timed(time.monotonic() - began, time.process_time() - worked, results[-1].id)


if __name__ == "__main__":
    main()
