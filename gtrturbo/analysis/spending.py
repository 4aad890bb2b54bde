"""What the teachers of a run were asked and cost: calls and tokens of those on servers, the time of those that are computed here.

All answers that were used count, each as if it had been asked for alone; beside them stand the calls that the run paid for, which
are fewer where the same was asked twice, or in an earlier run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gtrturbo.analysis.history import Entry, History
from gtrturbo.config.addresses import served_model
from gtrturbo.errors import GtrTurboError
from gtrturbo.play.teaching.budget import read_ledger
from gtrturbo.store.json_files import read_json
from gtrturbo.store.names import LEDGER, TEACHER, TIMING
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
        calls, tokens: answers of models on servers that were used, and their tokens.
        money: for these; None where no price is known.
        paid_calls, waited, paid: calls that the run paid for, their seconds, which overlap, and their money.
        seconds: of merges and annotations, by the clock.
        machine: money for the seconds; None where an hour has no price.
        currency, dated: of prices; empty where there are none.
    """

    calls: int
    tokens: TokenCounts
    money: float | None
    paid_calls: int
    waited: float
    paid: float | None
    seconds: float
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
        prices: by which to count; if None as the run told when it was made.

    Raises:
        GtrTurboError: the prices lack a model that was asked, or there are none and the run was paid by several.
    """
    entries = [entry for name in ("guidance", "demos") for entry in run.entries[name] if read_asked(entry.path)]
    asked = [each for entry in entries for each in read_asked(entry.path)]
    paid = read_ledger(run.path / LEDGER)
    if prices:
        money = _sum([prices.of(_model(each)).of(each.calls, each.tokens) for each in asked])
        spent = _sum([prices.of(call.model).of(1, call.tokens) for call in paid])
        currency, dated = prices.currency, prices.dated.isoformat()
    else:
        told = [_timing(entry) for entry in entries]
        money, spent = _sum([each.get("cost") for each in told]), _sum([call.cost for call in paid])
        named = [(str(each["currency"]), str(each["prices_dated"])) for each in told if "cost" in each]
        currency, dated = _one_of(named, f"{run.path} was paid")
    hour = prices.hour if prices else None
    return Spending(
        calls=sum(each.calls for each in asked),
        tokens=sum((each.tokens for each in asked), TokenCounts()),
        money=money,
        paid_calls=len(paid),
        waited=sum(call.seconds for call in paid),
        paid=spent,
        seconds=run.teacher_seconds,
        machine=None if hour is None else run.teacher_seconds / HOUR * hour,
        currency=currency,
        dated=dated,
    )


def _model(asked: Asked) -> str:
    return served_model(asked.teacher) or ""


def _sum(values: Sequence[object]) -> float | None:
    """Add money up; None where one of it is not known."""
    known = [float(value) for value in values if is_number(value)]  # type: ignore[arg-type]
    return sum(known) if len(known) == len(values) else None


def prices_told(runs: Sequence[Spending]) -> tuple[str, str]:
    """Return the currency and the day of the prices by which runs count; empty where none has any.

    Raises:
        GtrTurboError: they are several, which are not to be added up.
    """
    return _one_of([(each.currency, each.dated) for each in runs if each.currency], "these runs were paid")


def _one_of(named: Sequence[tuple[str, str]], who: str) -> tuple[str, str]:
    found = list(dict.fromkeys(named))
    if len(found) > 1:
        told = " and ".join(f"{currency} of {dated}" for currency, dated in found)
        raise GtrTurboError(f"{who} by several prices: {told}.", "add: --prices FILE.yaml")
    return next(iter(found), ("", ""))


def _timing(entry: Entry) -> dict[str, object]:
    file = entry.path / TIMING
    return read_timing(file) if file.exists() else {}


def cost_table(costs: Sequence[tuple[str, Sequence[Spending]]]) -> tuple[list[str], list[list[str]], str]:
    """Lay out means over the runs of each method: a head, rows, and words that tell of which day prices are.

    There are no rows where nobody was asked and nothing has a price.

    Raises:
        GtrTurboError: the runs count by several prices.
    """
    every = [each for _, runs in costs for each in runs]
    currency, dated = prices_told(every)
    priced, hours = bool(currency), any(each.machine is not None for each in every)
    if not priced and not any(each.calls for each in every):
        return [], [], ""
    head = ["method", "answers", "tokens in", "cached", "out", *[f"worth, {currency}"] * priced]
    head += ["paid calls", *[f"paid, {currency}"] * priced, "teacher s", *[f"machine, {currency}"] * hours]
    rows = [_cells(name, runs, priced=priced, hours=hours) for name, runs in costs]
    return head, rows, f", prices of {dated}" if priced else ""


def _cells(name: str, runs: Sequence[Spending], *, priced: bool, hours: bool) -> list[str]:
    tokens = sum((each.tokens for each in runs), TokenCounts())
    counts = [sum(each.calls for each in runs), tokens.input, tokens.cached, tokens.output]
    cells = [name, *(f"{count / len(runs):,.0f}" for count in counts), *[_mean([each.money for each in runs])] * priced]
    cells += [f"{sum(each.paid_calls for each in runs) / len(runs):,.0f}", *[_mean([each.paid for each in runs])] * priced]
    return [*cells, f"{sum(each.seconds for each in runs) / len(runs):.1f}", *[_mean([each.machine for each in runs])] * hours]


def _mean(values: Sequence[float | None]) -> str:
    total = _sum(values)
    return "unknown" if total is None else f"{total / len(values):,.4f}"
