"""What keeps a run alive: how runs end where PPO learns too fast, as tables and pictures of results/TASK-RATE.jsonl.

A run that ended by itself is no missing number: from there on it wins as chance does, states nothing, and says nothing legal.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from examples.reproduce.tables import Arm, Run
from gtrturbo.analysis.exact import LEVEL, chance_said, fewest_pairs, holm, sign_flip
from gtrturbo.analysis.intervals import bootstrap, said
from gtrturbo.analysis.levels import chance_level
from gtrturbo.report.chart import Line, Point, Rule, curves

LAST = 5
# Of an arm with fewer runs neither the table of all cells nor a picture tells anything.
FEWEST = 4
# A run fell if its end wins so much less than the best that it had, but for the rounding of shares.
FALL = 0.2
CLOSE = 1e-9


def chance(run: Run) -> float:
    """Return what chance wins of the run's episodes: random actions, or always the best single one."""
    level = chance_level(next(iter(run["evaluations"].values())))
    assert level is not None, "these runs were evaluated beside chance"
    return level


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
    """Tell whether a run ended by itself, or lost what it had won: in five updates, or in the first, which its start played."""
    series = won(run)
    return bool(run["collapsed"]) or last(series) <= max(best(series), series[0]) - FALL + CLOSE


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


def by_cell(cells: Mapping[str, Mapping[str, Arm]], names: Sequence[str]) -> list[list[str]]:
    """How each arm ends in each cell: success of the last five updates, thoughts that read truly, how many runs fell."""
    rows = [["who", *cells]]
    for name in names:
        runs = [list(arms.get(name, {}).values()) for arms in cells.values()]
        rows.append([f"`{name}`", *(_ended(each) if len(each) >= FEWEST else "–" for each in runs)])
    return rows


def _ended(runs: Sequence[Run]) -> str:
    success = said(bootstrap([[last(won(run)) for run in runs]]))
    thoughts = fmean(last(read(run)) for run in runs)
    return f"{success}, {thoughts:.2f}, {sum(map(fell, runs))} of {len(runs)}"


def parted(arms: Mapping[str, Arm], names: Sequence[str], reference: str) -> list[list[str]]:
    """In how many runs an arm did anything: those whose episodes differ from another arm's on the same seed, and from when on."""
    rows = [["who", "runs", f"other episodes than `{reference}`'s", "first after update"]]
    for name in names:
        shared = sorted(arms[name].keys() & arms[reference].keys())
        first = [_parts(arms[name][seed], arms[reference][seed]) for seed in shared]
        updates = [str(update) for update in first if update is not None]
        rows.append([f"`{name}`", str(len(shared)), str(len(updates)), ", ".join(updates) or "–"])
    return rows


def _parts(one: Run, other: Run) -> int | None:
    """Return the first update whose episodes are others; None where all are the same, or one run ended as the same run."""
    both = sorted(one["rollouts"].keys() & other["rollouts"].keys(), key=int)
    found = (int(k) for k in both if one["rollouts"][k] != other["rollouts"][k])
    return next(found, None)


def differences(cells: Sequence[Mapping[str, Arm]], names: Sequence[str], reference: str) -> list[list[str]]:
    """How the ends of each arm differ from another's on the same seeds, with exact p, adjusted for all arms of its column.

    Bold: the interval leaves 0 out, and the adjusted p is below 0.05.

    Args:
        cells: arms of one cell, or of several, which are strata: each weighs alike.
        names: arms that all cells have.
        reference: the arm that they are compared with.
    """
    columns = []
    for series in MEASURES.values():
        gaps = [[_gaps(arms[name], arms[reference], series) for arms in cells] for name in names]
        columns.append(list(zip(gaps, holm([sign_flip(strata) for strata in gaps]), strict=True)))
    rows = [["who", "pairs", *(word for measure in MEASURES for word in (measure, "p"))]]
    for place, name in enumerate(names):
        told = [word for column in columns for word in _difference(*column[place])]
        pairs = sum(len(arms[name].keys() & arms[reference].keys()) for arms in cells)
        rows.append([f"`{name}`", str(pairs), *told])
    return rows


def _gaps(one: Arm, other: Arm, series: Callable[[Run], list[float]]) -> list[float]:
    return [last(series(one[seed])) - last(series(other[seed])) for seed in sorted(one.keys() & other.keys())]


def _difference(strata: list[list[float]], p: float) -> tuple[str, str]:
    interval = bootstrap(strata)
    told = said(interval, sign=True)
    resolved = interval.resolved and p < LEVEL and sum(map(len, strata)) >= fewest_pairs()
    return f"**{told}**" if resolved else told, chance_said(p)


def by_rate(rates: Mapping[float, Mapping[str, Arm]], names: Sequence[str], measure: str = "success") -> list[list[str]]:
    """A measure of each arm's last five updates at each learning rate, and at its best rate beside the first arm at its own.

    Best is where an arm wins most, whatever is measured; p is adjusted for the arms. An arm with few runs at a rate is a dash.
    """
    told = sorted(rates)
    there = {name: [rate for rate in told if len(rates[rate].get(name, {})) >= FEWEST] for name in names}
    best = {name: max(there[name], key=lambda rate, name=name: _mean(rates[rate][name], won)) for name in names}
    series, (reference, *others) = MEASURES[measure], names
    gaps = {name: [_gaps(rates[best[name]][name], rates[best[reference]][reference], series)] for name in others}
    chances = dict(zip(others, holm([sign_flip(gaps[name]) for name in others]), strict=True))
    rows = [["who", *map(_rate_said, told), "best at", f"there − `{reference}` at its best", "p"]]
    for name in names:
        cells = [_at_rate(rates[rate][name], measure) if rate in there[name] else "–" for rate in told]
        compared = _difference(gaps[name], chances[name]) if name in gaps else ("–", "–")
        rows.append([f"`{name}`", *cells, _rate_said(best[name]), *compared])
    return rows


def _at_rate(runs: Arm, measure: str) -> str:
    interval = said(bootstrap([[last(MEASURES[measure](run)) for run in runs.values()]]))
    return f"{interval}, {sum(map(fell, runs.values()))} of {len(runs)} fell" if measure == "success" else interval


def _rate_said(rate: float) -> str:
    return f"{rate:.0e}".replace("e-0", "e-")


def _mean(runs: Arm, series: Callable[[Run], list[float]]) -> float:
    return fmean(last(series(run)) for run in runs.values())


def over_rates(
    task: str, title: str, rates: Mapping[float, Mapping[str, Arm]], names: Sequence[str], measure: str = "success"
) -> str:
    """Draw how arms end by the learning rate, over the seeds that all of a rate's arms have."""
    lines = [Line(name, [], style) for style, name in enumerate(names)]
    for rate, arms in sorted(rates.items()):
        there = [line for line in lines if line.name in arms]
        shared = sorted(set.intersection(*(set(arms[line.name]) for line in there)))
        for line in there:
            line.points.append(_point(rate, [last(MEASURES[measure](arms[line.name][seed])) for seed in shared]))
    some = next(run for arms in rates.values() for arm in arms.values() for run in arm.values())
    rules = [Rule("chance", chance(some))] if measure == "success" else []
    return curves(f"{task}-rates-{measure}", title, lines, rules=rules, bounds=(0.0, 1.0), axis="learning rate", logarithmic=True)


def over_updates(task: str, title: str, arms: Mapping[str, Arm], names: Sequence[str], measure: str) -> str:
    """Draw a measure of each update's episodes, over the seeds that all arms have."""
    shared = sorted(set.intersection(*(set(arms[name]) for name in names)))
    lines: list[Line] = []
    for style, name in enumerate(names):
        series = [MEASURES[measure](arms[name][seed]) for seed in shared]
        lines.append(Line(name, [_point(k, list(values)) for k, values in enumerate(zip(*series, strict=True))], style))
    rules = [Rule("chance", chance(arms[names[0]][shared[0]]))] if measure == "success" else []
    return curves(f"{task}-{measure}", title, lines, rules=rules, bounds=(0.0, 1.0), axis="update")


def _point(x: float, values: list[float]) -> Point:
    interval = bootstrap([values])
    return Point(x, interval.mean, interval.low, interval.high)


# How far a student is below the best that it was measured at, in success.
FALLS = {"at its best, or within 0.05": (-1.0, 0.05), "0.05 to 0.25 below": (0.05, 0.25), "more than 0.25 below": (0.25, 1.0)}


def ahead(lines: Sequence[Run], arms: Sequence[str]) -> list[list[str]]:
    """How far the merge of a run's checkpoints is ahead of the newest, by how far that one fell; means over the cases of a run.

    p is adjusted for all rows of its column.

    Args:
        lines: of results/TASK-RATE-ahead.jsonl.
        arms: whose runs.
    """
    gaps: dict[tuple[str, str], dict[int, list[tuple[float, float]]]] = {}
    for line in lines:
        students, most = line["students"], 0.0
        for k in sorted(students, key=int):
            student, teacher = students[k], line["teachers"][k]
            most = max(most, student["success_rate"])
            fall = next(name for name, (low, high) in FALLS.items() if low < most - student["success_rate"] <= high)
            gap = [teacher[name] - student[name] for name in ("success_rate", "thought_accuracy")]
            gaps.setdefault((line["arm"], fall), {}).setdefault(line["seed"], []).append((gap[0], gap[1]))
    told = [(arm, fall, gaps.get((arm, fall), {})) for arm in arms for fall in FALLS]
    rows = [["run", "its newest checkpoint", "cases", "runs", "merge − newest, success", "p", "thoughts", "p"]]
    rows += [[f"`{arm}`", fall, str(sum(map(len, found.values()))), str(len(found))] for arm, fall, found in told]
    for which in (0, 1):
        values = [[fmean(case[which] for case in cases) for cases in found.values()] for *_, found in told]
        chances = iter(holm([sign_flip([each]) for each in values if each]))
        for row, each in zip(rows[1:], values, strict=True):
            row += _difference([each], next(chances)) if each else ("–", "–")
    return rows
