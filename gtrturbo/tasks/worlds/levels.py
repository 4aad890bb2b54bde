"""Levels of Sokoban: what may happen in one, how far each state is from being solved, and levels of a stated difficulty.

A room is its walls and targets; a state is where the boxes and the player stand. Of states that differ in where the player stands
alone, and from which one can walk to the other, all are equally far: `region` stands for them.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from gtrturbo.errors import GtrTurboError
from gtrturbo.tasks.worlds.moves import MOVES

Cell = tuple[int, int]
Boxes = frozenset[Cell]
Reached = tuple[Boxes, Cell]
WALLS_WITHIN = 0.15  # Share of the cells inside that become walls.
MOST_ROOMS = 2000
MOST_SEARCHED = 250_000  # States of rooms together, half a minute of a core.


@dataclass(frozen=True)
class Room:
    """Walls and targets; `floor` are the cells where something may stand."""

    size: int
    floor: frozenset[Cell]
    targets: frozenset[Cell]


@dataclass(frozen=True)
class Level:
    """A state of a room."""

    room: Room
    boxes: Boxes
    player: Cell

    @property
    def solved(self) -> bool:
        return self.boxes == self.room.targets

    @property
    def lines(self) -> list[str]:
        """Write it down as is usual: # wall, . target, $ box, * box on a target, @ player, + player on a target."""
        return ["".join(self._mark((row, column)) for column in range(self.room.size)) for row in range(self.room.size)]

    def _mark(self, cell: Cell) -> str:
        if cell not in self.room.floor:
            return "#"
        here = "@" if cell == self.player else "$" if cell in self.boxes else " "
        return {"@": "+", "$": "*", " ": "."}[here] if cell in self.room.targets else here


def level_of(lines: list[str] | tuple[str, ...]) -> Level:
    """Read a level that was written down; the opposite of `Level.lines`."""
    marks = {(row, column): mark for row, line in enumerate(lines) for column, mark in enumerate(line)}
    floor, targets, boxes, player = (
        frozenset(cell for cell, mark in marks.items() if mark in kinds) for kinds in (" .$*@+", ".*+", "$*", "@+")
    )
    return Level(Room(len(lines), floor, targets), boxes, next(iter(player)))


def beside(cell: Cell, step: Cell, times: int = 1) -> Cell:
    """Return the cell some steps further."""
    return cell[0] + times * step[0], cell[1] + times * step[1]


def walks(room: Room, boxes: Boxes, start: Cell) -> dict[Cell, tuple[int, str]]:
    """Return where the player can walk without pushing: how many steps, and the first of them."""
    found = {start: (0, "")}
    waiting = deque([start])
    while waiting:
        cell = waiting.popleft()
        for move, step in MOVES.items():
            there = beside(cell, step)
            if there in room.floor and there not in boxes and there not in found:
                found[there] = (found[cell][0] + 1, found[cell][1] or move)
                waiting.append(there)
    return found


def region(room: Room, boxes: Boxes, player: Cell) -> Reached:
    """Return what stands for all states that differ by a walk."""
    return boxes, min(walks(room, boxes, player))


@lru_cache(maxsize=512)
def distances(room: Room) -> dict[Reached, int]:
    """Return for every state that can be solved the fewest pushes that solve it: breadth first from the end, by pulls."""
    found: dict[Reached, int] = {}
    for cell in sorted(room.floor - room.targets):
        found.setdefault(region(room, room.targets, cell), 0)
    waiting = deque(found)
    while waiting:
        state = waiting.popleft()
        for before in _pulled(room, state):
            if before not in found:
                found[before] = found[state] + 1
                waiting.append(before)
    return found


def _pulled(room: Room, state: Reached) -> Iterator[Reached]:
    """Yield the states from which one push leads to a state."""
    boxes, player = state
    at = walks(room, boxes, player)
    for box in sorted(boxes):
        for step in MOVES.values():
            stand, back = beside(box, step), beside(box, step, 2)
            if stand in at and back in room.floor and back not in boxes:
                yield region(room, boxes - {box} | {stand}, back)


def pushes_left(level: Level) -> int | None:
    """Return the fewest pushes that solve a level; None where nothing does: it is a deadlock."""
    return distances(level.room).get(region(level.room, level.boxes, level.player))


@dataclass(frozen=True)
class Push:
    """The next push of a shortest solution, and the next move towards it, which may be the push itself."""

    box: Cell
    direction: str
    move: str


def next_push(level: Level) -> Push | None:
    """Return the push, of those that the fewest pushes begin with, that is nearest to walk to; None where there is none."""
    left = pushes_left(level)
    if not left:
        return None
    room, at = level.room, walks(level.room, level.boxes, level.player)
    ways = []
    for box in sorted(level.boxes):
        for place, (direction, step) in enumerate(MOVES.items()):
            stand, there = beside(box, step, -1), beside(box, step)
            if stand in at and there in room.floor and there not in level.boxes:
                after = region(room, level.boxes - {box} | {there}, box)
                if distances(room).get(after) == left - 1:
                    steps, first = at[stand]
                    ways.append((steps, box, place, Push(box, direction, first or direction)))
    return min(ways, key=lambda way: way[:3])[3]


def moved(level: Level, move: str) -> Level:
    """Return the level after a move; the same where a wall or a box that cannot be pushed is in the way."""
    step = MOVES[move]
    there, behind = beside(level.player, step), beside(level.player, step, 2)
    if there not in level.room.floor:
        return level
    if there not in level.boxes:
        return Level(level.room, level.boxes, there)
    if behind not in level.room.floor or behind in level.boxes:
        return level
    return Level(level.room, level.boxes - {there} | {behind}, there)


def draw_level(rng: np.random.Generator, *, size: int, boxes: int, fewest: int, most: int) -> Level:
    """Draw a level whose shortest solution has `fewest` to `most` pushes: first how many, then one of the states with so many.

    Raises: GtrTurboError: none of 2,000 rooms has such a state, or none of those of which 250,000 states were searched.
    """
    searched = 0
    for _ in range(MOST_ROOMS):
        room = _draw_room(rng, size, boxes)
        by_pushes: dict[int, list[Reached]] = {}
        states = distances(room) if room else {}
        searched += len(states)
        for state, pushes in states.items():
            if fewest <= pushes <= most:
                by_pushes.setdefault(pushes, []).append(state)
        if room and by_pushes:
            chosen = sorted(by_pushes)[rng.integers(len(by_pushes))]
            at, stand = by_pushes[chosen][rng.integers(len(by_pushes[chosen]))]
            cells = sorted(walks(room, at, stand))
            return Level(room, at, cells[rng.integers(len(cells))])
        if searched > MOST_SEARCHED:
            break
    raise GtrTurboError(
        f"no room of {size} by {size} with {boxes} boxes was found that takes {fewest} to {most} pushes.",
        "ask for fewer pushes, or a larger size.",
    )


def _draw_room(rng: np.random.Generator, size: int, boxes: int) -> Room | None:
    """Draw walls and targets; None where the floor is in parts."""
    inside = [(row, column) for row in range(1, size - 1) for column in range(1, size - 1)]
    floor = [cell for cell in inside if rng.random() >= WALLS_WITHIN]
    if len(floor) < 2 * boxes + 2:
        return None
    targets = frozenset(floor[place] for place in rng.choice(len(floor), boxes, replace=False))
    room = Room(size, frozenset(floor), targets)
    return room if len(walks(room, frozenset(), floor[0])) == len(floor) else None
