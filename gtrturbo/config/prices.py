"""Prices, as a user names them for a report."""

from dataclasses import dataclass

from gtrturbo.config.bounds import NOT_NEGATIVE
from gtrturbo.config.digits import real
from gtrturbo.errors import GtrTurboError

NAMES = {"call": "per_call", "million-tokens": "per_million_tokens", "hour": "per_hour"}
CURRENCY = "currency"


@dataclass(frozen=True)
class Prices:
    """Prices by which a teacher is counted; None: not named.

    Attributes:
        per_call, per_million_tokens: of an API teacher; tokens read and written alike.
        per_hour: of this machine.
        currency: of all three.
    """

    per_call: float | None = None
    per_million_tokens: float | None = None
    per_hour: float | None = None
    currency: str = "USD"


def prices_of(named: tuple[str, ...]) -> Prices:
    """Read prices from texts KEY=VALUE; the last of a key counts.

    Raises:
        GtrTurboError: no such key, or a value that is no price.
    """
    found: dict[str, float] = {}
    currency = Prices.currency
    for text in named:
        name, equals, value = text.partition("=")
        if not equals or name not in (*NAMES, CURRENCY) or not value.strip():
            raise GtrTurboError(f"--price {text} is not KEY=VALUE.", f"keys: {', '.join((*NAMES, CURRENCY))}.")
        if name == CURRENCY:
            currency = value.strip()
        elif (number := real(value.strip())) is None or number not in NOT_NEGATIVE:
            raise GtrTurboError(f"--price {name} must be a number {NOT_NEGATIVE}, got {value}.")
        else:
            found[NAMES[name]] = number
    return Prices(**found, currency=currency)
