"""Which of the replies to one input are preferred: those after which more was earned."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gtrturbo.analysis.exact import ROUNDING
from gtrturbo.analysis.summary import by_episode
from gtrturbo.store.records import Turn


@dataclass(frozen=True)
class Ranked:
    """A turn, its place among all, what was earned from there on, and the size of that: the sum of it without signs."""

    row: int
    turn: Turn
    total: float
    size: float

    def is_less_than(self, other: "Ranked") -> bool:
        """Tell whether less was earned, by more than the same sum differs in another order."""
        return other.total - self.total > ROUNDING * max(self.size, other.size)


def preferred(turns: Sequence[Turn]) -> list[tuple[Ranked, Ranked]]:
    """Pair each reply with the first of the best to the same prompt and pictures, if it is worse; in the order of the turns.

    Worse is: less was earned from there on, undiscounted, by more than rounding.
    """
    replies: dict[str, list[Ranked]] = {}
    for each in _earned(turns):
        asked = json.dumps([each.turn.images, each.turn.messages[:-1]], sort_keys=True)
        replies.setdefault(asked, []).append(each)
    return sorted((pair for same in replies.values() for pair in _pairs(same)), key=lambda pair: pair[1].row)


def _earned(turns: Sequence[Turn]) -> Iterator[Ranked]:
    row = 0
    for episode in by_episode(turns):
        rewards = [turn.reward for turn in episode]
        for place, turn in enumerate(episode):
            yield Ranked(row, turn, math.fsum(rewards[place:]), math.fsum(map(abs, rewards[place:])))
            row += 1


def _pairs(same: Sequence[Ranked]) -> list[tuple[Ranked, Ranked]]:
    """Pair the first of the best replies to one input with each that is worse."""
    best = max(same, key=lambda each: each.total)
    chosen = next(each for each in same if not each.is_less_than(best))
    return [(chosen, each) for each in same if each.is_less_than(chosen) and each.turn.reply != chosen.turn.reply]
