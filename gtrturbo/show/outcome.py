"""What happened in a run: its lines and a short table, so that they fit a terminal; every artifact is listed elsewhere."""

from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from rich import box
from rich.console import Console
from rich.table import Table

from gtrturbo.analysis.history import History
from gtrturbo.analysis.levels import chance_level, level_said
from gtrturbo.console import number
from gtrturbo.distributed.escapes import shell_word
from gtrturbo.show.text import Row, section

ENDS = 5  # rollouts at the begin and at the end that a mean is over
ROWS = 10  # of the table, beside the first
# What rises or falls first where a run goes wrong: of the rollout that an update learned from, and of the update.
PLAYED = {"success": "success_rate", "illegal": "illegal_rate", "reads truly": "thought_accuracy"}
LEARNED = {"KL to teacher": "kl_mean", "approx. KL": "approx_kl", "largest ratio": "ratio_max"}


def print_outcome(console: Console, run: History, kinds: Counter[str], spent: Sequence[Row]) -> None:
    """Print what happened in a run, and its updates, evenly spaced.

    Args:
        run: what is read.
        kinds: of its artifacts, and how many.
        spent: rows on what its teachers were asked and cost.
    """
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    listing = f"{counts}: gtrturbo show {shell_word(str(run.path))} --artifacts"
    rows = [("run", _what(run)), ("updates", _how_far(run)), *_success(run), *_training(run), *spent, ("artifacts", listing)]
    section(console, str(run.path), rows)
    _print_updates(console, run)


def _what(run: History) -> str:
    label = f"{run.label}: " if run.label not in (None, run.method) else ""
    return f"{label}{run.method} on {run.task}, {run.settings.get('model', 'tiny')}, seed {run.seed}"


def _how_far(run: History) -> str:
    done = f"{run.updated} of {run.planned}"
    if run.collapsed:
        return f"{done}; collapsed at iteration {run.collapsed.iteration}, {run.collapsed.stage}: {run.collapsed.what}"
    return done if run.ended else f"{done}, not ended: the same gtrturbo run goes on with it"


def _success(run: History) -> list[Row]:
    played = [entry for entry in run.entries["student"] if "success_rate" in entry.metrics]
    if not played:
        return []
    first, last = played[0], played[-1]
    interval = "[{success_low:.3f}, {success_high:.3f}]".format_map(last.metrics) if "success_low" in last.metrics else ""
    before = f"{first.metrics['success_rate']:.3f} → " if first is not last else ""
    chance = chance_level(last.metrics)
    where = f"at update {last.iteration}, {number(last.metrics['episodes'])} episodes"
    return [("success", f"{before}{last.metrics['success_rate']:.3f} {interval} {where}, {level_said(chance)}")]


def _training(run: History) -> list[Row]:
    found = run.entries["rollouts"]
    if len(found) < 2 * ENDS:
        return []
    told = []
    for name, metric in PLAYED.items():
        values = [entry.metrics[metric] for entry in found if metric in entry.metrics]
        if len(values) == len(found):
            told.append(f"{name} {fmean(values[:ENDS]):.3f} → {fmean(values[-ENDS:]):.3f}")
    return [("training", f"{', '.join(told)}: first and last {ENDS} rollouts")] if told else []


def _print_updates(console: Console, run: History) -> None:
    updates = {entry.iteration: entry for entry in run.updates()}
    played = {entry.iteration + 1: entry for entry in run.entries["rollouts"]}
    numbers = sorted(updates.keys() | played.keys())
    columns = {
        name: {k: entries[k].metrics[metric] for k in numbers if k in entries and metric in entries[k].metrics}
        for entries, names in ((played, PLAYED), (updates, LEARNED))
        for name, metric in names.items()
    }
    columns = {name: values for name, values in columns.items() if values}
    if not columns:
        return
    table = Table("update", *columns, box=box.SIMPLE_HEAD)
    for k in _spaced(numbers):
        table.add_row(str(k), *(f"{values[k]:.4g}" if k in values else "" for values in columns.values()))
    console.print(table)


def _spaced(numbers: Sequence[int]) -> list[int]:
    """Leave out numbers evenly, so that few are left and the first and the last among them."""
    if len(numbers) <= ROWS + 1:
        return [*numbers]
    places = [round(step * (len(numbers) - 1) / ROWS) for step in range(ROWS + 1)]
    return [numbers[place] for place in places]
