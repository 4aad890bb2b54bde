"""A planner for MiniGrid: a shortest plan over the whole grid, found breadth first by the rules of the package's core actions."""

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from gtrturbo.errors import GtrTurboError

Cell = tuple[int, int]
Thing = tuple[str, str, int]  # type, colour, state
ACTIONS = ("left", "right", "forward", "pickup", "drop", "toggle", "done")  # In the order of the package's numbers.
FACING = ("right", "down", "left", "up")
AHEAD = ((0, 1), (1, 0), (0, -1), (-1, 0))
TYPES = ("unseen", "empty", "wall", "floor", "door", "key", "ball", "box", "goal", "lava", "agent")
ARROWS = ">v<^"
MARKS = {
    "unseen": "?",
    "empty": ".",
    "wall": "W",
    "floor": "F",
    "key": "K",
    "ball": "A",
    "box": "B",
    "goal": "G",
    "lava": "V",
    "agent": "@",
}
COLOURS = ("red", "green", "blue", "purple", "yellow", "grey")
OPEN, CLOSED, LOCKED = range(3)
EMPTY: Thing = ("empty", "red", 0)
CARRIED = ("key", "ball", "box")
MOST_STATES = 60_000
FETCH = re.compile(r"(?:fetch a|get a|pick up the|pick up a) (\w+) (\w+)")
GO = re.compile(r"go to the (\w+) (door|key|ball|box)")


Grid = tuple[tuple[Thing, ...], ...]
OUTSIDE: Thing = ("wall", "grey", 0)


@dataclass(frozen=True)
class Walk:
    """A state: where the agent stands and faces, what it carries, and what was changed in the grid since the plan began."""

    cell: Cell
    facing: int
    carrying: tuple[str, str] | None
    changes: frozenset[tuple[Cell, Thing]]
    grid: Grid = field(compare=False)

    @property
    def front(self) -> Cell:
        return self.cell[0] + AHEAD[self.facing][0], self.cell[1] + AHEAD[self.facing][1]

    def at(self, cell: Cell) -> Thing:
        """Return what a cell holds; round the grid there is wall."""
        changed = next((thing for place, thing in self.changes if place == cell), None)
        inside = 0 <= cell[0] < len(self.grid) and 0 <= cell[1] < len(self.grid[0])
        return changed or (self.grid[cell[0]][cell[1]] if inside else OUTSIDE)

    def put(self, cell: Cell, thing: Thing) -> frozenset[tuple[Cell, Thing]]:
        return frozenset({(place, other) for place, other in self.changes if place != cell} | {(cell, thing)})


Goal = Callable[[Walk], bool]


def read(info: Mapping[str, Any]) -> Walk:
    """Read what is known of a state."""
    colour, _, kind = info["carrying"].partition(" ")
    grid = tuple(tuple((TYPES[kind], COLOURS[colour], state) for kind, colour, state in line) for line in info["grid"])
    carried = (colour, kind) if kind else None
    return Walk((info["row"], info["column"]), FACING.index(info["facing"]), carried, frozenset(), grid)


def lines_of(info: Mapping[str, Any]) -> list[str]:
    """Write the grid down, two marks a cell: what is there, and its colour's first letter; the agent as an arrow, twice."""
    walk = read(info)
    return [
        "".join(2 * ARROWS[walk.facing] if walk.cell == (row, column) else _marks(thing) for column, thing in enumerate(line))
        for row, line in enumerate(walk.grid)
    ]


def _marks(thing: Thing) -> str:
    kind, colour, state = thing
    mark = MARKS[kind] if kind != "door" else "_DL"[state]
    return ".." if kind == "empty" else mark + colour[0].upper()


def goal_of(mission: str) -> tuple[str, Goal, bool] | None:
    """Return what a mission asks for: in words, as a test of a state, and whether it takes the action `done` then.

    None where it is none of those that the planner knows: to reach a goal, to fetch a thing, to open the door, to go to a thing.
    """
    if found := FETCH.search(mission):
        wanted = (found[1], found[2])
        return f"fetch the {found[1]} {found[2]}", lambda walk: walk.carrying == wanted, False
    if found := GO.search(mission):
        colour, kind = found[1], found[2]
        return f"go to the {colour} {kind}", lambda walk: walk.at(walk.front)[:2] == (kind, colour), True
    if "goal" in mission:
        return "get to the goal", lambda walk: walk.at(walk.cell)[0] == "goal", False
    if mission == "open the door":
        return mission, lambda walk: walk.at(walk.front)[0] == "door" and walk.at(walk.front)[2] == OPEN, False
    return None


def planned(info: Mapping[str, Any]) -> tuple[str, str]:
    """Return the first action of a shortest plan and its aim; where there is no way now, as while it is blocked, a turn.

    Raises: GtrTurboError: none is found among as many states as are searched.
    """
    walk, mission = read(info), info["mission"]
    found = goal_of(mission)
    plan = _plan(walk, walk.grid, mission) if found else ()
    if plan is None:
        raise GtrTurboError(
            f"the expert finds no plan to {mission!r} among {MOST_STATES} states.",
            "let chance play (--random-expert-share 1), or take a smaller grid.",
        )
    return (plan[0] if plan else ACTIONS[0]), found[0] if found else "look round"


def has_plan(info: Mapping[str, Any]) -> bool:
    """Tell whether the mission is one that the planner knows, and a plan is found."""
    walk, mission = read(info), info["mission"]
    return goal_of(mission) is not None and bool(_plan(walk, walk.grid, mission))


@lru_cache(maxsize=1024)
def _plan(walk: Walk, grid: Grid, mission: str) -> tuple[str, ...] | None:
    """Search breadth first; nothing where no way leads there, None where the search ends before it is known, at 60,000 states.

    `grid` is what tells equal walks apart.
    """
    found = goal_of(mission)
    assert found is not None
    _, reached, ends_by_done = found
    wanted = FETCH.search(mission)
    fetched = (wanted[2], wanted[1]) if wanted else None
    came: dict[Walk, tuple[Walk, str] | None] = {walk: None}
    waiting = deque([walk])
    while waiting and len(came) < MOST_STATES:
        state = waiting.popleft()
        if reached(state):
            return (*_traced(came, state), *(["done"] if ends_by_done else []))
        for action, after in _after(state, fetched):
            if after not in came:
                came[after] = state, action
                waiting.append(after)
    return None if waiting else ()


def _traced(came: Mapping[Walk, tuple[Walk, str] | None], state: Walk) -> list[str]:
    actions: list[str] = []
    while (before := came[state]) is not None:
        state, action = before
        actions.append(action)
    return actions[::-1]


def _after(walk: Walk, fetched: tuple[str, str] | None) -> Iterator[tuple[str, Walk]]:
    """Yield the actions that change something and do not end the episode badly, with the states after them."""
    yield "left", replace(walk, facing=(walk.facing - 1) % 4)
    yield "right", replace(walk, facing=(walk.facing + 1) % 4)
    front, ahead = walk.front, walk.at(walk.front)
    kind, colour, state = ahead
    if kind in ("empty", "floor", "goal") or (kind == "door" and state == OPEN):
        yield "forward", replace(walk, cell=front)
    if kind == "door" and (state == CLOSED or (state == LOCKED and walk.carrying == (colour, "key"))):
        yield "toggle", replace(walk, changes=walk.put(front, (kind, colour, OPEN)))
    # Where there are no doors, another thing than the wanted one is in no way, and to take it ends the mission.
    if kind in CARRIED and walk.carrying is None and (ahead[:2] == fetched or _has_doors(walk.grid)):
        yield "pickup", replace(walk, carrying=(colour, kind), changes=walk.put(front, EMPTY))
    if kind == "empty" and walk.carrying and fetched and _used(walk):
        yield "drop", replace(walk, carrying=None, changes=walk.put(front, (walk.carrying[1], walk.carrying[0], 0)))


def _used(walk: Walk) -> bool:
    """Tell whether what is carried is no key whose door is still locked."""
    colour, kind = walk.carrying or ("", "")
    opened = any(thing[:2] == ("door", colour) for _, thing in walk.changes)
    locked = any(thing == ("door", colour, LOCKED) for line in walk.grid for thing in line)
    return kind != "key" or opened or not locked


@lru_cache(maxsize=64)
def _has_doors(grid: Grid) -> bool:
    return any(thing[0] == "door" for line in grid for thing in line)
