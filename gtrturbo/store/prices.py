"""What models on servers cost, by a file of the user's own, which says of which day its prices are."""

from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from gtrturbo.config.yaml_files import read_yaml
from gtrturbo.errors import GtrTurboError
from gtrturbo.store.json_files import told

MILLION = 1e6
Money = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
AS_IN = "write it as (documentation: teachers) dated: 2026-01-31, currency: USD, models: {NAME: {input: 2.5, output: 10}}"


@dataclass(frozen=True)
class TokenCounts:
    """TokenCounts of calls: read, of these those that the server had read before, and written."""

    input: int = 0
    cached: int = 0
    output: int = 0

    def __add__(self, other: "TokenCounts") -> "TokenCounts":
        return TokenCounts(self.input + other.input, self.cached + other.cached, self.output + other.output)


@dataclass(frozen=True)
class Price:
    """What a model costs: per million tokens read, written, and read again (as those read if not given), and per call."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    input: Money
    output: Money
    cached: Money | None = None
    call: Money = 0.0

    def of(self, calls: int, tokens: TokenCounts) -> float:
        """Return what calls cost: Σ tokens × price / 10⁶, the cached ones of the input at their own price, + calls × price."""
        again = self.input if self.cached is None else self.cached
        fresh = max(0, tokens.input - tokens.cached)
        return (fresh * self.input + tokens.cached * again + tokens.output * self.output) / MILLION + calls * self.call


@dataclass(frozen=True)
class PriceList:
    """Prices by the model's name, as it is asked for, and of an hour of the machine that trains."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    dated: date
    currency: Annotated[str, Field(min_length=1, max_length=16)]
    models: dict[str, Price] = field(default_factory=dict)
    hour: Money | None = None

    def of(self, model: str) -> Price:
        """Return the price of a model.

        Raises:
            GtrTurboError: there is none of it.
        """
        if model not in self.models:
            known = ", ".join(self.models) or "none"
            raise GtrTurboError(f"--prices says nothing of {model}.", f"add it there; it has: {known}.")
        return self.models[model]


def read_prices(file: Path | None) -> PriceList | None:
    """Read a file of prices; None where none is named.

    Raises:
        GtrTurboError: it holds something else, or a price below 0.
    """
    if file is None:
        return None
    try:
        return TypeAdapter(PriceList).validate_python(read_yaml(file))
    except ValidationError as error:
        raise GtrTurboError(f"{file} is no list of prices: {told(error)}.", AS_IN) from None
