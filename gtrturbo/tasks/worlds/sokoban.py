"""Sokoban: push boxes onto targets. Levels have a stated difficulty, and a state that cannot be solved any more is known."""

from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from PIL import Image, ImageDraw

from gtrturbo.errors import GtrTurboError
from gtrturbo.tasks.deals import draw_until, is_for_panels, panel_seeds
from gtrturbo.tasks.games.drawing import CELL
from gtrturbo.tasks.options import Option, Whole, check_action, check_options
from gtrturbo.tasks.task import Task
from gtrturbo.tasks.view import ChatPrompt, Look, View, ask_of
from gtrturbo.tasks.worlds.levels import Level, draw_level, level_of, moved, next_push, pushes_left
from gtrturbo.tasks.worlds.moves import MOVES

VERSION = "1"  # Of the rules and the generator: another one deals other levels.
DIRECTIONS = tuple(MOVES)
FULL_CELL = 50  # pixels
TURNS_PER_ROW = 5
ROOM_LEGEND = "# wall, . target, $ box, * box on a target, @ you, + you on a target:"
LEVEL_BOUNDS: dict[str, Option] = {
    "size": Whole(6, 5, 9),
    "boxes": Whole(1, 1, 3),
    "fewest_pushes": Whole(1, 1, 40),
    "most_pushes": Whole(4, 1, 40),
    "horizon": Whole(0, 0, 1000),
}
WALL, FLOOR, TARGET, BOX, DONE, PLAYER = (
    (88, 88, 96), (238, 232, 220), (210, 40, 40), (160, 105, 50), (60, 150, 70), (40, 80, 200),
)  # fmt: skip


class SokobanEnv(gym.Env):
    """Push every box onto a target.

    Actions: 0 left, 1 down, 2 right, 3 up: a step, which pushes a box that is in the way if nothing is behind it.
    Rewards: +1 for a box onto a target, -1 for a box off it, 0 otherwise. The episode ends when all boxes are on targets, and
    when no sequence of moves can bring them there any more, which costs 1.

    Args:
        size: rows and columns, the walls round the room included.
        boxes: as many as targets.
        fewest_pushes, most_pushes: between these is the length of each level's shortest solution, in pushes.
        cell: pixels of a cell's side.
        render_mode: None or `rgb_array`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 - gymnasium's own declaration

    def __init__(
        self, size: int, boxes: int, fewest_pushes: int, most_pushes: int, cell: int, render_mode: str | None = None
    ) -> None:
        self.difficulty = {"size": size, "boxes": boxes, "fewest": fewest_pushes, "most": most_pushes}
        self.cell, self.render_mode = cell, render_mode
        self.action_space = gym.spaces.Discrete(len(DIRECTIONS))
        self.observation_space = gym.spaces.Box(0, 255, (size * cell, size * cell, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Draw a level, or take it from `options={"level": ["#####", …]}`, written as `Level.lines` are."""
        super().reset(seed=seed)
        drawn = partial(draw_level, self.np_random, **self.difficulty)
        self.level = (
            level_of(options["level"])
            if options
            else draw_until(drawn, lambda level: "".join(level.lines), for_panels=is_for_panels(seed))
        )
        return self.render(), self._info(self.level)

    def step(self, action: int):
        """Move; see the class for the rewards."""
        check_action(action, DIRECTIONS)
        before, self.level = self.level, moved(self.level, DIRECTIONS[action])
        targets = self.level.room.targets
        reward = float(len(self.level.boxes & targets) - len(before.boxes & targets))
        info = self._info(self.level)
        return self.render(), reward - info["deadlock"], info["won"] or info["deadlock"], False, info

    def render(self) -> np.ndarray:
        """Return the picture of the present state."""
        if self.render_mode is None:
            return self._blank
        return drawn_level(self.level, self.cell)

    @property
    def _blank(self) -> np.ndarray:
        return np.zeros(self.observation_space.shape, np.uint8)  # type: ignore[arg-type]

    @staticmethod
    def _info(level: Level) -> dict[str, Any]:
        left = pushes_left(level)
        return {"level": level.lines, "pushes left": left, "deadlock": left is None, "won": level.solved}


def drawn_level(level: Level, cell: int) -> np.ndarray:
    """Draw a level: walls grey, targets red rings, boxes brown, on targets green, the player a blue disc."""
    rows = [np.concatenate([_tile(mark, cell) for mark in line], axis=1) for line in level.lines]
    return np.concatenate(rows)


@lru_cache(maxsize=64)
def _tile(mark: str, cell: int) -> np.ndarray:
    picture = Image.new("RGB", (cell, cell), WALL if mark == "#" else FLOOR)
    draw = ImageDraw.Draw(picture)
    far = cell - 1
    if mark != "#":
        draw.rectangle((0, 0, far, far), outline=(205, 198, 185))
    if mark in "$*":
        edge = cell // 7
        draw.rectangle((edge, edge, far - edge, far - edge), fill=BOX if mark == "$" else DONE, outline=(60, 40, 20), width=2)
    if mark in "@+":
        edge = cell // 5
        draw.ellipse((edge, edge, far - edge, far - edge), fill=PLAYER)
    if mark in ".+*":
        edge = cell // 4 if mark != "+" else cell // 14
        draw.ellipse((edge, edge, far - edge, far - edge), outline=TARGET, width=max(2, cell // 10))
    return np.asarray(picture)


def truth(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return where things stand, in the order in which one reads: [row, column] each."""
    level = level_of(info["level"])
    return {
        "player": list(level.player),
        "boxes": [list(box) for box in sorted(level.boxes)],
        "targets": [list(target) for target in sorted(level.room.targets)],
    }


def expert(info: Mapping[str, Any]) -> tuple[str, str]:
    """Return the next move of a solution with the fewest pushes; where nothing wins any more, any move."""
    push = next_push(level_of(info["level"]))
    if push is None:
        return "nothing is left to push", DIRECTIONS[0]
    return f"push {push.box[0]} {push.box[1]} {push.direction} so go {push.move}", push.move


def random_expert(info: Mapping[str, Any], rng: np.random.Generator) -> tuple[str, str]:
    """Return thoughts without a plan, and a move that is left to chance."""
    move = str(rng.choice(DIRECTIONS))
    return f"so go {move}", move


def sokoban(
    *,
    image: Literal["full", "tiny"] = "full",
    size: int = 6,
    boxes: int = 1,
    fewest_pushes: int = 1,
    most_pushes: int = 4,
    horizon: int = 0,
    look: Look = "picture",
) -> Task:
    """Make the task. `image=tiny` has 28 pixels a cell, else 50; a horizon of 0 is five turns a row and box."""
    values = {"size": size, "boxes": boxes, "fewest_pushes": fewest_pushes, "most_pushes": most_pushes, "horizon": horizon}
    check_options(values, LEVEL_BOUNDS)
    if most_pushes < fewest_pushes:
        raise GtrTurboError(f"most_pushes is {most_pushes}, fewer than fewest_pushes, {fewest_pushes}.")
    cell = CELL if image == "tiny" else FULL_CELL
    make = partial(SokobanEnv, size, boxes, fewest_pushes, most_pushes, cell)
    return Task(
        name="sokoban",
        make=partial(make, render_mode="rgb_array"),
        blind=make,
        prompt=partial(_prompt, size=size, boxes=boxes, look=look),
        actions=DIRECTIONS,
        reads=("player", "boxes", "targets"),
        truth=truth,
        expert=expert,
        random_expert=random_expert,
        max_turns=horizon or TURNS_PER_ROW * size * boxes,
        panels={"held-out": panel_seeds()},
    )


def _prompt(view: View, *, size: int, boxes: int, look: Look) -> ChatPrompt:
    places = ", ".join(["[row, column]"] * boxes)
    colours = "Walls are grey, you are the blue disc, boxes are brown, targets red rings. " if look != "text" else ""
    text = (
        f"a room of {size} by {size} cells; row 0 is at the top, column 0 at the left. {colours}"
        "Push every box onto a target: you push by walking into a box, and cannot pull. Reply with JSON only: "
        f'{{"player": [row, column], "boxes": [{places}], "targets": [{places}], '
        '"thoughts": "what to push where", "action": "left, down, right or up"}'
    )
    return ask_of(look, text, view.info["level"], ROOM_LEGEND, lambda: view.picture)
