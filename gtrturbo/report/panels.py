"""The pictures of a report: which numbers each shows, where they are recorded, and what they mean."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from gtrturbo.analysis.comparison import Comparison
from gtrturbo.analysis.groups import RunGroup
from gtrturbo.analysis.history import History
from gtrturbo.analysis.intervals import Interval, bootstrap
from gtrturbo.analysis.summary import wilson
from gtrturbo.report.chart import Line, Point, Rule, curves, swatch
from gtrturbo.report.page import details, paragraph, shown, table
from gtrturbo.store.records import mean

# By iteration, one number of one run.
Recorded = dict[int, float]
RATE = (0.0, 1.0)
MISSING = "not recorded"


@dataclass(frozen=True)
class Curve:
    """A number of a run: where it is read, and what it is called where a panel shows more than one."""

    read: Callable[[History], Recorded]
    name: str = ""
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One picture: title, what it shows and what to look for, its numbers, and what its axis reaches over at least."""

    title: str
    told: str
    curves: tuple[Curve, ...]
    bounds: tuple[float, float] | None = None


def _evaluated(metric: str) -> Callable[[History], Recorded]:
    return lambda run: {k: e.metrics[metric] for k, e in run.at("student").items() if metric in e.metrics}


def _played(metric: str) -> Callable[[History], Recorded]:
    return lambda run: {k: e.metrics[metric] for k, e in run.at("rollouts").items() if metric in e.metrics}


def _merged(metric: str) -> Callable[[History], Recorded]:
    return lambda run: {k: e.metrics[metric] for k, e in run.at("teachers").items() if metric in e.metrics and k}


def _overlap(run: History) -> Recorded:
    found = {k: e.moved.overlap for k, e in run.at("teachers").items() if e.moved}
    return {k: value for k, value in found.items() if value is not None}


def updated(metric: str) -> Callable[[History], Recorded]:
    """Read a number of the updates: of the whole update where its manifest has it, else the mean over its minibatches."""

    def read(run: History) -> Recorded:
        found = {}
        for entry in run.updates():
            if metric in entry.metrics:
                found[entry.iteration] = entry.metrics[metric]
            elif rows := [row[metric] for row in entry.log() if metric in row]:
                found[entry.iteration] = mean(rows)
        return found

    return read


SUCCESS = Panel(
    "Success",
    "Share of episodes won, greedy, on the same deals for every checkpoint.",
    (Curve(_evaluated("success_rate")),),
    RATE,
)
RETURN = Panel("Return", "Mean undiscounted return of the same episodes.", (Curve(_evaluated("return_mean")),))
OUTCOMES = (SUCCESS, RETURN)
COLLAPSE = (
    Panel(
        "Thought accuracy",
        "Share of turns whose reply states what the picture shows. Collapsed thoughts do not.",
        (Curve(_evaluated("thought_accuracy")),),
        RATE,
    ),
    Panel(
        "Replies that do not parse",
        "Solid: no legal action could be read. Dashed: not even a JSON object.",
        (Curve(_evaluated("illegal_rate"), "illegal"), Curve(_evaluated("invalid_rate"), "invalid", dashed=True)),
        (0.0, 0.05),
    ),
    Panel(
        "Self-BLEU of thoughts",
        "How alike thoughts on different inputs are, BLEU-4 in [0, 1]. One template for all gives 1.",
        (Curve(_evaluated("self_bleu")),),
        RATE,
    ),
    Panel(
        "What a thought tells about its input",
        "Nats, a bound from below on mutual information; at most the logarithm of the inputs compared (16: 2.77). 0: thoughts "
        "ignore the picture, however diverse they are.",
        (Curve(_evaluated("thought_information")),),
    ),
    Panel(
        "Entropy of thoughts",
        "Nats per thought token at the sampling temperature, from the log-probs of sampled rollouts.",
        (Curve(_played("thought_entropy")),),
    ),
    Panel("Length of thoughts", "Mean characters per thought.", (Curve(_evaluated("thought_length")),)),
)
UPDATES = (
    Panel(
        "KL to the teacher",
        "Nats per thought token, or per token with --kl-tokens reply. Solid: as it counts (clipped at 0 in the paper). "
        "Dashed: raw, which may be negative.",
        (Curve(updated("kl_mean"), "counted"), Curve(updated("kl_k1_mean"), "raw", dashed=True)),
    ),
    Panel("Clip fraction", "Share of turns without policy gradient.", (Curve(updated("clip_fraction")),), RATE),
    Panel(
        "Probability ratio: 5th to 95th percentile",
        "Of a turn's probability after and before a step, mean over an update's minibatches. Dashed: 5th.",
        (Curve(updated("ratio_p95"), "95 %"), Curve(updated("ratio_p05"), "5 %", dashed=True)),
    ),
    Panel(
        "Probability ratio: extremes",
        "Largest and (dashed) smallest of an update.",
        (Curve(updated("ratio_max"), "largest"), Curve(updated("ratio_min"), "smallest", dashed=True)),
    ),
    Panel(
        "Value error",
        "Root mean squared error of the value head before the update, in units of reward.",
        (Curve(updated("value_error")),),
    ),
    Panel(
        "Explained variance of returns",
        "1: the value head predicts returns perfectly; 0: no better than a constant.",
        (Curve(updated("explained_variance")),),
    ),
    Panel(
        "Gap between sampler and trainer",
        "Mean difference of the sampler's and the trainer's log-probs, nats per token; rounding where both are one model.",
        (Curve(updated("sampler_trainer_gap_mean")),),
    ),
    Panel("Change of the policy", "KL of the policy before to after an update, nats per turn.", (Curve(updated("approx_kl")),)),
)
TEACHER = (
    Panel(
        "‖ΔW‖ of the teacher",
        "Norm of the teacher's change from the base over that of the mean change of its checkpoints. Near 1 is healthy; 1/n for "
        "n checkpoints would be a known defect.",
        (Curve(_merged("norm_ratio")),),
    ),
    Panel("Cosine of the teacher", "Between its change and the mean change of its checkpoints.", (Curve(_merged("cosine")),)),
    Panel(
        "Conflict and overlap of the checkpoints",
        "Solid: share of entries with votes for both signs. Dashed: how far the checkpoints changed the same entries; 0: none "
        "was changed by two; 1: each by all.",
        (Curve(_merged("conflicts"), "conflict"), Curve(_overlap, "overlap", dashed=True)),
        RATE,
    ),
)


def figures(name: str, panels: Iterable[Panel], groups: Sequence[RunGroup], *, rules: dict[str, list[Rule]]) -> list[str]:
    """Draw panels; `rules` are levels by panel title."""
    return [_figure(f"{name}-{place}", panel, groups, rules) for place, panel in enumerate(panels)]


def _figure(name: str, panel: Panel, groups: Sequence[RunGroup], rules: dict[str, list[Rule]]) -> str:
    lines = [line for curve in panel.curves for line in _lines(curve, groups) if line.points]
    head = f"<figcaption>{shown(panel.title)}</figcaption>"
    if not lines:
        return f"<figure>{head}{paragraph(panel.told, kind='faint')}{paragraph(MISSING)}</figure>"
    absent = [
        group.method for group in groups if not any(line.style == place for line in lines for place in [groups.index(group)])
    ]
    note = paragraph(f"{MISSING}: {', '.join(absent)}", kind="faint") if absent else ""
    picture = curves(name, panel.title, lines, rules=rules.get(panel.title, []), bounds=panel.bounds)
    return f"<figure>{head}{paragraph(panel.told, kind='faint')}{legend(lines)}{picture}{note}{numbers(lines)}</figure>"


def _lines(curve: Curve, groups: Sequence[RunGroup]) -> list[Line]:
    return [
        Line(" ".join(filter(None, [group.method, curve.name])), _points(curve, group), place, curve.dashed)
        for place, group in enumerate(groups)
    ]


def _points(curve: Curve, group: RunGroup) -> list[Point]:
    """Average over the seeds at those iterations that all of them have."""
    recorded = [curve.read(run) for run in group.runs.values()]
    shared = sorted(set.intersection(*map(set, recorded)))
    return [_point(iteration, curve, group, [run[iteration] for run in recorded]) for iteration in shared]


def _point(iteration: int, curve: Curve, group: RunGroup, values: list[float]) -> Point:
    interval = bootstrap([values])
    if len(values) == 1 and curve is SUCCESS.curves[0]:
        entry = next(iter(group.runs.values())).at("student")[iteration]
        if entry.collapsed is None:
            episodes = int(entry.metrics["episodes"])
            interval = Interval(values[0], *wilson(round(values[0] * episodes), episodes))
    return Point(iteration, interval.mean, interval.low, interval.high)


def legend(lines: Sequence[Line]) -> str:
    """Name the curves beside samples of them."""
    return f'<ul class="legend">{"".join(f"<li>{swatch(line)}{shown(line.name)}</li>" for line in lines)}</ul>'


def numbers(lines: Sequence[Line]) -> str:
    """Give the numbers of a picture as a table."""
    places = sorted({point.x for line in lines for point in line.points})
    by_line = [{point.x: point for point in line.points} for line in lines]
    rows = [[f"{x:g}", *(_cell(points.get(x)) for points in by_line)] for x in places]
    return details("numbers", table("by iteration", ["iteration", *(line.name for line in lines)], rows))


def _cell(point: Point | None) -> str:
    if point is None:
        return "–"
    interval = "" if point.low is None or point.high is None else f" [{point.low:.4g}, {point.high:.4g}]"
    return f"{point.y:.4g}{interval}"


def gap_figure(name: str, task: str, groups: Sequence[RunGroup], result: Comparison) -> str:
    """Draw teacher minus student in success, per method, with the interval over seeds, or over deals of a single run."""
    gaps = [gap for gap in result.gaps if gap.task == task]
    lines = []
    for place, group in enumerate(groups):
        own = [gap for gap in gaps if gap.method == group.method and (gap.seed is None) == (len(group.runs) > 1)]
        points = [Point(g.iteration, g.difference.mean, g.difference.low, g.difference.high) for g in own]
        lines += [Line(group.method, points, place)] if points else []
    told = "Success of the merged teacher less that of its newest student, on the same deals. Above 0 the teacher is better."
    head = f"<figcaption>Teacher − student</figcaption>{paragraph(told, kind='faint')}"
    if not lines:
        return f"<figure>{head}{paragraph(f'{MISSING}: run with --eval-teachers')}</figure>"
    picture = curves(name, "Teacher − student", lines, rules=[Rule("no difference", 0.0)], bounds=None)
    fewer = [
        f"{gap.method} at iteration {gap.iteration} over {gap.whose}" for gap in gaps if gap.seed is None and gap.seeds < gap.of
    ]
    note = paragraph(f"Not over all seeds: {'; '.join(fewer)}.", kind="faint") if fewer else ""
    return f"<figure>{head}{legend(lines)}{picture}{note}{numbers(lines)}</figure>"
