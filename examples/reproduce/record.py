"""Write down what runs found: a line per run in results/TASK.jsonl, without the runs' weights and turns.

    python -m examples.reproduce.record runs/reproduce
    python -m examples.reproduce.record runs/groups groups      # into results/TASK-groups.jsonl

A run that is written down already is written again; lines of runs that are not here stay. Arms that are compared are of one
machine, where a seed gives the same numbers: runs of another go into files of another name.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gtrturbo.analysis.history import Entry, History, read_history
from gtrturbo.analysis.spending import spending_of
from gtrturbo.store.prices import read_prices

RESULTS = Path(__file__).with_name("results")
PRICES = RESULTS.parents[1] / "teachers" / "prices.yaml"
EVALUATED = (
    "success_rate", "return_mean", "positive_return_rate", "thought_accuracy", "illegal_rate", "invalid_rate", "thought_length",
    "self_bleu", "thought_information", "thought_entropy", "episodes", "chance_random", "chance_constant",
)  # fmt: skip
PLAYED = ("success_rate", "return_mean", "thought_accuracy", "illegal_rate", "self_bleu", "thought_entropy", "turns")
UPDATED = ("approx_kl", "clip_fraction", "explained_variance", "kl_mean", "kl_k1_mean", "kl_loss", "demo_loss", "grad_norm")
DIGITS = 6


def record(folder: Path, apart: str = "") -> list[Path]:
    """Write down the finished runs TASK/ARM/SEED of a folder, and its evaluated merges TASK/merges/VARIANT/ITERATION/SEED.

    apart: names the files, beside the task.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(folder.glob("*/*/*/commit")):
        task, arm, seed = file.parent.relative_to(folder).parts
        found.setdefault(task, []).append(_run(read_history(file.parent), task, arm, int(seed), file.read_text().strip()))
    for file in sorted(folder.glob("*/merges/*/*/*/eval/metrics.json")):
        merge = file.parents[1]
        task, _, variant, iteration, seed = merge.relative_to(folder).parts
        arm = (merge / "student").read_text().strip()
        student = folder / task / arm / seed / "evals" / f"{int(iteration):04d}" / "metrics.json"
        found.setdefault(f"{task}-merges", []).append(
            {"task": task, "arm": f"{variant} {iteration}", "variant": variant, "iteration": int(iteration), "seed": int(seed)}
            | _merge(file)
            | {"student": _merge(student)}
        )
    ending = f"-{apart}" if apart else ""
    return [_write(RESULTS / f"{name}{ending}.jsonl", lines) for name, lines in found.items()]


def _merge(file: Path) -> dict[str, float]:
    metrics = json.loads(file.read_text(encoding="utf-8"))
    return {name: round(metrics[name], DIGITS) for name in ("success_rate", "return_mean", "thought_accuracy", "illegal_rate")}


def _run(history: History, task: str, arm: str, seed: int, commit: str) -> dict[str, Any]:
    return {
        "task": task,
        "arm": arm,
        "seed": seed,
        "commit": commit,
        "planned": history.settings["iterations"],
        "collapsed": _ended(history),
        "evaluations": {entry.iteration: _chosen(entry, EVALUATED) for entry in history.entries["student"]},
        "teachers": {entry.iteration: _chosen(entry, EVALUATED) for entry in history.entries["teacher"]},
        "rollouts": {entry.iteration: _chosen(entry, PLAYED) for entry in history.entries["rollouts"]},
        "updates": {entry.iteration: _chosen(entry, UPDATED) for entry in history.updates()},
        "seconds": {name: round(value, 1) for name, value in history.seconds.items()},
        "teacher_cost": asdict(spending_of(history, read_prices(PRICES))),
    }


def _ended(history: History) -> dict[str, Any] | None:
    """Say how a run collapsed, of whose folders by their names within it: where it was kept is of no machine but that one."""
    if not history.collapsed:
        return None
    return asdict(history.collapsed) | {"what": history.collapsed.what.replace(f"{history.path}/", "")}


def _chosen(entry: Entry, names: tuple[str, ...]) -> dict[str, float]:
    return {name: round(entry.metrics[name], DIGITS) for name in names if name in entry.metrics}


def _write(file: Path, lines: list[dict[str, Any]]) -> Path:
    """Replace the lines of the same runs, keep the others, sort."""
    before = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    kept = {(line["arm"], line["seed"]): line for line in before} | {(line["arm"], line["seed"]): line for line in lines}
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(kept[key]) + "\n" for key in sorted(kept)))
    return file


if __name__ == "__main__":
    for written in record(Path(sys.argv[1]), *sys.argv[2:3]):
        print(written)
