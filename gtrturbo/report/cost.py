"""Where the time of a run went, and what an outside teacher would have cost in place of the merged one."""

from collections.abc import Sequence

from gtrturbo.analysis.comparison import Comparison, spendings
from gtrturbo.analysis.groups import RunGroup
from gtrturbo.analysis.history import Entry, History
from gtrturbo.analysis.spending import cost_table
from gtrturbo.config.prices import Prices
from gtrturbo.report.chart import bars
from gtrturbo.report.page import details, listing, paragraph, shown, table
from gtrturbo.store.records import mean
from gtrturbo.store.turns import has_tokens, read_turn_tokens

STAGES = ("rollout", "ppo-step", "merge", "distill", "eval", "teacher eval", "warm start")


def time_figure(name: str, groups: Sequence[RunGroup]) -> str:
    """Draw seconds by stage, the mean over a method's seeds."""
    rows = [(group.method, [(stage, _mean_seconds(group, stage)) for stage in STAGES]) for group in groups]
    legend = "".join(f'<li><span class="block p{place}"></span>{shown(stage)}</li>' for place, stage in enumerate(STAGES))
    cells = [[method, *(f"{value:.1f}" for _, value in parts)] for method, parts in rows]
    head = "<figcaption>Seconds by stage</figcaption>" + paragraph("Wall clock, mean over seeds.", kind="faint")
    picture = bars(name, "Seconds by stage", rows, "s")
    numbers = details("numbers", table("seconds per run", ["method", *STAGES], cells))
    return f'<figure class="slim">{head}<ul class="legend">{legend}</ul>{picture}{numbers}</figure>'


def _mean_seconds(group: RunGroup, stage: str) -> float:
    return mean(run.seconds.get(stage, 0.0) for run in group.runs.values())


def teacher_costs(task: str, result: Comparison) -> str:
    """Tabulate what the teachers of a task's runs were asked and cost; nothing where nobody was asked and nothing has a price."""
    head, rows, dated = cost_table(spendings(result, task))
    return table(f"What the teacher was asked and cost, per run{dated}", head, rows) if rows else ""


def outside_teacher(groups: Sequence[RunGroup], prices: Prices) -> str:
    """Tabulate what an API teacher would have been asked, and its price beside that of the merged teacher's seconds."""
    rows = [_cost_row(group, prices) for group in groups]
    money = [f"API, {prices.currency}"] * (prices.per_call is not None or prices.per_million_tokens is not None)
    own = [f"own teacher, {prices.currency}"] * (prices.per_hour is not None)
    head = ["method", "calls", "million tokens", "teacher seconds", "share of the loop", *money, *own]
    return table("An outside teacher in place of the run's own, per run", head, rows) + listing(
        _assumptions(prices), kind="faint"
    )


def _cost_row(group: RunGroup, prices: Prices) -> list[str]:
    runs = list(group.runs.values())
    asked = [_asked(run) for run in runs]
    calls, tokens = mean(calls for calls, _ in asked), mean(tokens for _, tokens in asked)
    seconds, loop = mean(run.teacher_seconds for run in runs), mean(run.training_seconds for run in runs)
    row = [group.method, f"{calls:,.0f}", f"{tokens / 1e6:.3f}", f"{seconds:.1f}", f"{seconds / loop:.0%}" if loop else ""]
    if prices.per_call is not None or prices.per_million_tokens is not None:
        row.append(f"{calls * (prices.per_call or 0) + tokens / 1e6 * (prices.per_million_tokens or 0):,.2f}")
    if prices.per_hour is not None:
        row.append(f"{seconds / 3600 * prices.per_hour:,.4f}")
    return row


def _asked(run: History) -> tuple[int, int]:
    """Count the turns that were trained on, and the tokens of their prompts and replies."""
    played = [_count(entry) for entry in run.entries["rollouts"]]
    return sum(calls for calls, _ in played), sum(tokens for _, tokens in played)


def _count(entry: Entry) -> tuple[int, int]:
    if not has_tokens(entry.path):
        return int(entry.metrics.get("turns", 0)), 0
    turns = entry.turns()
    tokens = read_turn_tokens(entry.path, turns)
    return len(turns), sum(map(len, [*tokens.prompt_ids, *tokens.response_ids]))


def _assumptions(prices: Prices) -> list[str]:
    said = [
        "Assumed: one call per turn of every rollout, which reads the student's prompt with its picture and writes as much "
        "as the student did; tokens as this run's model counts them, pictures included; no retries."
    ]
    if prices.per_call is not None:
        said.append(f"Price per call: {prices.per_call:g} {prices.currency}, as given.")
    if prices.per_million_tokens is not None:
        said.append(
            f"Price per million tokens, read and written alike: {prices.per_million_tokens:g} {prices.currency}, as given."
        )
    if prices.per_call is None and prices.per_million_tokens is None:
        said.append("No price was named: --price call=… or --price million-tokens=… gives the cost of an API teacher.")
    if prices.per_hour is not None:
        rate = f"{prices.per_hour:g} {prices.currency} per hour of this machine"
        said.append(f"Own teacher: seconds of merge and distill at {rate}, as given.")
    return said
