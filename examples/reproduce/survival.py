"""What keeps a run alive: how runs end where PPO learns too fast, as tables and pictures of results/TASK-RATE.jsonl.

A run that ended by itself is no missing number: from there on it wins as chance does, states nothing, and says nothing legal.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from gtrturbo.analysis.exact import LEVEL, chance_said, fewest_pairs, holm, sign_flip
from gtrturbo.analysis.intervals import bootstrap, said
from gtrturbo.report.chart import Line, Point, Rule, curves

LAST = 5
# A run fell if its end wins so much less than the best that it had.
FALL = 0.2

Run = Mapping[str, Any]
Arm = Mapping[int, Run]


def chance(run: Run) -> float:
    """Return how often random actions win the run's episodes."""
    return next(iter(run["evaluations"].values()))["chance_random"]


def won(run: Run) -> list[float]:
    """Return the share won of the episodes that each planned update learned from."""
    return _padded(run, [played["success_rate"] for played in run["rollouts"].values()], chance(run))


def illegal(run: Run) -> list[float]:
    return _padded(run, [played["illegal_rate"] for played in run["rollouts"].values()], 1.0)


def read(run: Run) -> list[float]:
    """Return the share of turns whose reply states what the picture shows; an illegal reply states nothing."""
    return _padded(run, [played["thought_accuracy"] for played in run["rollouts"].values()], 0.0)


def read_of_legal(run: Run) -> list[float]:
    """Return that share of the legal turns alone, so that what legality adds to it is told apart."""
    played = [
        each["thought_accuracy"] / (1 - each["illegal_rate"]) if each["illegal_rate"] < 1 else 0.0
        for each in run["rollouts"].values()
    ]
    return _padded(run, played, 0.0)


def _padded(run: Run, values: list[float], lost: float) -> list[float]:
    return values + [lost] * (run["planned"] - len(values))


def last(series: Sequence[float]) -> float:
    """Return the mean of the last five updates."""
    return fmean(series[-LAST:])


def best(series: Sequence[float]) -> float:
    """Return the mean of the best five updates in a row."""
    return max(fmean(series[k : k + LAST]) for k in range(len(series) - LAST + 1))


def fell(run: Run) -> bool:
    """Tell whether a run ended by itself, or lost what it had won."""
    series = won(run)
    return bool(run["collapsed"]) or last(series) < best(series) - FALL


MEASURES = {"success": won, "thoughts": read, "thoughts of legal turns": read_of_legal, "illegal": illegal}


def ends(arms: Mapping[str, Arm], names: Sequence[str]) -> list[list[str]]:
    """How each arm ends: means of the last five updates, and how many of its runs fell."""
    rows = [["who", "seeds", *MEASURES, "best five updates", "fell"]]
    for name in names:
        runs = list(arms[name].values())
        row = [f"`{name}`", str(len(runs))]
        row += [said(bootstrap([[last(series(run)) for run in runs]])) for series in MEASURES.values()]
        rows.append([*row, f"{fmean(best(won(run)) for run in runs):.3f}", f"{sum(map(fell, runs))} of {len(runs)}"])
    return rows


def differences(arms: Mapping[str, Arm], names: Sequence[str], reference: str) -> list[list[str]]:
    """How the ends of each arm differ from another's on the same seeds, with exact p, adjusted for all of the table's.

    Bold: the interval leaves 0 out, and the adjusted p is below 0.05.
    """
    found: list[tuple[str, list[float]]] = []
    for name in names:
        seeds = sorted(arms[name].keys() & arms[reference].keys())
        for series in MEASURES.values():
            found.append((name, [last(series(arms[name][seed])) - last(series(arms[reference][seed])) for seed in seeds]))
    adjusted = iter(holm([sign_flip([values]) for _, values in found]))
    rows = [["who", "pairs", *(word for measure in MEASURES for word in (measure, "p"))]]
    for place, name in enumerate(names):
        several = [values for _, values in found[place * len(MEASURES) : (place + 1) * len(MEASURES)]]
        row = [f"`{name}`", str(len(several[0]))]
        for values in several:
            interval, p = bootstrap([values]), next(adjusted)
            told = said(interval, sign=True)
            resolved = interval.resolved and p < LEVEL and len(values) >= fewest_pairs()
            row += [f"**{told}**" if resolved else told, chance_said(p)]
        rows.append(row)
    return rows


def over_rates(task: str, title: str, rates: Mapping[float, Mapping[str, Arm]], names: Sequence[str]) -> str:
    """Draw how arms end by the learning rate, over the seeds that all of a rate's arms have."""
    lines = [Line(name, [], style) for style, name in enumerate(names)]
    for rate, arms in sorted(rates.items()):
        there = [line for line in lines if line.name in arms]
        shared = sorted(set.intersection(*(set(arms[line.name]) for line in there)))
        for line in there:
            line.points.append(_point(rate, [last(won(arms[line.name][seed])) for seed in shared]))
    some = next(run for arms in rates.values() for arm in arms.values() for run in arm.values())
    rules = [Rule("chance", chance(some))]
    return curves(f"{task}-rates", title, lines, rules=rules, bounds=(0.0, 1.0), axis="learning rate", logarithmic=True)


def over_updates(task: str, title: str, arms: Mapping[str, Arm], names: Sequence[str]) -> str:
    """Draw the success of each update's episodes, over the seeds that all arms have."""
    shared = sorted(set.intersection(*(set(arms[name]) for name in names)))
    lines = []
    for style, name in enumerate(names):
        series = [won(arms[name][seed]) for seed in shared]
        lines.append(Line(name, [_point(k, list(values)) for k, values in enumerate(zip(*series, strict=True))], style))
    rules = [Rule("chance", chance(arms[names[0]][shared[0]]))]
    return curves(f"{task}-updates", title, lines, rules=rules, bounds=(0.0, 1.0), axis="update")


def _point(x: float, values: list[float]) -> Point:
    interval = bootstrap([values])
    return Point(x, interval.mean, interval.low, interval.high)
