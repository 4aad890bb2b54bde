"""What runs say of their methods: which does better, how sure is that, and what does it cost?

Runs are grouped by task and by method; settings in which runs of one method differ are part of its name. Within a group they
differ in their seed, and two methods are paired by it. Intervals are for new seeds on these deals: `intervals.bootstrap`, and
beside them stands an exact test: `exact.sign_flip`. A group of one seed has Wilson's interval, and its difference is paired by
deals, with McNemar's test: both say nothing about other seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from gtrturbo.analysis.exact import LEVEL, fewest_pairs, holm, mcnemar, sign_flip
from gtrturbo.analysis.groups import RunGroup, chance_of, group_runs, shared_iterations
from gtrturbo.analysis.history import Entry, History
from gtrturbo.analysis.intervals import Interval, area_under_curve, bootstrap
from gtrturbo.analysis.spending import Spending, spending_of
from gtrturbo.analysis.summary import paired_difference, wilson
from gtrturbo.errors import GtrTurboError
from gtrturbo.store.ids import short
from gtrturbo.store.prices import PriceList

METRICS = {
    "success_rate": "success",
    "return_mean": "return",
    "thought_accuracy": "thought accuracy",
    "illegal_rate": "illegal replies",
    "self_bleu": "self-BLEU",
    "thought_information": "thought information",
}
AREAS = {"success_area": "success_rate", "return_area": "return_mean"}
TITLES = METRICS | {"success_area": "area under success", "return_area": "area under return"}
ALL_TASKS = "all tasks"
# What others are compared to where nobody says to what: the method without a teacher.
BASELINE = "ppo"
# From so many differences on, a reader is told what chance does among them.
MANY = 10


@dataclass(frozen=True)
class Estimate:
    """A number of one method at one iteration: mean over seeds and interval, and the paired difference to the baseline."""

    task: str
    method: str
    iteration: int | None
    metric: str
    seeds: list[int]
    value: Interval
    paired_by: str = ""
    pairs: int = 0
    difference: Interval | None = None
    wins: int = 0
    ties: int = 0
    losses: int = 0
    p: float | None = None

    @property
    def resolved(self) -> bool | None:
        """Whether the difference would be there with other seeds; None without one.

        Its interval leaves 0 out, the exact test is below 0.05, and it is over seeds: the deals of one seed tell of that seed.
        """
        if self.difference is None or self.p is None:
            return None
        return self.difference.resolved and self.p < LEVEL and self.paired_by == "seed" and self.pairs >= fewest_pairs()


@dataclass(frozen=True)
class Gap:
    """Teacher minus student on the same deals, in success: of one run, or the mean over the seeds of a method (`seed` None)."""

    task: str
    method: str
    iteration: int
    seed: int | None
    difference: Interval
    wins: int
    losses: int


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
    in success that may be none.
    """

    baseline: str | None
    last: dict[str, int]
    chance: dict[str, float | None]
    estimates: list[Estimate]
    gaps: list[Gap]
    costs: list[Cost]
    notes: list[str] = field(default_factory=list)
    unresolved: list[str] = field(default_factory=list)


def comparison(runs: Sequence[History], baseline: str | None = None, prices: PriceList | None = None) -> Comparison:
    """Group, pair and estimate; `prices` are those of teachers.

    Raises:
        GtrTurboError: no runs, two of one method and seed, evaluations on other deals, or an unknown baseline.
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
    last: dict[str, int] = {}
    chance: dict[str, float | None] = {}
    estimates: list[Estimate] = []
    notes: list[str] = []
    for task in dict.fromkeys(group.task for group in groups):
        of_task = [group for group in groups if group.task == task]
        shared = shared_iterations(of_task)
        reference = next((group for group in of_task if group.method == compared), None)
        last[task], chance[task] = shared[-1], chance_of(of_task[0], shared[-1])
        estimates += _estimates(of_task, reference, shared)
        notes += [note for group in of_task for note in _collapse_notes(group)]
        notes += _pairing_notes(of_task, reference, compared)
    estimates += _over_tasks(groups, compared, last) if len(last) > 1 else []
    unresolved = [note for each in estimates if (note := _resolution_note(each, last, baseline))]
    notes += _many_note(estimates, last)
    gaps = [gap for group in groups for gap in _gaps(group)]
    return Comparison(compared, last, chance, estimates, gaps, _costs(groups, prices), notes, unresolved)


# Estimates


def _estimates(groups: Sequence[RunGroup], reference: RunGroup | None, shared: Sequence[int]) -> list[Estimate]:
    found = []
    for group in groups:
        against = None if group is reference else reference
        for iteration in shared:
            for metric in METRICS:
                found += _estimate(group, against, metric, iteration)
        if len(shared) > 1:
            for metric in AREAS:
                found += _area(group, against, metric, shared)
    return found


def _estimate(group: RunGroup, reference: RunGroup | None, metric: str, iteration: int) -> list[Estimate]:
    """Estimate one number; nothing where a run has not recorded it."""
    values = _values(group, metric, iteration)
    if values is None:
        return []
    estimate = Estimate(group.task, group.method, iteration, metric, sorted(values), _interval(group, values, metric, iteration))
    others = _values(reference, metric, iteration) if reference else None
    if reference is None or others is None:
        return [estimate]
    common = sorted(values.keys() & others.keys())
    if len(common) == 1 and metric == "success_rate":
        # Of one seed, success alone is a number of single deals that has an interval.
        return [_paired_by_deals(estimate, *(each.runs[common[0]].at("student")[iteration] for each in (reference, group)))]
    return [_paired_by_seed(estimate, values, others)]


def _values(group: RunGroup, metric: str, iteration: int) -> dict[int, float] | None:
    metrics = {seed: run.at("student")[iteration].metrics for seed, run in sorted(group.runs.items())}
    return {seed: each[metric] for seed, each in metrics.items()} if all(metric in each for each in metrics.values()) else None


def _interval(group: RunGroup, values: dict[int, float], metric: str, iteration: int) -> Interval:
    if len(values) > 1 or metric != "success_rate":
        return bootstrap([list(values.values())])
    metrics = next(iter(group.runs.values())).at("student")[iteration].metrics
    episodes = int(metrics["episodes"])
    return Interval(metrics[metric], *wilson(round(metrics[metric] * episodes), episodes))


def _paired_by_seed(estimate: Estimate, values: dict[int, float], others: dict[int, float]) -> Estimate:
    """Add the difference over the seeds that both methods have, if any."""
    differences = [values[seed] - others[seed] for seed in sorted(values.keys() & others.keys())]
    return _with_difference(estimate, [differences]) if differences else estimate


def _with_difference(estimate: Estimate, strata: Sequence[Sequence[float]]) -> Estimate:
    """Add differences by seed, of each stratum; as many pairs count as the smallest stratum has."""
    flat = [difference for stratum in strata for difference in stratum]
    wins, losses = sum(d > 0 for d in flat), sum(d < 0 for d in flat)
    return replace(
        estimate,
        paired_by="seed",
        pairs=min(map(len, strata)),
        difference=bootstrap(strata),
        wins=wins,
        ties=len(flat) - wins - losses,
        losses=losses,
        p=sign_flip(strata),
    )


def _paired_by_deals(estimate: Estimate, before: Entry, after: Entry) -> Estimate:
    difference, wins, ties, losses = by_deals(before, after)
    pairs = wins + ties + losses
    found = replace(estimate, paired_by="deal", pairs=pairs, difference=difference, wins=wins, ties=ties, losses=losses)
    return replace(found, p=mcnemar(wins, losses))


def by_deals(before: Entry, after: Entry) -> tuple[Interval, int, int, int]:
    """Return the difference in success of two evaluations on the same deals, and the deals that only the later one won, that
    both or neither won, and that only the earlier one won.

    Raises: GtrTurboError: they played other deals.
    """
    early, late = before.episodes(), after.episodes()
    if [(turns[0].episode, turns[0].seed) for turns in early] != [(turns[0].episode, turns[0].seed) for turns in late]:
        raise GtrTurboError(f"{before.path} and {after.path} played other deals.", "evaluate both with the same --seed.")
    won = [[turns[-1].won for turns in episodes] for episodes in (early, late)]
    wins = sum(b and not a for a, b in zip(*won, strict=True))
    losses = sum(a and not b for a, b in zip(*won, strict=True))
    centre, low, high = paired_difference(*won) if len(early) > 1 else (float(wins - losses), None, None)
    return Interval(centre, low, high), wins, len(early) - wins - losses, losses


def _area(group: RunGroup, reference: RunGroup | None, metric: str, shared: Sequence[int]) -> list[Estimate]:
    values = _areas(group, metric, shared)
    estimate = Estimate(group.task, group.method, None, metric, sorted(values), bootstrap([list(values.values())]))
    if reference is None:
        return [estimate]
    return [_paired_by_seed(estimate, values, _areas(reference, metric, shared))]


def _areas(group: RunGroup, metric: str, shared: Sequence[int]) -> dict[int, float]:
    return {
        seed: area_under_curve(shared, [run.at("student")[k].metrics[AREAS[metric]] for k in shared])
        for seed, run in sorted(group.runs.items())
    }


def _over_tasks(groups: Sequence[RunGroup], baseline: str | None, last: dict[str, int]) -> list[Estimate]:
    """Average success over tasks, each at its last iteration, with seeds resampled within each task; methods that have all."""
    rates: dict[str, list[dict[int, float]]] = {}
    for method in dict.fromkeys(group.method for group in groups):
        of_method = {group.task: _values(group, "success_rate", last[group.task]) for group in groups if group.method == method}
        if of_method.keys() == last.keys():
            rates[method] = [of_method[task] or {} for task in last]
    found = []
    for method, tasks in rates.items():
        seeds = sorted({seed for values in tasks for seed in values})
        value = bootstrap([list(values.values()) for values in tasks])
        estimate = Estimate(ALL_TASKS, method, None, "success_rate", seeds, value)
        others = rates.get(baseline or "", [])
        strata = [[own[s] - other[s] for s in own if s in other] for own, other in zip(tasks, others, strict=False)]
        paired = method != baseline and strata and all(strata)
        found.append(_with_difference(estimate, strata) if paired else estimate)
    return found


# What is said beside the numbers


def _collapse_notes(group: RunGroup) -> list[str]:
    """Say which runs ended before their plan did."""
    return [
        f"{group.task}, {group.method}, seed {seed}: collapsed at iteration {run.collapsed.iteration}, {run.collapsed.stage}: "
        f"{run.collapsed.what} From there on its last evaluation counts."
        for seed, run in sorted(group.runs.items())
        if run.collapsed
    ]


def _pairing_notes(groups: Sequence[RunGroup], reference: RunGroup | None, baseline: str | None) -> list[str]:
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


def _many_note(estimates: Sequence[Estimate], last: dict[str, int]) -> list[str]:
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


def _resolution_note(each: Estimate, last: dict[str, int], baseline: str) -> str | None:
    """Say plainly that a difference at the end is not resolved."""
    final = each.task == ALL_TASKS or each.iteration == last[each.task]
    if each.metric != "success_rate" or not final or each.resolved is not False or each.difference is None:
        return None
    why = _why_not(each, each.difference)
    return f"{each.task}: the difference in success between {each.method} and {baseline} is not resolved: {why}."


def _why_not(each: Estimate, difference: Interval) -> str:
    if each.paired_by == "deal":
        return "one seed tells of other deals, not of other seeds"
    if not difference.resolved:
        return "its interval includes 0"
    return f"{each.pairs} pairs are too few" if each.pairs < fewest_pairs() else f"the exact sign-flip test has p = {each.p:.3f}"


# Teachers and cost


def _gaps(group: RunGroup) -> list[Gap]:
    """Compare each evaluated teacher with its student, per run and over the seeds."""
    found: list[Gap] = []
    for seed, run in sorted(group.runs.items()):
        students = run.at("student")
        for iteration, teacher in run.at("teacher").items():
            if iteration in students:
                difference, wins, _, losses = by_deals(students[iteration], teacher)
                found.append(Gap(group.task, group.method, iteration, seed, difference, wins, losses))
    pooled = []
    for iteration in sorted({gap.iteration for gap in found}):
        gaps = [gap for gap in found if gap.iteration == iteration]
        means = [gap.difference.mean for gap in gaps]
        wins, losses = sum(m > 0 for m in means), sum(m < 0 for m in means)
        pooled.append(Gap(group.task, group.method, iteration, None, bootstrap([means]), wins, losses))
    return [*found, *(pooled if len(group.runs) > 1 else [])]


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
