"""Fill docs/results.md, docs/teachers.md and the README with tables from results/*.jsonl, and draw their pictures.

    python -m examples.reproduce.page           # write them
    python -m examples.reproduce.page --check   # say whether they are as written

A table stands between `<!-- table: TASK NAME -->` and `<!-- end -->`; arms after NAME are its rows, else the methods are, and
`seeds=1-8` keeps to those seeds. The words around it are written by hand.
"""

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from examples.reproduce import survival
from gtrturbo.analysis.exact import LEVEL, fewest_pairs, sign_flip
from gtrturbo.analysis.intervals import Interval, bootstrap, said
from gtrturbo.analysis.spending import Spending, cost_table
from gtrturbo.report.chart import Line, Point, Rule, curves
from gtrturbo.store.prices import TokenCounts

HERE = Path(__file__).parent
RESULTS = HERE / "results"
ROOT = HERE.parents[1]
PAGES = (ROOT / "docs" / "results.md", ROOT / "docs" / "teachers.md", ROOT / "README.md")
PICTURED = ROOT / "docs" / "pictures"
MARKED = re.compile(r"(<!-- table: (\S+) (\S+)((?: \S+)*) -->\n).*?(<!-- end -->)", re.DOTALL)
SURVIVORS = ("ppo", "merged", "static", "newest", "gated", "ema-0.5")
DRAWN = ("ppo", "turbo-kl", "turbo-kl-10", "turbo-sft", "gtr", "static-kl", "opd")
SEEDS = "seeds="
COLOURS = ("#4477aa", "#ee6677", "#228833", "#aa7700", "#aa3377", "#3399bb")

Run = Mapping[str, Any]
Arm = Mapping[int, Run]


def arms_of(task: str) -> dict[str, Arm]:
    """Read the runs of a task, by arm and seed."""
    arms: dict[str, dict[int, Run]] = {}
    for line in (RESULTS / f"{task}.jsonl").read_text(encoding="utf-8").splitlines():
        run = json.loads(line)
        arms.setdefault(run["arm"], {})[run["seed"]] = run
    return arms


def only_seeds(arms: Mapping[str, Arm], told: str) -> dict[str, Arm]:
    """Keep the runs of seeds FIRST-LAST, and the arms that have any."""
    first, last = map(int, told.split("-"))
    kept = {name: {seed: run for seed, run in arm.items() if first <= seed <= last} for name, arm in arms.items()}
    return {name: arm for name, arm in kept.items() if arm}


def at(run: Run, which: str, metric: str, folder: str = "evaluations") -> float:
    """Return a metric of a run's first or last evaluation."""
    evaluations = run[folder]
    return evaluations[min(evaluations, key=int) if which == "first" else max(evaluations, key=int)][metric]


def paired(one: Arm, other: Arm, value: Callable[[Run], float]) -> list[str]:
    """Say how two arms differ over the seeds that both have."""
    return over_seeds([value(one[seed]) - value(other[seed]) for seed in sorted(one.keys() & other.keys())])


def over_seeds(differences: list[float]) -> list[str]:
    """Say the mean of differences with its interval, bold where it is resolved; wins, ties, losses."""
    interval, p = bootstrap([differences]), sign_flip([differences])
    wins, losses = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    told = said(interval, sign=True)
    resolved = interval.resolved and p < LEVEL and len(differences) >= fewest_pairs()
    return [f"**{told}**" if resolved else told, f"{wins}/{len(differences) - wins - losses}/{losses}"]


def mean_of(arm: Arm, value: Callable[[Run], float]) -> Interval:
    return bootstrap([[value(run) for run in arm.values()]])


def training(run: Run) -> float:
    """Success while training: of all episodes that were learned from, each iteration alike."""
    return fmean(played["success_rate"] for played in run["rollouts"].values())


def success(run: Run) -> float:
    return at(run, "last", "success_rate")


def reading(run: Run) -> float:
    return at(run, "last", "thought_accuracy")


def illegal(run: Run) -> float:
    return at(run, "last", "illegal_rate")


def gained(run: Run) -> float:
    return success(run) - at(run, "first", "success_rate")


def above_chance(run: Run) -> float:
    return success(run) - max(at(run, "last", "chance_random"), at(run, "last", "chance_constant"))


def teacher_share(run: Run) -> float:
    seconds = run["seconds"]
    teacher = seconds.get("merge", 0.0) + seconds.get("distill", 0.0)
    return teacher / (teacher + seconds["rollout"] + seconds["ppo-step"])


def outcomes(arms: Mapping[str, Arm], names: Sequence[str]) -> list[list[str]]:
    """What each arm ends with."""
    rows = [["arm", "seeds", "success", "thoughts that read truly", "success in training", "illegal", "teacher"]]
    for name in names:
        arm = arms[name]
        row = [f"`{name}`", str(len(arm)), *(said(mean_of(arm, value)) for value in (success, reading, training))]
        rows.append([*row, f"{mean_of(arm, illegal).mean:.3f}", f"{mean_of(arm, teacher_share).mean:.0%}"])
    return rows


def against(arms: Mapping[str, Arm], names: Sequence[str], reference: str) -> list[list[str]]:
    """How each arm differs from another one on the same seeds."""
    values = {"success": success, "thoughts": reading, "success in training": training, "illegal": illegal}
    rows = [["arm", "pairs", *(word for name in values for word in (name, "w/t/l"))]]
    for name in names:
        row = [f"`{name}`", str(len(arms[name].keys() & arms[reference].keys()))]
        rows.append(row + [word for value in values.values() for word in paired(arms[name], arms[reference], value)])
    return rows


def learning(arms: Mapping[str, Arm], names: Sequence[str]) -> list[list[str]]:
    """Whether an arm learned: success after minus before, and above chance, on the same deals."""
    rows = [["arm", "seeds", "before", "after", "after − before", "after − chance", "thoughts before", "after"]]
    for name in names:
        arm = arms[name]
        before, read = (mean_of(arm, lambda run, m=m: at(run, "first", m)) for m in ("success_rate", "thought_accuracy"))
        row = [f"`{name}`", str(len(arm)), f"{before.mean:.3f}", f"{mean_of(arm, success).mean:.3f}"]
        row += [said(mean_of(arm, gained), sign=True), said(mean_of(arm, above_chance), sign=True)]
        rows.append([*row, f"{read.mean:.3f}", f"{mean_of(arm, reading).mean:.3f}"])
    return rows


def returns(arms: Mapping[str, Arm], names: Sequence[str]) -> list[list[str]]:
    """What learning earned, for games whose draws and losses differ."""
    rows = [["arm", "seeds", "mean return before", "after", "after − before"]]
    for name in names:
        before, after = (mean_of(arms[name], lambda run, w=which: at(run, w, "return_mean")) for which in ("first", "last"))
        gained = mean_of(arms[name], lambda run: at(run, "last", "return_mean") - at(run, "first", "return_mean"))
        rows.append([f"`{name}`", str(len(arms[name])), f"{before.mean:.3f}", f"{after.mean:.3f}", said(gained, sign=True)])
    return rows


def teachers(arms: Mapping[str, Arm], names: Sequence[str]) -> list[list[str]]:
    """Merged teacher minus the newest student that went into it, on the same deals."""
    rows = [["arm", "seeds", "iteration", "student", "teacher − student", "w/t/l", "thoughts, teacher − student", "w/t/l"]]
    for name in names:
        iterations = sorted({k for run in arms[name].values() for k in run["teachers"]}, key=int)
        for k in iterations:
            runs = [run for run in arms[name].values() if k in run["teachers"] and k in run["evaluations"]]
            row = [f"`{name}`", str(len(runs)), k, f"{fmean(run['evaluations'][k]['success_rate'] for run in runs):.3f}"]
            for metric in ("success_rate", "thought_accuracy"):
                row += over_seeds([run["teachers"][k][metric] - run["evaluations"][k][metric] for run in runs])
            rows.append(row)
    return rows


def costs(arms: Mapping[str, Arm], names: Sequence[str]) -> list[list[str]]:
    """What the teacher of each arm was asked and cost, per run, by the prices of examples/teachers/prices.yaml."""
    told = [(f"`{name}`", [_spending(run["teacher_cost"]) for run in arms[name].values()]) for name in names]
    head, rows, _ = cost_table(told)
    return [["arm", *head[1:]], *rows]


def _spending(told: Mapping[str, Any]) -> Spending:
    return Spending(**{**told, "tokens": TokenCounts(**told["tokens"])})


def merges(task: str) -> list[list[str]]:
    """Other merges of the same checkpoints, evaluated on the same deals as the student."""
    found: dict[tuple[str, int], dict[int, tuple[float, float]]] = {}
    for line in (RESULTS / f"{task}-merges.jsonl").read_text(encoding="utf-8").splitlines():
        one = json.loads(line)
        gap = (one["success_rate"] - one["student"]["success_rate"], one["thought_accuracy"] - one["student"]["thought_accuracy"])
        found.setdefault((one["variant"], one["iteration"]), {})[one["seed"]] = gap
    rows = [["merge", "of iterations 1 …", "seeds", "teacher − student, success", "w/t/l", "thoughts", "w/t/l"]]
    for (variant, iteration), gaps in sorted(found.items(), key=lambda item: (item[0][1], item[0][0])):
        row = [f"`{variant}`", str(iteration), str(len(gaps))]
        rows.append(row + [word for i in (0, 1) for word in over_seeds([gap[i] for gap in gaps.values()])])
    return rows


def markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    return "".join("| " + " | ".join(row) + " |\n" for row in (head, ["---"] * len(head), *body))


def table(task: str, name: str, chosen: Sequence[str] = ()) -> list[list[str]]:
    """Make a table of a task: of the chosen arms, else of the methods."""
    if name == "merges":
        return merges(task)
    arms = arms_of(task)
    if ranges := [word.removeprefix(SEEDS) for word in chosen if word.startswith(SEEDS)]:
        arms = only_seeds(arms, ranges[0])
    shown = [word for word in chosen if not word.startswith(SEEDS)] or [arm for arm in DRAWN if arm in arms]
    if name.startswith("ends-against-"):
        reference = name.removeprefix("ends-against-")
        return survival.differences(arms, [arm for arm in shown if arm != reference], reference)
    if name.startswith("against-"):
        reference = name.removeprefix("against-")
        return against(arms, [arm for arm in shown if arm != reference], reference)
    if name == "teachers":
        return teachers(arms, [arm for arm in shown if any(run["teachers"] for run in arms[arm].values())])
    kinds = {"methods": outcomes, "learning": learning, "returns": returns, "costs": costs, "ends": survival.ends}
    return kinds[name](arms, shown)


def filled(text: str) -> str:
    """Return the page with its tables made anew."""
    return MARKED.sub(lambda match: match[1] + markdown(table(match[2], match[3], match[4].split())) + match[5], text)


def picture(task: str, metric: str, title: str) -> str:
    """Draw a metric of the rollouts as an SVG file: a curve per method, with 95 % intervals over the seeds that all have."""
    arms = arms_of(task)
    drawn = [name for name in DRAWN if name in arms]
    shared = set.intersection(*(set(arms[name]) for name in drawn))
    lines = []
    for style, name in enumerate(drawn):
        runs = [arms[name][seed] for seed in sorted(shared)]
        points = []
        for k in sorted(map(int, runs[0]["rollouts"])):
            interval = bootstrap([[run["rollouts"][str(k)][metric] for run in runs]])
            points.append(Point(k, interval.mean, interval.low, interval.high))
        lines.append(Line(name, points, style))
    first = next(iter(arms[drawn[0]].values()))
    chance = max(at(first, "last", "chance_random"), at(first, "last", "chance_constant"))
    rules = [Rule("chance", chance)] if metric == "success_rate" else []
    return _alone(curves(task, title, lines, rules=rules, bounds=None), title, drawn)


def _alone(drawing: str, title: str, names: Sequence[str]) -> str:
    """Make a drawing for a page into a file of its own, with colours and a legend."""
    colours = "".join(
        f".s{i} path,.s{i} circle,.s{i} rect,.s{i} polygon{{stroke:{c}}}.s{i} circle,.s{i} rect,.s{i} polygon{{fill:{c}}}"
        f".band.s{i}{{fill:{c};stroke:none}}.k{i}{{fill:{c}}}"
        for i, c in enumerate(COLOURS)
    )
    style = (
        "text{font:11px sans-serif;fill:#333}path{fill:none;stroke-width:1.6}.grid{stroke:#ddd}"
        ".rule{stroke:#666;stroke-dasharray:4 3}"
        f".band{{fill-opacity:.13}}.title{{font-weight:bold;font-size:12px}}{colours}"
    )
    legend = "".join(f'<text class="k{i}" x="{8 + i * 64}" y="254">{name}</text>' for i, name in enumerate(names))
    inner = re.sub(r"^<svg [^>]*>|</svg>$", "", drawing)
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 400 262" width="800" height="524" role="img">'
    back = '<rect width="400" height="262" fill="#fff" stroke="none"/>'
    top = f'<text class="title" x="8" y="14">{title}</text>'
    return f'{head}<style>{style}</style>{back}{top}<g transform="translate(0 16)">{inner}</g>{legend}</svg>\n'


def over_rates(task: str, title: str) -> str:
    """Draw how the arms of results/TASK-RATE.jsonl end, by the rate."""
    rates = {float(file.stem.removeprefix(f"{task}-")): arms_of(file.stem) for file in RESULTS.glob(f"{task}-[0-9]*.jsonl")}
    drawn = [name for name in SURVIVORS if any(name in arms for arms in rates.values())]
    return _alone(survival.over_rates(task, title, rates, drawn), title, drawn)


def over_updates(task: str, title: str) -> str:
    arms = arms_of(task)
    drawn = [name for name in SURVIVORS if name in arms]
    return _alone(survival.over_updates(task, title, arms, drawn), title, drawn)


GAMES = {"numberline": "NumberLine", "ezpoints": "EZPoints", "blackjack": "Blackjack", "points24": "Points24"}
SHOWN = {
    "success": ("success_rate", "success of the episodes learned from"),
    "thoughts": ("thought_accuracy", "thoughts that read the picture truly"),
}
PICTURES = {
    f"{task}-{name}.svg": (task, metric, f"{game}: {title}")
    for task, game in GAMES.items()
    for name, (metric, title) in SHOWN.items()
}


def made() -> dict[Path, str]:
    """Return every file that is made from the results, with its text."""
    files = {page: filled(page.read_text(encoding="utf-8")) for page in PAGES}
    for name, (task, metric, title) in PICTURES.items():
        if (RESULTS / f"{task}.jsonl").is_file():
            files[PICTURED / name] = picture(task, metric, title)
    return files


def main() -> None:
    stale = [file for file, text in made().items() if not file.is_file() or file.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv:
        sys.exit(f"not as written: {', '.join(map(str, stale))}; run: python -m examples.reproduce.page" if stale else 0)
    for file, text in made().items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
        print(file)


if __name__ == "__main__":
    main()
