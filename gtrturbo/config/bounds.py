"""Which numbers a setting may be, in one table: every range has two ends, so that no number is too large to be worked with.

Where a number sizes something in memory, the upper end is what a large machine holds; elsewhere it is far above what makes sense.
"""

from dataclasses import dataclass
from typing import Any

from gtrturbo.config.digits import real, whole


@dataclass(frozen=True)
class Between:
    """Bounds of a number, checked when a config is made. `zero`: it may be 0 besides."""

    low: float
    high: float
    low_open: bool = False
    zero: bool = False

    def __contains__(self, number: Any) -> bool:
        above = number > self.low if self.low_open else number >= self.low
        return (above and number <= self.high) or (self.zero and number == 0)

    def __str__(self) -> str:
        told = f"{'(' if self.low_open else '['}{_told(self.low)}, {_told(self.high)}]"
        return f"0, or in {told}" if self.zero else f"in {told}"


@dataclass(frozen=True)
class WordOrWhole:
    """What a setting may be that is a word, or a whole number of at least 1."""

    word: str
    high: int

    def __contains__(self, value: Any) -> bool:
        number = whole(value)
        return value == self.word or (number is not None and 1 <= number <= self.high)

    def __str__(self) -> str:
        return f"{self.word}, or a whole number in [1, {self.high}]"


@dataclass(frozen=True)
class EachBetween(Between):
    """Bounds of every number in a text such as 0.8 or 0.8,0.5."""

    def __contains__(self, text: Any) -> bool:
        numbers = [real(number.strip()) for number in str(text).split(",")]
        return all(number is not None and super(EachBetween, self).__contains__(number) for number in numbers)


def _told(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


# Of settings.
FRACTION = Between(0, 1)
POSITIVE = Between(0, 1e9, low_open=True)
NOT_NEGATIVE = Between(0, 1e9)
AT_LEAST_ONE = Between(1, 10**9)
COUNT = Between(0, 10**9)
ANY = Between(-1e9, 1e9)
CLIP = Between(0, 0.99, low_open=True)
SEED = Between(0, 2**64 - 1)
# Below, logits over it are infinite in float32.
TEMPERATURE = Between(1e-6, 1e6)
TEMPERATURE_OR_ZERO = Between(1e-6, 1e6, zero=True)
RANK = Between(0, 65_536)
TOKENS = Between(1, 1_048_576)
SIDE_BY_SIDE = Between(1, 65_536)
THREADS = Between(1, 4_096)
ITERATIONS = Between(0, 100_000)  # a plan lists them all
TRIES = Between(0, 1_000)
