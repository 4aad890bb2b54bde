"""What others are given: a page of HTML about runs (here), turns in the formats of other tools, checkpoints on a hub."""

import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from gtrturbo.analysis.comparison import Comparison, collapses, collapses_said, comparison, final
from gtrturbo.analysis.estimates import ALL_TASKS, TITLES
from gtrturbo.analysis.exact import chance_said, fewest_pairs
from gtrturbo.analysis.groups import RunGroup, group_runs
from gtrturbo.analysis.history import History, read_history
from gtrturbo.analysis.intervals import said
from gtrturbo.analysis.levels import level_said
from gtrturbo.config import ReportConfig
from gtrturbo.config.prices import Prices, prices_of
from gtrturbo.report.chart import Rule
from gtrturbo.report.cost import outside_teacher, teacher_costs, time_figure
from gtrturbo.report.episodes import samples
from gtrturbo.report.moved import moved_figures
from gtrturbo.report.page import details, grid, is_page, listing, page, paragraph, section, table
from gtrturbo.report.panels import COLLAPSE, OUTCOMES, TEACHER, UPDATES, figures, gap_figure
from gtrturbo.report.progress import progress_section, watch
from gtrturbo.store.claims import require_own_file, require_replaceable
from gtrturbo.store.files import make_folder, write_whole
from gtrturbo.store.prices import read_prices

INTERVALS = (
    "Bands are 95 % intervals: over seeds (bootstrap, expanded for few seeds) where there are several, else Wilson's over the "
    "episodes of the one run, for success alone. Intervals over seeds speak of new seeds on these deals."
)
FELL = (
    "A run that collapsed stays in all curves of evaluations and rollouts to the end: from there on as chance in success and "
    "return, with no legal reply and no true thought, as it was last in the rest. Curves of updates end where the first run of a "
    "method ended; teacher − student is over the runs that have not collapsed by then."
)
FIRST = ("success_rate", "return_mean", "thought_accuracy", "success_area")
COMPARED = ("success_rate", "success_area")


def report(config: ReportConfig) -> Path:
    """Write the page and return its path; with `watch` again and again, until all runs have ended.

    Raises:
        GtrTurboError: as `comparison` and `read_history` do.
    """
    _require_page(config.out)
    return watch(config.runs, partial(_write, config), every=config.watch) if config.watch else _write(config)


def _write(config: ReportConfig) -> Path:
    runs = [read_history(path) for path in config.runs]
    result = comparison(runs, config.baseline, read_prices(config.prices))
    groups = group_runs(runs)
    prices = prices_of(config.price)
    going = progress_section(runs, now=time.time()) if config.watch else ""
    sections = [going, _asked(result, groups), _found(result, groups)]
    for place, task in enumerate(result.last):
        of_task = [group for group in groups if group.task == task]
        sections += _task_sections(f"t{place}", task, of_task, result, prices, config.samples)
    sections.append(_made(groups))
    text = page(_title(groups), filter(None, sections), reload=config.watch if going else None)
    make_folder(config.out.parent)
    write_whole(config.out, text.encode())
    return config.out


def _require_page(out: Path) -> None:
    """Refuse to write into an artifact, and to replace what is no page."""
    require_own_file(out)
    require_replaceable(out, "page that report wrote", is_page)


def _title(groups: Sequence[RunGroup]) -> str:
    methods, tasks = dict.fromkeys(group.method for group in groups), dict.fromkeys(group.task for group in groups)
    return f"{', '.join(methods)} on {', '.join(tasks)}"


def _asked(result: Comparison, groups: Sequence[RunGroup]) -> str:
    """Say what was run."""
    rows = []
    for group in groups:
        run = next(iter(group.runs.values()))
        first = next(iter(run.entries["student"]))
        seeds = ", ".join(map(str, sorted(group.runs)))
        sizes = [_iterations(group), str(run.settings.get("episodes", "")), str(int(first.metrics["episodes"]))]
        rows.append([group.method, group.task, seeds, *sizes])
    head = ["method", "task", "seeds", "iterations", "episodes each", "episodes per evaluation"]
    return section("What was run", table("methods", head, rows))


def _iterations(group: RunGroup) -> str:
    """Say how many updates the runs were asked for, and how many are done of those that have not ended."""
    asked = [f"{run.planned}" if run.ended else f"{run.updated} of {run.planned}" for run in group.runs.values()]
    return ", ".join(dict.fromkeys(asked))


def _found(result: Comparison, groups: Sequence[RunGroup]) -> str:
    """Say what came out, and how sure that is: in words, then as tables, the first numbers before the rest."""
    parts = [listing([_finding(result, group) for group in groups], kind="found"), listing(result.notes, kind="found faint")]
    for task in result.last:
        methods = [group.method for group in groups if group.task == task]
        caption = f"{task}: iteration {result.last[task]}; {level_said(result.chance[task])}"
        ended = [
            [group.method, collapses_said(runs, len(group.runs))]
            for group in groups
            if (runs := collapses(result, task, group.method))
        ]
        parts.append(table("runs that collapsed", ["method", "how many, and at which iteration"], ended) if ended else "")
        parts.append(_outcomes(result, task, methods, caption, FIRST))
        parts.append(details("all numbers", _outcomes(result, task, methods, caption, tuple(TITLES))))
    if result.baseline:
        parts.append(_differences(result, COMPARED))
        parts.append(details("all differences", _differences(result, tuple(TITLES))))
    return section("What was found", *parts)


def _finding(result: Comparison, group: RunGroup) -> str:
    """Say one method's success at the end in a sentence: against chance, and against the baseline."""
    estimate = final(result, group.task, group.method, "success_rate")
    assert estimate is not None
    value, chance = estimate.value, result.chance[group.task]
    enough = len(group.runs) >= fewest_pairs()
    above = "resolved" if enough and value.low is not None and chance is not None and value.low > chance else "not resolved"
    over = "one run" if len(group.runs) == 1 else f"{len(group.runs)} seeds"
    beside = level_said(chance) if chance is None else f"{above} above chance ({chance:.3f})"
    told = f"{group.method} on {group.task}: success {said(value)} over {over}, {beside}"
    if estimate.difference is None:
        return f"{told}."
    resolved = "resolved" if estimate.resolved else "not resolved"
    by = f"{estimate.pairs} {estimate.paired_by}s" if estimate.pairs != 1 else f"1 {estimate.paired_by}"
    difference = f"{said(estimate.difference, sign=True)} over {by}, exact p {chance_said(estimate.p)}"
    return f"{told}; against {result.baseline} {difference}: {resolved}."


def _outcomes(result: Comparison, task: str, methods: Sequence[str], caption: str, metrics: Sequence[str]) -> str:
    """Tabulate numbers by method; those that no run has recorded are left out."""
    found = {(metric, method): final(result, task, method, metric) for metric in metrics for method in methods}
    shown = [metric for metric in metrics if any(found[metric, method] for method in methods)]
    rows = [[TITLES[metric], *(said(each.value) if (each := found[metric, m]) else "–" for m in methods)] for metric in shown]
    return table(caption, ["number", *methods], rows)


def _differences(result: Comparison, metrics: Sequence[str]) -> str:
    rows = [
        [
            *(TITLES[each.metric], each.method, each.task, said(each.difference, sign=True)),
            *(
                f"{each.wins} / {each.ties} / {each.losses}",
                chance_said(each.p),
                f"{each.paired_by}s",
                "yes" if each.resolved else "no",
            ),
        ]
        for each in result.estimates
        if each.difference and each.metric in metrics and _at_end(result, each.task, each.iteration)
    ]
    head = ["number", "method", "task", "difference", "wins / ties / losses", "exact p", "of", "resolved"]
    return table(f"paired difference to {result.baseline}", head, rows)


def _at_end(result: Comparison, task: str, iteration: int | None) -> bool:
    return task == ALL_TASKS or iteration is None or iteration == result.last[task]


def _task_sections(
    name: str, task: str, groups: Sequence[RunGroup], result: Comparison, prices: Prices, count: int
) -> Iterator[str]:
    chance = result.chance[task]
    rules = {"Success": [] if chance is None else [Rule("chance", chance)], TEACHER[0].title: [Rule("mean change", 1.0)]}
    of = f": {task}" if len(result.last) > 1 else ""
    outcomes = grid(figures(f"{name}-o", OUTCOMES, groups, rules=rules))
    fell = paragraph(FELL, kind="faint") if any(run.collapsed for group in groups for run in group.runs.values()) else ""
    yield section(f"Success and return{of}", paragraph(INTERVALS, kind="faint"), fell, outcomes)
    yield section(f"Signs of collapse{of}", grid(figures(f"{name}-c", COLLAPSE, groups, rules=rules)))
    yield section(f"Updates{of}", grid(figures(f"{name}-u", UPDATES, groups, rules=rules)))
    gap = gap_figure(f"{name}-g", task, groups, result)
    yield section(
        f"The merged teacher{of}",
        grid([*figures(f"{name}-m", TEACHER, groups, rules=rules), gap, *moved_figures(f"{name}-w", groups)]),
    )
    yield section(
        f"Time and cost{of}", time_figure(f"{name}-b", groups), teacher_costs(task, result), outside_teacher(groups, prices)
    )
    shown = []
    for group in groups:
        seed = min(group.runs)
        if found := samples(group.runs[seed], count):
            shown.append(section(group.method, found, level=3))
    if shown:
        yield section(f"Sample episodes{of}", *shown)


def _made(groups: Sequence[RunGroup]) -> str:
    rows = [
        [str(run.path), group.method, str(seed), _end_of(run), " ".join(run.settings.get("set", []))]
        for group in groups
        for seed, run in sorted(group.runs.items())
    ]
    return section("The runs", table("folders and settings", ["run", "method", "seed", "ended", "--set"], rows))


def _end_of(run: History) -> str:
    """Say where a run ended that collapsed, and how far one is that has not ended."""
    if run.collapsed:
        return f"collapsed at iteration {run.collapsed.iteration}, {run.collapsed.stage}"
    return "yes" if run.ended else f"no: {run.updated} of {run.planned} updates"
