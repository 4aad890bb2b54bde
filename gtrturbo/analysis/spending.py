"""What the teachers of a run were asked and cost: calls and tokens of those on servers, the time of those that are computed here.

All answers that were used count, also those that an earlier run had paid for: a run is told as if it had been alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gtrturbo.analysis.history import Entry, History
from gtrturbo.config.addresses import served_model
from gtrturbo.errors import GtrTurboError
from gtrturbo.store.json_files import read_json
from gtrturbo.store.names import TEACHER, TIMING
from gtrturbo.store.prices import PriceList, TokenCounts
from gtrturbo.store.strict_json import is_number
from gtrturbo.store.timing import read_timing

HOUR = 3600


@dataclass(frozen=True)
class Asked:
    """What an artifact says of a teacher that was asked in words."""

    teacher: str
    calls: int = 0
    tokens: TokenCounts = field(default_factory=TokenCounts)


@dataclass(frozen=True)
class Spending:
    """What a run's teachers came to.

    Attributes:
        calls, tokens: of models on servers.
        waited: seconds of their answers, summed; several are under way at once.
        seconds: of merges and annotations, by the clock.
        money: for calls and tokens; None where no price is known.
        machine: money for the seconds; None where an hour has no price.
        currency, dated: of prices; empty where there are none.
    """

    calls: int
    tokens: TokenCounts
    waited: float
    seconds: float
    money: float | None
    machine: float | None
    currency: str = ""
    dated: str = ""


def read_asked(path: Path) -> list[Asked]:
    """Read which models on servers an artifact asked; none where nobody was.

    Raises:
        GtrTurboError: the file that says it is damaged.
    """
    file = path / TEACHER
    if not file.exists():
        return []
    found = read_json(file, list[Asked], mend="make the artifact again with --overwrite: what was answered is kept.")
    return [each for each in found if served_model(each.teacher) is not None]


def spending_of(run: History, prices: PriceList | None) -> Spending:
    """Add up what the teachers of a run were asked.

    Args:
        prices: by which to count; if None as each artifact told when it was made.

    Raises:
        GtrTurboError: the prices lack a model that was asked.
    """
    entries = [entry for entry in run.entries["guidance"] if read_asked(entry.path)]
    asked = [each for entry in entries for each in read_asked(entry.path)]
    timings = [_timing(entry) for entry in entries]
    told = [timing.get("cost") for timing in timings]
    if prices:
        money = sum(prices.of(_model(each)).of(each.calls, each.tokens) for each in asked)
    else:
        money = sum(map(float, told)) if all(map(is_number, told)) else None  # type: ignore[arg-type]
    named = {(str(timing["currency"]), str(timing["prices_dated"])) for timing in timings if "currency" in timing}
    if prices is None and len(named) > 1:
        raise GtrTurboError(f"{run.path} was paid by prices of several days.", "add: --prices FILE.yaml")
    currency, dated = (prices.currency, prices.dated.isoformat()) if prices else next(iter(named), ("", ""))
    hour = prices.hour if prices else None
    return Spending(
        calls=sum(each.calls for each in asked),
        tokens=sum((each.tokens for each in asked), TokenCounts()),
        waited=sum(float(timing.get("teacher_seconds", 0.0)) for timing in timings),
        seconds=run.teacher_seconds,
        money=money,
        machine=None if hour is None else run.teacher_seconds / HOUR * hour,
        currency=currency,
        dated=dated,
    )


def _model(asked: Asked) -> str:
    return served_model(asked.teacher) or ""


def _timing(entry: Entry) -> dict[str, object]:
    file = entry.path / TIMING
    return read_timing(file) if file.exists() else {}


def cost_table(costs: Sequence[tuple[str, Sequence[Spending]]]) -> tuple[list[str], list[list[str]]]:
    """Lay out means over the runs of each method: a head and rows; a column that nobody has a number for is left out."""
    every = [each for _, runs in costs for each in runs]
    currency = next((each.currency for each in every if each.currency), "")
    priced, hours = any(each.currency for each in every), any(each.machine is not None for each in every)
    head = ["method", "calls", "tokens in", "cached", "tokens out", "teacher seconds"]
    head += [f"server, {currency}"] * priced + [f"machine, {currency}", f"together, {currency}"] * hours
    return head, [_cells(name, runs, priced=priced, hours=hours) for name, runs in costs]


def _cells(name: str, runs: Sequence[Spending], *, priced: bool, hours: bool) -> list[str]:
    tokens = sum((each.tokens for each in runs), TokenCounts())
    counts = [sum(each.calls for each in runs), tokens.input, tokens.cached, tokens.output]
    money, machine = _mean([each.money for each in runs]), _mean([each.machine for each in runs])
    together = None if money is None or machine is None else money + machine
    cells = [name, *(f"{count / len(runs):,.0f}" for count in counts), f"{sum(each.seconds for each in runs) / len(runs):.1f}"]
    return cells + [_money(money)] * priced + [_money(machine), _money(together)] * hours


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(values) if len(known) == len(values) else None


def _money(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.4f}"
