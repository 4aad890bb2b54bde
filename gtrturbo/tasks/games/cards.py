"""Playing cards: names, values and fair draws.

A card's name is its suit letter and its rank letter, `HA`, `S7`, `DT` or `CK`, as in RL4VLM (Zhai et al., 2024).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gtrturbo.errors import GtrTurboError

SUITS = "HSDC"  # hearts, spades, diamonds, clubs
RANKS = "A23456789TJQK"


@dataclass(frozen=True)
class Card:
    """A playing card, named by two letters."""

    suit: str
    rank: str

    @property
    def name(self) -> str:
        return self.suit + self.rank

    @property
    def number(self) -> int:
        """Place among the ranks: ace 1, jack 11, queen 12, king 13."""
        return RANKS.index(self.rank) + 1

    def value(self, face_cards_as_10: bool = True) -> int:
        """Return what the card counts, an ace as 1."""
        return min(self.number, 10) if face_cards_as_10 else self.number


def shown_rank(rank: str) -> str:
    """Return a rank as it is printed on the card: the ten as `10`."""
    return "10" if rank == "T" else rank


def card_of(name: str) -> Card:
    """Return the card of a name such as `HA`.

    Raises: GtrTurboError: No card has this name.
    """
    if not isinstance(name, str) or len(name) != 2 or name[0] not in SUITS or name[1] not in RANKS:
        raise GtrTurboError(
            f"{name!r} is not a card.", f"write a suit of {', '.join(SUITS)} and a rank of {', '.join(RANKS)}: 'HA', 'S7'."
        )
    return Card(name[0], name[1])


def cards_of(names: Sequence[str], count: int) -> tuple[Card, ...]:
    """Return the cards of exactly `count` names.

    Raises: GtrTurboError: Another number of names, or no card has one of them.
    """
    if isinstance(names, str) or len(names) != count:
        raise GtrTurboError(f"a hand here is a list of {count} card names, got {names!r}.")
    return tuple(card_of(name) for name in names)


def random_suit(rng: np.random.Generator) -> str:
    """Draw one of the four suits, each equally likely."""
    return SUITS[rng.integers(len(SUITS))]


def random_card(rng: np.random.Generator) -> Card:
    """Draw a card from an endless deck: rank and suit uniform and independent."""
    rank = RANKS[rng.integers(len(RANKS))]
    return Card(random_suit(rng), rank)
