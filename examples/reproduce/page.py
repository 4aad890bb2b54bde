"""Fill the pages of results, docs/teachers.md and the README with tables from results/*.jsonl, and draw their pictures.

    python -m examples.reproduce.page           # write them
    python -m examples.reproduce.page --check   # say whether they are as written

A table stands between `<!-- table: TASK NAME -->` and `<!-- end -->`; arms after NAME are its rows, else the methods are, and
`seeds=1-8` keeps to those seeds. TASK+TASK are strata of one difference. The words around it are written by hand.
"""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from examples.reproduce import survival
from examples.reproduce.tables import Arm, Run, against, at, costs, in_training, learning, outcomes, over_seeds, returns, teachers
from gtrturbo.analysis.intervals import bootstrap
from gtrturbo.report.chart import Line, Point, Rule, curves

HERE = Path(__file__).parent
RESULTS = HERE / "results"
ROOT = HERE.parents[1]
FILLED = ("results.md", "results-cells.md", "results-stable.md", "teachers.md")
PAGES = (*(ROOT / "docs" / name for name in FILLED), ROOT / "README.md")
PICTURED = ROOT / "docs" / "pictures"
MARKED = re.compile(r"(<!-- table: (\S+) (\S+)((?: \S+)*) -->\n).*?(<!-- end -->)", re.DOTALL)
SURVIVORS = ("ppo", "merged", "static", "newest", "gated", "ema-0.5")
# Over learning rates with the guard of the released code, too.
RIVALS = (*SURVIVORS, "clipped-only")
DRAWN = ("ppo", "turbo-kl", "turbo-kl-10", "turbo-sft", "gtr", "static-kl", "opd")
SEEDS = "seeds="
COLOURS = ("#4477aa", "#ee6677", "#228833", "#aa7700", "#aa3377", "#3399bb", "#777777")


def arms_of(task: str) -> Mapping[str, Arm]:
    """Read the runs of a task, by arm and seed."""
    arms: dict[str, dict[int, Run]] = {}
    for line in (RESULTS / f"{task}.jsonl").read_text(encoding="utf-8").splitlines():
        run = json.loads(line)
        arms.setdefault(run["arm"], {})[run["seed"]] = run
    return arms


def only_seeds(arms: Mapping[str, Arm], told: str) -> Mapping[str, Arm]:
    """Keep the runs of seeds FIRST-LAST, and the arms that have any."""
    first, last = map(int, told.split("-"))
    kept = {name: {seed: run for seed, run in arm.items() if first <= seed <= last} for name, arm in arms.items()}
    return {name: arm for name, arm in kept.items() if arm}


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
    if name == "ahead":
        lines = (RESULTS / f"{task}-ahead.jsonl").read_text(encoding="utf-8").splitlines()
        return survival.ahead([json.loads(line) for line in lines], chosen)
    cells = [arms_of(each) for each in task.split("+")]
    arms = cells[0]
    if ranges := [word.removeprefix(SEEDS) for word in chosen if word.startswith(SEEDS)]:
        arms = only_seeds(arms, ranges[0])
    shown = [word for word in chosen if not word.startswith(SEEDS)] or [arm for arm in DRAWN if arm in arms]
    if name == "ends-by-cell":
        return survival.by_cell({UPDATES[each]: arms_of(each) for each in task.split("+")}, shown)
    if name.startswith("rates"):
        return survival.by_rate(rates_of(task), shown, name.removeprefix("rates-") if name != "rates" else "success")
    if name.startswith("parted-from-"):
        return survival.parted(arms, shown, name.removeprefix("parted-from-"))
    if name.startswith("ends-against-"):
        reference = name.removeprefix("ends-against-")
        return survival.differences(cells, [arm for arm in shown if arm != reference], reference)
    if name.startswith("against-"):
        reference = name.removeprefix("against-")
        return against(arms, [arm for arm in shown if arm != reference], reference)
    if name == "teachers":
        return teachers(arms, [arm for arm in shown if any(run["teachers"] for run in arms[arm].values())])
    kinds = {
        "methods": outcomes,
        "learning": learning,
        "in-training": in_training,
        "returns": returns,
        "costs": costs,
        "ends": survival.ends,
    }
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
    step = min(64, 392 // len(names))
    legend = "".join(f'<text class="k{i}" x="{8 + i * step}" y="254">{name}</text>' for i, name in enumerate(names))
    inner = re.sub(r"^<svg [^>]*>|</svg>$", "", drawing)
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 400 262" width="800" height="524" role="img">'
    back = '<rect width="400" height="262" fill="#fff" stroke="none"/>'
    top = f'<text class="title" x="8" y="14">{title}</text>'
    return f'{head}<style>{style}</style>{back}{top}<g transform="translate(0 16)">{inner}</g>{legend}</svg>\n'


def rates_of(task: str) -> dict[float, Mapping[str, Arm]]:
    """Read the runs of results/TASK-RATE.jsonl, by the learning rate."""
    files = (file for file in RESULTS.glob(f"{task}-[0-9]*.jsonl") if not file.stem.endswith("-ahead"))
    return {float(file.stem.removeprefix(f"{task}-")): arms_of(file.stem) for file in files}


def over_rates(task: str, title: str, rates: Mapping[float, Mapping[str, Arm]], measure: str) -> str:
    rates = {rate: {name: arm for name, arm in arms.items() if len(arm) >= survival.FEWEST} for rate, arms in rates.items()}
    drawn = [name for name in RIVALS if sum(name in arms for arms in rates.values()) >= FEWEST_RATES]
    return _alone(survival.over_rates(task, title, rates, drawn, measure), title, drawn)


def over_updates(task: str, title: str, measure: str) -> str:
    arms = arms_of(task)
    drawn = [name for name in SURVIVORS if len(arms.get(name, {})) >= survival.FEWEST]
    return _alone(survival.over_updates(task, title, arms, drawn, measure), title, drawn)


GAMES = {"numberline": "NumberLine", "ezpoints": "EZPoints", "blackjack": "Blackjack", "points24": "Points24"}
SHOWN = {
    "success": ("success_rate", "success of the episodes learned from"),
    "thoughts": ("thought_accuracy", "thoughts that read the picture truly"),
}
UPDATES = {
    "numberline-1e-3": "NumberLine at 1e-3",
    "numberline-weak-1e-3": "NumberLine at 1e-3, weak start",
    "ezpoints-5e-4": "EZPoints at 5e-4",
    "lake-2e-4": "FrozenLake at 2e-4",
}
MEASURED = {"success": "success by update", "thoughts": "thoughts that read truly, by update"}
RATES = ("numberline", "ezpoints")
BY_RATE = {
    "": ("success", "success of the last five updates"),
    "-illegal": ("illegal", "illegal replies of the last five updates"),
}
FEWEST_RATES = 3
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
    for cell, where in UPDATES.items():
        if (RESULTS / f"{cell}.jsonl").is_file():
            for measure, what in MEASURED.items():
                files[PICTURED / f"{cell}-{measure}.svg"] = over_updates(cell, f"{where}: {what}", measure)
    for task in RATES:
        if len(of_rates := rates_of(task)) >= FEWEST_RATES:
            for end, (measure, what) in BY_RATE.items():
                drawn = over_rates(task, f"{GAMES[task]}: {what}", of_rates, measure)
                files[PICTURED / f"{task}-rates{end}.svg"] = drawn
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
