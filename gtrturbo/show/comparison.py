"""compare: print and write what runs say of their methods."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from gtrturbo.analysis.comparison import Comparison, Cost, Gap, collapses, collapses_said, comparison, final, spendings
from gtrturbo.analysis.estimates import ALL_TASKS, TITLES, Estimate
from gtrturbo.analysis.exact import chance_said
from gtrturbo.analysis.history import read_history
from gtrturbo.analysis.intervals import Interval, said
from gtrturbo.analysis.levels import level_said
from gtrturbo.analysis.spending import cost_table
from gtrturbo.config import CompareConfig
from gtrturbo.distributed.escapes import visible
from gtrturbo.show.text import stdout
from gtrturbo.store.claims import require_own_file, require_replaceable
from gtrturbo.store.files import json_text, make_folder, write_all_whole
from gtrturbo.store.prices import read_prices
from gtrturbo.store.records import mean
from gtrturbo.store.strict_json import parse_json


def compare(config: CompareConfig) -> None:
    """Print the comparison; write it to --out."""
    if config.out:
        _require_files(config.out)
    result = comparison([read_history(path) for path in config.runs], config.baseline, read_prices(config.prices))
    if config.out:
        write_comparison(config.out, result)
    with stdout() as console:
        for table in tables(result):
            console.print(table)
        for note in [*result.notes, *result.unresolved]:
            console.print(Text(visible(note)))


def _require_files(folder: Path) -> None:
    """Refuse to write into an artifact, and to replace what compare did not write."""
    require_own_file(folder / RECORD)
    require_replaceable(folder / RECORD, "comparison that compare wrote", _is_record)
    require_replaceable(folder / TABLE, "table that compare wrote", lambda content: content.startswith(HEAD.encode()))


def _is_record(content: bytes) -> bool:
    try:
        found = parse_json(content)
    except ValueError:
        return False
    return isinstance(found, dict) and found.keys() >= PARTS


def write_comparison(folder: Path, result: Comparison) -> None:
    """Write compare.json, everything, and compare.csv, a row per estimate: both or none."""
    make_folder(folder)
    content = asdict(result)
    content["estimates"] = [asdict(each) | {"resolved": each.resolved} for each in result.estimates]
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(CSV)
    writer.writerows(map(csv_cell, _csv_row(each)) for each in result.estimates)
    write_all_whole({folder / RECORD: json_text(content).encode(), folder / TABLE: lines.getvalue().encode()})


RECORD, TABLE = "compare.json", "compare.csv"
# What all versions wrote: keys of the record, and how the table begins.
PARTS = {"baseline", "last", "chance", "estimates", "gaps", "costs"}
HEAD = "task,method,iteration,metric,seeds,mean,low,high,paired_by,"
# With what spreadsheets begin formulas, in wide letters too.
FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
CSV = (
    "task", "method", "iteration", "metric", "seeds", "mean", "low", "high",
    "paired_by", "pairs", "difference", "difference_low", "difference_high", "wins", "ties", "losses", "p", "resolved",
)  # fmt: skip


def csv_cell(value: Any) -> Any:
    """Quote a text that a spreadsheet would take for a formula, with a ' before it; numbers, written as such or not, stay."""
    if not isinstance(value, str):
        return value
    text = visible(value)
    return text if not value.lstrip(" ").startswith(FORMULAS) or _is_number(text) else f"'{text}"


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _csv_row(each: Estimate) -> list[Any]:
    paired = each.difference or Interval(math.nan, None, None)
    difference = [paired.mean, paired.low, paired.high, each.wins, each.ties, each.losses, each.p, each.resolved]
    head = [
        each.task,
        each.method,
        each.iteration,
        each.metric,
        len(each.seeds),
        each.value.mean,
        each.value.low,
        each.value.high,
    ]
    return [*head, *([each.paired_by, each.pairs, *difference] if each.difference else [None] * 10)]


def tables(result: Comparison) -> list[Table]:
    """Lay out the last iteration of each task, the differences to the baseline, the teachers' gaps and the cost."""
    found = [_table_of(result, task) for task in result.last]
    if any(each.task == ALL_TASKS for each in result.estimates):
        found.append(_table_over_tasks(result))
    found += _difference_tables(result)
    if result.gaps:
        found.append(_gap_table(result.gaps))
    return [*found, _time_table(result.costs), *_cost_tables(result)]


def _table_of(result: Comparison, task: str) -> Table:
    """Lay out numbers by method, a column each; those that no run has recorded are left out."""
    methods = list(dict.fromkeys(each.method for each in result.estimates if each.task == task))
    title = f"{task}, iteration {result.last[task]}; {level_said(result.chance[task])}"
    table = Table("", box=box.SIMPLE_HEAD, title=Text(visible(title)))
    for method in methods:
        table.add_column(Text(visible(method)), justify="right")
    counts = {each.method: len(each.seeds) for each in result.estimates if each.task == task}
    table.add_row("seeds", *(str(counts[method]) for method in methods))
    ended = [collapses(result, task, method) for method in methods]
    if any(ended):
        said_of = [collapses_said(runs, counts[method]) for method, runs in zip(methods, ended, strict=True)]
        table.add_row("collapsed", *said_of)
    for metric, name in TITLES.items():
        found = [final(result, task, method, metric) for method in methods]
        if any(found):
            table.add_row(name, *(said(each.value) if each else "" for each in found))
    return table


def _table_over_tasks(result: Comparison) -> Table:
    table = Table("method", "success, mean of tasks", box=box.SIMPLE_HEAD, title="all tasks")
    for each in result.estimates:
        if each.task == ALL_TASKS:
            table.add_row(Text(visible(each.method)), said(each.value))
    return table


def _difference_tables(result: Comparison) -> list[Table]:
    """Lay out the differences of each method on each task at its end, narrow enough for 80 columns."""
    ends = [
        each
        for each in result.estimates
        if each.difference and (each.iteration is None or each.iteration == result.last.get(each.task))
    ]
    pairs = dict.fromkeys((each.task, each.method) for each in ends)
    return [_difference_table(result, task, method, ends) for task, method in pairs]


def _difference_table(result: Comparison, task: str, method: str, ends: Sequence[Estimate]) -> Table:
    title = f"{task}: {method}, paired difference to {result.baseline}"
    table = Table("", box=box.SIMPLE_HEAD, title=Text(visible(title)))
    for name in ("difference", "w/t/l", "of", "exact p"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("resolved", no_wrap=True)
    for each in ends:
        if each.difference and (each.task, each.method) == (task, method):
            counts = "/".join(map(str, (each.wins, each.ties, each.losses)))
            cells = (said(each.difference, sign=True), counts, f"{each.paired_by}s", chance_said(each.p))
            table.add_row(TITLES[each.metric], *cells, "yes" if each.resolved else "no")
    return table


def _gap_table(gaps: Sequence[Gap]) -> Table:
    table = Table("task", "method", box=box.SIMPLE_HEAD, title="merged teacher − student, success on the same deals")
    for title in ("iteration", "seed", "difference", "wins", "losses"):
        table.add_column(title, justify="right")
    for gap in gaps:
        names = (Text(visible(gap.task)), Text(visible(gap.method)), str(gap.iteration), gap.whose)
        table.add_row(*names, said(gap.difference, sign=True), str(gap.wins), str(gap.losses))
    return table


def _time_table(costs: Sequence[Cost]) -> Table:
    table = Table(
        "task", "method", box=box.SIMPLE_HEAD, title="seconds per run, mean over seeds, without warm start and evaluations"
    )
    for title in ("seconds", "teacher", "share"):
        table.add_column(title, justify="right")
    for task, method in dict.fromkeys((cost.task, cost.method) for cost in costs):
        own = [cost for cost in costs if (cost.task, cost.method) == (task, method)]
        seconds, teacher = mean(cost.seconds for cost in own), mean(cost.teacher_seconds for cost in own)
        share = f"{teacher / seconds:.0%}" if seconds else ""
        table.add_row(Text(visible(task)), Text(visible(method)), f"{seconds:.1f}", f"{teacher:.1f}", share)
    return table


def _cost_tables(result: Comparison) -> Iterator[Table]:
    """Lay out what teachers were asked and cost, by task; nothing where nobody was asked and nothing has a price."""
    for task in result.last:
        head, rows, dated = cost_table(spendings(result, task))
        if rows:
            table = Table(head[0], box=box.SIMPLE_HEAD, title=Text(visible(f"{task}: the teacher, per run{dated}")))
            for name in head[1:]:
                table.add_column(Text(visible(name)), justify="right")
            for name, *cells in rows:
                table.add_row(Text(visible(name)), *cells)
            yield table
