"""Which deals are for panels alone: a fifth of them, told from the others by their content, and never dealt otherwise.

Episodes are seeded with 32 bits. The seeds of panels begin above them, so that an environment knows by its seed what it may deal.
Environments of others need not take larger ones: their panels have the last of 32 bits, with which no other episode is seeded.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TypeVar
from zlib import crc32

from gtrturbo.errors import GtrTurboError

Deal = TypeVar("Deal")
PANEL_SEEDS = 1 << 32
PANEL_EPISODES = 200
PLAIN_PANEL_SEEDS = PANEL_SEEDS - PANEL_EPISODES
HELD_OUT = 5  # One deal in so many.
MOST_DRAWS = 2000
LOOKED_AT = 200  # Deals that are drawn to tell whether there are enough of both kinds,
OF_EACH = 3  # and so many different ones of each are enough: one that is rarer than a hundredth is no kind to wait for.


def episode_seed(number: int) -> int:
    """Make any number a seed of an episode that is none of a panel's."""
    return number % PANEL_SEEDS % PLAIN_PANEL_SEEDS


def plain_panel_seeds() -> Sequence[int]:
    """Return the seeds of the panel of an environment that takes 32 bits."""
    return range(PLAIN_PANEL_SEEDS, PANEL_SEEDS)


def is_for_panels(seed: int | None) -> bool:
    """Tell whether a seed is one of a panel's."""
    return seed is not None and seed >= PANEL_SEEDS


def held_out(deal: str) -> bool:
    """Tell whether a deal, written down, is one of the fifth that is for panels alone."""
    return crc32(deal.encode()) % HELD_OUT == 0


def panel_seeds(place: int = 0, episodes: int = PANEL_EPISODES) -> Sequence[int]:
    """Return the seeds of a task's panel; panels of different places have no seed in common."""
    first = PANEL_SEEDS * (1 + place)
    return range(first, first + episodes)


def panel_of(seed: int | None) -> int | None:
    """Return the place of the panel that a seed belongs to; None of an episode that is none of a panel's."""
    return seed // PANEL_SEEDS - 1 if seed is not None and is_for_panels(seed) else None


def draw_until(
    draw: Callable[[], Deal], written: Callable[[Deal], str], *, for_panels: bool, draws: int = MOST_DRAWS, or_any: bool = False
) -> Deal:
    """Draw again until the deal is one that panels have to themselves, or one of the others.

    Args:
        draw, written: draw a deal, and write it down.
        for_panels: which of the two.
        draws: give up after so many.
        or_any: return the last one then.

    Raises: GtrTurboError: none was among so many.
    """
    deal = draw()
    for _ in range(draws):
        if held_out(written(deal)) is for_panels:
            return deal
        deal = draw()
    if or_any:
        return deal
    kind = "is one that panels have to themselves" if for_panels else "is one that panels leave to others"
    raise GtrTurboError(f"of {draws} deals that were drawn none {kind}: there are too few.", "take options that deal more.")


def has_both(deals: Iterable[str]) -> bool:
    """Tell whether there are enough deals, written down as they are drawn, for panels to have some to themselves."""
    kinds: dict[bool, set[str]] = {True: set(), False: set()}
    for deal in islice(deals, LOOKED_AT):
        kinds[held_out(deal)].add(deal)
        if min(map(len, kinds.values())) >= OF_EACH:
            return True
    return False
