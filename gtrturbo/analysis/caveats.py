"""What is said beside the numbers of a comparison: runs that collapsed, seeds that do not pair, differences that may be none."""

from collections.abc import Sequence

from gtrturbo.analysis.estimates import ALL_TASKS, Estimate
from gtrturbo.analysis.exact import LEVEL, fewest_pairs, holm
from gtrturbo.analysis.groups import RunGroup
from gtrturbo.analysis.intervals import Interval
from gtrturbo.analysis.record import CollapsedRun
from gtrturbo.errors import few
from gtrturbo.store.ids import short

# From so many differences on, a reader is told what chance does among them.
MANY = 10


def collapse_note(run: CollapsedRun) -> str:
    """Say where a run ended before its plan did, and what it counts with from there on."""
    where = f"collapsed at iteration {run.end.iteration}, {run.end.stage}: {run.end.what}"
    head = f"{run.task}, {run.method}, seed {run.seed}: {where}"
    if "success_rate" not in run.counts:
        return f"{head} Chance was not measured, so from there on its last evaluation counts."
    level = f"{run.counts['success_rate']:.3f}"
    return f"{head} From there on it counts as chance, success {level}, with no legal reply and no true thought."


def progress_note(groups: Sequence[RunGroup], last: int) -> list[str]:
    """Say which runs of one task have not ended, or went on beyond the last iteration that all were evaluated at."""
    runs = [(group.method, seed, run) for group in groups for seed, run in sorted(group.runs.items())]
    going = [
        f"{method}, seed {seed}, has not ended ({run.updated} of {run.planned} updates)"
        for method, seed, run in runs
        if not run.ended
    ]
    beyond = [
        f"{method}, seed {seed}, was evaluated at {end}, too"
        for method, seed, run in runs
        if (end := max(entry.iteration for entry in run.entries["student"])) > last
    ]
    if not going and not beyond:
        return []
    head = f"{groups[0].task}: compared at iteration {last}, the last at which every run was evaluated"
    return [f"{head}: {few([*going, *beyond], between='; ')}."]


def pairing_notes(groups: Sequence[RunGroup], reference: RunGroup | None, baseline: str | None) -> list[str]:
    """Say of the groups of one task how few seeds they have, and which do not pair."""
    notes = []
    for group in groups:
        if len(group.runs) == 1:
            notes.append(f"{group.task}, {group.method}: one seed only, so nothing is known about other seeds.")
        elif len(group.runs) < fewest_pairs():
            notes.append(
                f"{group.task}, {group.method}: {len(group.runs)} seeds; with fewer than {fewest_pairs()} "
                "no difference can be resolved."
            )
        if baseline is None or group is reference:
            continue
        if reference is None:
            notes.append(f"{group.task}: there is no {baseline} to compare {group.method} to.")
        elif unpaired := sorted(group.runs.keys() ^ reference.runs.keys()):
            told = ", ".join(map(str, unpaired))
            notes.append(
                f"{group.task}: seeds {told} of {group.method} and {baseline} do not pair, and are left out of the difference."
            )
        if reference is not None:
            notes += _start_notes(group, reference)
    return notes


def _start_notes(group: RunGroup, reference: RunGroup) -> list[str]:
    """Say where paired runs did not start from one checkpoint: their difference is then not the method's alone."""
    notes = []
    for seed in sorted(group.runs.keys() & reference.runs.keys()):
        starts = [each.runs[seed].at("student").get(0) for each in (group, reference)]
        ids = [entry.manifest.inputs.get("checkpoint") if entry else None for entry in starts]
        if ids[0] != ids[1]:
            told = f"{group.method} started from {short(ids[0])}, {reference.method} from {short(ids[1])}"
            notes.append(f"{group.task}, seed {seed}: {told}.")
    return notes


def many_note(estimates: Sequence[Estimate], last: dict[str, int]) -> list[str]:
    """Warn that of many differences some are resolved by chance, and say how many still are when adjusted for each other."""
    ends = [each for each in estimates if each.difference and each.iteration in (None, last.get(each.task))]
    if len(ends) < MANY:
        return []
    adjusted = holm([1.0 if each.p is None else each.p for each in ends])
    resolved = [p for each, p in zip(ends, adjusted, strict=True) if each.resolved]
    return [
        f"{len(ends)} differences are told, each as if it were the only one: of 20 about one is resolved by chance alone. "
        f"{len(resolved)} are resolved, {sum(p < LEVEL for p in resolved)} of them with Holm's correction for their number, too."
    ]


def resolution_note(each: Estimate, last: dict[str, int], baseline: str) -> str | None:
    """Say plainly that a difference at the end is not resolved."""
    final = each.task == ALL_TASKS or each.iteration == last[each.task]
    if each.metric != "success_rate" or not final or each.resolved is not False or each.difference is None:
        return None
    why = _why_not(each, each.difference)
    return f"{each.task}: the difference in success between {each.method} and {baseline} is not resolved: {why}."


def _why_not(each: Estimate, difference: Interval) -> str:
    if each.paired_by == "deal":
        return "one seed tells of other deals, not of other seeds"
    if difference.low is None:
        return "one pair of seeds has no interval"
    if not difference.resolved:
        return "its interval includes 0"
    return f"{each.pairs} pairs are too few" if each.pairs < fewest_pairs() else f"the exact sign-flip test has p = {each.p:.3f}"
