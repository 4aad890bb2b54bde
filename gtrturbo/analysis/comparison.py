"""What runs say of their methods: which does better, how sure is that, and what does it cost?

Runs are grouped by task and by method; settings in which runs of one method differ, and the sha256 of your own code where that
does, are part of its name. Within a group they differ in their seed, and two methods are paired by it. Intervals are for new
seeds on these deals: `intervals.bootstrap`, and beside them stands an exact test: `exact.sign_flip`. A group of one seed has
Wilson's interval, and its difference is paired by deals, with McNemar's test: both say nothing about other seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from gtrturbo.analysis.caveats import collapse_note, many_note, pairing_notes, progress_note, resolution_note
from gtrturbo.analysis.estimates import AREAS, Estimate, by_deals, estimates_of, over_tasks
from gtrturbo.analysis.groups import RunGroup, chance_of, group_runs, shared_iterations
from gtrturbo.analysis.history import History
from gtrturbo.analysis.intervals import Interval, bootstrap
from gtrturbo.analysis.record import CollapsedRun
from gtrturbo.analysis.spending import Spending, prices_told, spending_of
from gtrturbo.errors import GtrTurboError
from gtrturbo.store.prices import PriceList

# What others are compared to where nobody says to what: the method without a teacher.
BASELINE = "ppo"


@dataclass(frozen=True)
class Gap:
    """Teacher minus student on the same deals, in success: of one run, or the mean over the seeds of a method (`seed` None).

    seeds, of: how many runs it is over, and how many the method has; a run that collapsed, or has not come so far, has none.
    """

    task: str
    method: str
    iteration: int
    seed: int | None
    difference: Interval
    wins: int
    losses: int
    seeds: int
    of: int

    @property
    def whose(self) -> str:
        """The seed, or `all`, or of how many seeds it is where some are missing."""
        missing = f"{self.seeds} of {self.of}"
        return str(self.seed) if self.seed is not None else "all" if self.seeds == self.of else missing


@dataclass(frozen=True)
class Cost:
    """Seconds of a run's loop, those of them that its teacher took, and what the teacher cost."""

    task: str
    method: str
    seed: int
    run: str
    seconds: float
    teacher_seconds: float
    warm_start_seconds: float
    evaluation_seconds: float
    spending: Spending


@dataclass(frozen=True)
class Comparison:
    """All that `compare` says.

    last: by task, the last iteration that all its runs were evaluated at. chance: by task, success of the better of random
    actions and the best single one, None where it was not measured. notes: what weakens the numbers. unresolved: differences
    in success that may be none. collapsed: runs that did, which count as chance from there on.
    """

    baseline: str | None
    last: dict[str, int]
    chance: dict[str, float | None]
    estimates: list[Estimate]
    gaps: list[Gap]
    costs: list[Cost]
    notes: list[str] = field(default_factory=list)
    unresolved: list[str] = field(default_factory=list)
    collapsed: list[CollapsedRun] = field(default_factory=list)


def comparison(runs: Sequence[History], baseline: str | None = None, prices: PriceList | None = None) -> Comparison:
    """Group, pair and estimate; `prices` are those of teachers.

    Raises:
        GtrTurboError: no runs, two of one method and seed, evaluations on other deals, an unknown baseline, or runs of one task
            that were paid by several prices, where `prices` are not given.
    """
    if not runs:
        raise GtrTurboError("there are no runs to compare.", "name the folders that gtrturbo run wrote.")
    groups = group_runs(runs)
    methods = list(dict.fromkeys(group.method for group in groups))
    if baseline is None:
        baseline = BASELINE if BASELINE in methods else methods[0]
    if baseline not in methods:
        raise GtrTurboError(f"there is no method {baseline} among these runs.", f"there are: {'; '.join(methods)}")
    compared = baseline if len(methods) > 1 else None
    collapsed = [each for group in groups for each in _collapsed(group)]
    last: dict[str, int] = {}
    chance: dict[str, float | None] = {}
    estimates: list[Estimate] = []
    notes: list[str] = []
    for task in dict.fromkeys(group.task for group in groups):
        of_task = [group for group in groups if group.task == task]
        shared = shared_iterations(of_task)
        reference = next((group for group in of_task if group.method == compared), None)
        last[task], chance[task] = shared[-1], chance_of(of_task[0], shared[-1])
        estimates += estimates_of(of_task, reference, shared)
        notes += progress_note(of_task, shared[-1])
        notes += [collapse_note(each) for each in collapsed if each.task == task]
        notes += pairing_notes(of_task, reference, compared)
    estimates += over_tasks(groups, compared, last) if len(last) > 1 else []
    unresolved = [note for each in estimates if (note := resolution_note(each, last, baseline))]
    notes += many_note(estimates, last)
    gaps = [gap for group in groups for gap in _gaps(group)]
    costs = _costs(groups, prices)
    for task in last:
        prices_told([cost.spending for cost in costs if cost.task == task])
    return Comparison(compared, last, chance, estimates, gaps, costs, notes, unresolved, collapsed)


def _collapsed(group: RunGroup) -> list[CollapsedRun]:
    return [
        CollapsedRun(group.task, group.method, seed, run.collapsed, run.falls_to)
        for seed, run in sorted(group.runs.items())
        if run.collapsed
    ]


# Teachers and cost


def _gaps(group: RunGroup) -> list[Gap]:
    """Compare each evaluated teacher with its student, per run and over the seeds."""
    found: list[Gap] = []
    of = len(group.runs)
    for seed, run in sorted(group.runs.items()):
        students = run.at("student")
        for iteration, teacher in run.at("teacher").items():
            if iteration in students and students[iteration].collapsed is None:
                difference, wins, _, losses = by_deals(students[iteration], teacher)
                found.append(Gap(group.task, group.method, iteration, seed, difference, wins, losses, 1, of))
    pooled = []
    for iteration in sorted({gap.iteration for gap in found}):
        gaps = [gap for gap in found if gap.iteration == iteration]
        means = [gap.difference.mean for gap in gaps]
        wins, losses = sum(m > 0 for m in means), sum(m < 0 for m in means)
        pooled.append(Gap(group.task, group.method, iteration, None, bootstrap([means]), wins, losses, len(means), of))
    return [*found, *(pooled if of > 1 else [])]


def _costs(groups: Sequence[RunGroup], prices: PriceList | None) -> list[Cost]:
    return [
        Cost(
            task=group.task,
            method=group.method,
            seed=seed,
            run=str(run.path),
            seconds=run.training_seconds,
            teacher_seconds=run.teacher_seconds,
            warm_start_seconds=run.seconds.get("warm start", 0.0),
            evaluation_seconds=run.seconds.get("eval", 0.0) + run.seconds.get("teacher eval", 0.0),
            spending=spending_of(run, prices),
        )
        for group in groups
        for seed, run in sorted(group.runs.items())
    ]


def collapses(result: Comparison, task: str, method: str) -> list[CollapsedRun]:
    """List the runs of a method that collapsed at a task."""
    return [each for each in result.collapsed if (each.task, each.method) == (task, method)]


def collapses_said(runs: Sequence[CollapsedRun], seeds: int) -> str:
    """Write how many of so many runs collapsed, and where each did: its seed, and the iteration."""
    return "; ".join([f"{len(runs)} of {seeds}", *(f"seed {run.seed} at {run.end.iteration}" for run in runs)])


def spendings(result: Comparison, task: str) -> list[tuple[str, list[Spending]]]:
    """List what the runs of a task spent on their teachers, by method."""
    own = [cost for cost in result.costs if cost.task == task]
    methods = dict.fromkeys(cost.method for cost in own)
    return [(method, [cost.spending for cost in own if cost.method == method]) for method in methods]


def final(result: Comparison, task: str, method: str, metric: str) -> Estimate | None:
    """Return an estimate at a task's last shared iteration, or the area over all; None where it was not recorded."""
    iteration = None if metric in AREAS else result.last.get(task)
    wanted = (task, method, iteration, metric)
    return next((e for e in result.estimates if (e.task, e.method, e.iteration, e.metric) == wanted), None)
