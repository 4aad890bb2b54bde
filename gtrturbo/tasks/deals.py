"""Which deals are for panels alone: a fifth of them, told from the others by their content, and never dealt otherwise.

Episodes are seeded with 32 bits. The seeds of panels begin above them, so that an environment knows by its seed what it may deal.
Environments of others need not take larger ones: their panels have the last of 32 bits, with which no other episode is seeded.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar
from zlib import crc32

Deal = TypeVar("Deal")
PANEL_SEEDS = 1 << 32
PANEL_EPISODES = 200
PLAIN_PANEL_SEEDS = PANEL_SEEDS - PANEL_EPISODES
HELD_OUT = 5  # One deal in so many.
MOST_DRAWS = 200  # A task of fewer deals than that takes gives its panels what there is.


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


def draw_until(draw: Callable[[], Deal], written: Callable[[Deal], str], *, for_panels: bool) -> Deal:
    """Draw again until the deal is one that panels have to themselves, or one of the others.

    Where none is among the first 200, as in a task of a few deals, the last that was drawn is returned.
    """
    deal = draw()
    for _ in range(MOST_DRAWS):
        if held_out(written(deal)) is for_panels:
            break
        deal = draw()
    return deal
