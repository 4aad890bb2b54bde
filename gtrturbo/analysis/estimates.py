"""A number of one method at one iteration, and how it differs from another method's: by seed, or by deal where both have one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gtrturbo.analysis.exact import LEVEL, fewest_pairs, mcnemar, sign_flip
from gtrturbo.analysis.groups import RunGroup
from gtrturbo.analysis.history import Entry
from gtrturbo.analysis.intervals import Interval, area_under_curve, bootstrap
from gtrturbo.analysis.summary import paired_difference, wilson
from gtrturbo.errors import GtrTurboError

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


def estimates_of(groups: Sequence[RunGroup], reference: RunGroup | None, shared: Sequence[int]) -> list[Estimate]:
    """Estimate all numbers of the groups of one task at the iterations that they share, and how they differ from a reference."""
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
        # Of one seed, success alone is a number of single deals that has an interval. A collapsed run played none of them.
        before, after = (each.runs[common[0]].at("student")[iteration] for each in (reference, group))
        if before.collapsed is None and after.collapsed is None:
            return [_paired_by_deals(estimate, before, after)]
    return [_paired_by_seed(estimate, values, others)]


def _values(group: RunGroup, metric: str, iteration: int) -> dict[int, float] | None:
    metrics = {seed: run.at("student")[iteration].metrics for seed, run in sorted(group.runs.items())}
    return {seed: each[metric] for seed, each in metrics.items()} if all(metric in each for each in metrics.values()) else None


def _interval(group: RunGroup, values: dict[int, float], metric: str, iteration: int) -> Interval:
    if len(values) > 1 or metric != "success_rate":
        return bootstrap([list(values.values())])
    entry = next(iter(group.runs.values())).at("student")[iteration]
    if entry.collapsed is not None:
        return Interval(entry.metrics[metric], None, None)
    episodes = int(entry.metrics["episodes"])
    return Interval(entry.metrics[metric], *wilson(round(entry.metrics[metric] * episodes), episodes))


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
    curves = {seed: run.curve(AREAS[metric], shared) for seed, run in sorted(group.runs.items())}
    return {seed: area_under_curve(list(curve), list(curve.values())) for seed, curve in curves.items()}


def over_tasks(groups: Sequence[RunGroup], baseline: str | None, last: dict[str, int]) -> list[Estimate]:
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
