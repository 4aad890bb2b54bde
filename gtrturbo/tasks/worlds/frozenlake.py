"""FrozenLake: Gymnasium's own environment, on a lake that is drawn anew for each episode or always the same."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from itertools import chain
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv, generate_random_map, is_valid

from gtrturbo.errors import GtrTurboError
from gtrturbo.tasks.deals import draw_until, has_both, is_for_panels, panel_seeds
from gtrturbo.tasks.games.drawing import CELL
from gtrturbo.tasks.options import Option, Whole, check_options
from gtrturbo.tasks.task import Task
from gtrturbo.tasks.view import ChatPrompt, Look, View, ask_of
from gtrturbo.tasks.worlds.frames import require_pygame, scaled
from gtrturbo.tasks.worlds.moves import MOVES

CELLS = {"S": "ice", "F": "ice", "H": "hole", "G": "flag"}
LAKE_BOUNDS: dict[str, Option] = {"size": Whole(4, 2, 16), "horizon": Whole(0, 0, 1000)}
SLIPPERY_HORIZONS = {4: 100, 8: 200}  # Gymnasium's own.
LAKE_LEGEND = "S start, F ice, H hole, G flag, @ you:"
READS = ("row", "column", "around")
PLAN_DISCOUNT, PLAN_SWEEPS = 0.99, 400
MOST_TRIED = 1000  # Lakes of which one has to have a way over it.
Lake = tuple[str, ...]
Drawn = Literal["random", "4x4", "8x8"]


class LakeEnv(gym.Env):
    """Gymnasium's FrozenLake-v1 with a lake per episode; everything random comes from this environment's own generator.

    Args:
        lake: `random` draws one for each episode with Gymnasium's generator; the others are Gymnasium's two.
        size: rows and columns of a lake that is drawn.
        ice: share of the cells that are drawn as ice, in (0, 1].
        slippery: whether a move goes to either side of where it was meant to in two of three cases.
        split: whether panels have lakes to themselves.
        render_mode: None or `rgb_array`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 - gymnasium's own declaration

    def __init__(
        self, lake: Drawn, size: int, ice: float, slippery: bool, split: bool = True, render_mode: str | None = None
    ) -> None:
        self.split = split
        self.lake, self.size, self.ice, self.slippery, self.render_mode = lake, size, ice, slippery, render_mode
        self.inner = self._on(None if lake == "random" else lake)
        self.action_space, self.observation_space = self.inner.action_space, self.inner.observation_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Draw a lake, if lakes are drawn, and stand at its start."""
        super().reset(seed=seed)
        if self.lake == "random":
            before = self.inner
            drawn = draw_until(self._drawn, "".join, for_panels=is_for_panels(seed)) if self.split else self._drawn()
            self.inner = self._on(drawn)
            _hand_over(before, self.inner)
        return self._own().reset()

    def step(self, action: int):
        """Move; +1 at the flag, 0 otherwise, and a hole ends the episode too."""
        return self._own().step(action)

    def render(self) -> np.ndarray:
        """Return Gymnasium's picture of the present state."""
        return self._own().render()  # type: ignore[return-value]

    def close(self) -> None:
        self.inner.close()

    def _own(self) -> FrozenLakeEnv:
        self.inner.np_random = self.np_random
        return self.inner

    def _drawn(self) -> Lake:
        return tuple(generate_random_map(self.size, self.ice, seed=int(self.np_random.integers(1 << 31))))

    def _on(self, lake: Lake | str | None) -> FrozenLakeEnv:
        how: dict[str, Any] = {"is_slippery": self.slippery, "render_mode": self.render_mode}
        if isinstance(lake, str):
            return FrozenLakeEnv(map_name=lake, **how)
        start = ("S" + "F" * (self.size - 1), *["F" * self.size] * (self.size - 2), "F" * (self.size - 1) + "G")
        return FrozenLakeEnv(desc=list(lake or start), **how)


def _hand_over(before: FrozenLakeEnv, after: FrozenLakeEnv) -> None:
    """Give a new environment the tiles that the one before has loaded, which takes four times as long as to draw with them."""
    for name, value in vars(before).items():
        if vars(after).get(name) is None:
            setattr(after, name, value)


def known(env: gym.Env, observation: int, info: Mapping[str, Any]) -> dict[str, Any]:
    """Say where the player stands, and on what lake."""
    inner = env.unwrapped.inner  # type: ignore[attr-defined]
    row, column = divmod(int(observation), inner.ncol)
    return {"row": row, "column": column, "lake": [b"".join(line).decode() for line in inner.desc]}


def lines_of(info: Mapping[str, Any]) -> list[str]:
    """Write the lake down as Gymnasium does, and the player where it stands."""
    return [
        "".join("@" if (row, column) == (info["row"], info["column"]) else cell for column, cell in enumerate(line))
        for row, line in enumerate(info["lake"])
    ]


def around(info: Mapping[str, Any]) -> list[str]:
    """Return what lies to the left, below, to the right and above."""
    return [_cell(info["lake"], info["row"] + down, info["column"] + right) for down, right in MOVES.values()]


def _cell(lake: Sequence[str], row: int, column: int) -> str:
    inside = 0 <= row < len(lake) and 0 <= column < len(lake[0])
    return CELLS[lake[row][column]] if inside else "edge"


def truth(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the picture tells of the player."""
    return {"row": info["row"], "column": info["column"], "around": around(info)}


def say(move: str) -> tuple[str, str]:
    """Put a move into thoughts and action."""
    return f"go {move}", move


def best_move(info: Mapping[str, Any], *, slippery: bool) -> str:
    """Return the move after which the flag is reached most often, and soonest."""
    row, column = info["row"], info["column"]
    return tuple(MOVES)[_plan(tuple(info["lake"]), slippery)[row][column]]


@lru_cache(maxsize=1024)
def _plan(lake: Lake, slippery: bool) -> list[list[int]]:
    """Plan by value iteration over the cells: V(s) = γ maxₐ mean over where a may lead of V, 1 at the flag and 0 in holes.

    Source: Sutton and Barto (2018), section 4.4.
    """
    rows, columns = len(lake), len(lake[0])
    flag = np.array([[cell == "G" for cell in line] for line in lake])
    over = np.array([[cell in "GH" for cell in line] for line in lake])
    row, column = np.indices((rows, columns))
    reached = [(np.clip(row + down, 0, rows - 1), np.clip(column + right, 0, columns - 1)) for down, right in MOVES.values()]
    value = flag.astype(float)
    for _ in range(PLAN_SWEEPS):
        ways = np.stack([value[place] for place in reached])
        if slippery:
            ways = (np.roll(ways, 1, axis=0) + ways + np.roll(ways, -1, axis=0)) / 3
        value = np.where(over, flag, PLAN_DISCOUNT * ways.max(axis=0))
    return (ways + 1e-9 * np.array([1, 2, 2, 1])[:, None, None]).argmax(axis=0).tolist()


def frozen_lake(
    *,
    image: Literal["full", "tiny"] = "full",
    lake: Drawn = "random",
    size: int | None = None,
    ice: float | None = None,
    slippery: bool = False,
    horizon: int = 0,
    reads: Literal["around", "place"] = "around",
    look: Look = "picture",
) -> Task:
    """Make the task.

    Args:
        image: `tiny` has 28 pixels a cell.
        lake, size, ice, slippery: as for `LakeEnv`; a lake that is drawn has 4 rows and 0.8 of ice if nothing else is said.
        horizon: turns; 0 is three a row, and Gymnasium's own number on slippery ice.
        reads: what a reply says of what is seen: `place` is where the player stands, `around` what lies beside it, too.
        look: whether the lake is shown as a picture, as lines of text, or both.

    Raises: GtrTurboError: an option is out of range or has no part in the lake, none can be crossed, or pygame is missing.
    """
    require_pygame("frozenlake")
    if lake != "random" and (idle := [name for name, value in (("size", size), ("ice", ice)) if value is not None]):
        raise GtrTurboError(
            f"lake={lake} has a {' and an '.join(idle)} of its own.", f"leave out {' and '.join(idle)}, or let lake be random."
        )
    size, ice = 4 if size is None else size, 0.8 if ice is None else ice
    check_options({"size": size, "horizon": horizon}, LAKE_BOUNDS)
    if not 0 < ice <= 1:
        raise GtrTurboError(f"ice must be in (0, 1], got {ice}.")
    rows = size if lake == "random" else int(lake[0])
    read = READS if reads == "around" else READS[:2]
    split = lake == "random" and _splits(size, ice)
    make = partial(LakeEnv, lake, size, ice, slippery, split)
    own = SLIPPERY_HORIZONS.get(rows, 3 * rows * rows) if slippery else 3 * rows
    return Task(
        name="frozenlake",
        make=partial(make, render_mode="rgb_array"),
        blind=make,
        prompt=partial(_prompt, text=_text(rows, slippery, read), look=look, side=CELL * rows if image == "tiny" else 0),
        actions=tuple(MOVES),
        known=known,
        reads=read,
        truth=lambda info: {name: value for name, value in truth(info).items() if name in read},
        expert=lambda info: say(best_move(info, slippery=slippery)),
        random_expert=lambda info, rng: say(str(rng.choice(list(MOVES)))),
        won=lambda end: end.total > 0,
        max_turns=horizon or own,
        panels={"held-out" if split else "fixed": panel_seeds()},
        options={
            "image": image,
            "lake": lake,
            **({"size": size, "ice": ice} if lake == "random" else {}),
            "slippery": slippery,
            "horizon": horizon,
            "reads": reads,
            "look": look,
        },
    )


@lru_cache(maxsize=64)
def _splits(size: int, ice: float) -> bool:
    """Tell whether there are lakes that panels have to themselves, and others.

    Raises: GtrTurboError: of many that were drawn none has a way to the flag: Gymnasium would draw on and on.
    """
    lakes = _crossed(size, ice)
    if (first := next(lakes, None)) is None:
        raise GtrTurboError(
            f"of {MOST_TRIED} lakes of {size} by {size} with ice={ice:g} none can be crossed.",
            "ask for more ice, or a smaller lake.",
        )
    return has_both(chain([first], lakes))


def _crossed(size: int, ice: float) -> Iterator[str]:
    """Draw lakes as Gymnasium does, and yield those that can be crossed, until a thousand after another cannot."""
    rng, tried = np.random.default_rng(0), 0
    while tried < MOST_TRIED:
        cells = rng.choice(["F", "H"], (size, size), p=[ice, 1 - ice])
        cells[0, 0], cells[-1, -1] = "S", "G"
        tried += 1
        if is_valid(cells.tolist(), size):
            yield "".join(map("".join, cells))
            tried = 0


def _text(rows: int, slippery: bool, reads: Sequence[str]) -> str:
    slips = " The ice is slippery: of three moves one goes to either side of where you mean." if slippery else ""
    fields = {
        "row": "your row",
        "column": "your column",
        "around": '["ice", "hole", "flag" or "edge" to the left, down, right, up]',
    }
    wanted = ", ".join(f'"{name}": {fields[name]}' for name in reads)
    return (
        f"a frozen lake of {rows} by {rows} cells, row 0 at the top, column 0 at the left. Walk to the flag and "
        f"step into no hole.{slips} Reply with JSON only: {{{wanted}, "
        '"thoughts": "where to go", "action": "left, down, right or up"}'
    )


def _prompt(view: View, *, text: str, look: Look, side: int) -> ChatPrompt:
    return ask_of(
        look, text, lines_of(view.info), LAKE_LEGEND, lambda: scaled(view.picture, side, side) if side else view.picture
    )
