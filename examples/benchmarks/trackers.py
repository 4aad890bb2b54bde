"""How much longer does a run take with a tracker, beside the same run without, in one go on one machine?

    python -m examples.benchmarks.trackers --trackers tensorboard wandb trackio      # a few minutes on a CPU; wandb stays offline

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
from pathlib import Path

from examples.benchmarks.common import warm_checkpoint
from gtrturbo.config import RunConfig
from gtrturbo.runs.execute import run

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
    options = parser.parse_args(arguments)
    os.environ.setdefault("WANDB_MODE", "offline")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ.setdefault("TRACKIO_DIR", str(root / "trackio"))
        os.environ.setdefault("WANDB_DIR", str(root))
        start = warm_checkpoint(root / "start", TASK, ENV)
        seconds: dict[str, list[float]] = {name: [] for name in (NONE, *options.trackers)}
        for number in range(options.rounds + 1):
            names = list(seconds)
            turned = names[number % len(names) :] + names[: number % len(names)]
            ids = set()
            for name in turned:
                out = root / f"{number}-{name.rpartition(':')[2]}"
                took, made = _timed(out, start, name, iterations=options.iterations, episodes=options.episodes)
                ids.add(made)
                if number:
                    seconds[name].append(took)
            if len(ids) != 1:
                raise SystemExit("a tracker changed an artifact.")
    ratios = {name: [mine / none for mine, none in zip(seconds[name], seconds[NONE], strict=True)] for name in options.trackers}
    print(f"without a tracker: {', '.join(f'{each:.1f}' for each in seconds[NONE])} s")
    for name, found in ratios.items():
        took, told = (", ".join(f"{each:.{digits}f}" for each in some) for some, digits in ((seconds[name], 1), (found, 3)))
        print(f"{name}: {took} s; ratios {told}; median {statistics.median(found):.3f}")
    return ratios


def _timed(out: Path, start: Path, tracker: str, *, iterations: int, episodes: int) -> tuple[float, str]:
    """Run once; return the seconds that it took and the id of its last artifact."""
    config = RunConfig(
        out=out, start=start, method="turbo-kl", task=TASK, env=ENV, iterations=iterations, episodes=episodes,
        eval_episodes=episodes, set=SETTINGS, log=() if tracker == NONE else (tracker,),
    )  # fmt: skip
    began = time.monotonic()
    results = run(config)
    return time.monotonic() - began, results[-1].id


if __name__ == "__main__":
    main()
