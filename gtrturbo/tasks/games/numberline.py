"""NumberLine: walk from one number to another, one step at a time.

Rules as in RL4VLM (Zhai et al., 2024), `gym_cards/NumberLine-v0`, with a line and a horizon of any length.
"""

from collections.abc import Mapping
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from PIL import Image, ImageDraw

from gtrturbo.errors import GtrTurboError
from gtrturbo.tasks.games.drawing import BLACK, CELL, WHITE, font, grid
from gtrturbo.tasks.options import IMAGE, Option, Whole, check_action, check_options, check_reset_keys

STEPS = ("-", "+")
LINE_OPTIONS: dict[str, Option] = {"image": IMAGE, "line": Whole(5, 2, 99), "horizon": Whole(10, 1, 1000)}


class NumberLineEnv(gym.Env):
    """Reach the target number.

    Actions: 0 is `-`, one down but not below 0; 1 is `+`, one up but not above `line`.
    Rewards: +1 on reaching the target, which ends the episode; -1 for a move that does not shrink the distance, a bump
    into a wall included; 0 otherwise. The episode is truncated after `horizon` moves.
    Start and target are uniform on 0 to `line`; where they are equal the target becomes (target + 1) mod `line`, so that
    `line` itself is a rarer target, as in the original.

    Args:
        image: `full` is 300 x 300 pixels; `tiny` is 112 x 56, glyphs in cells of 28 x 28.
        line: the largest number.
        horizon: moves after which an episode is cut.
        render_mode: None or `rgb_array`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 - gymnasium's own declaration

    def __init__(
        self,
        image: Literal["full", "tiny"] = "full",
        line: int = 5,
        horizon: int = 10,
        render_mode: str | None = None,
    ) -> None:
        check_options({"image": image, "line": line, "horizon": horizon}, LINE_OPTIONS)
        self.image, self.line, self.horizon, self.render_mode = image, line, horizon, render_mode
        self.action_space = gym.spaces.Discrete(len(STEPS))
        shape = (300, 300, 3) if image == "full" else (2 * CELL, 4 * CELL, 3)
        self.observation_space = gym.spaces.Box(0, 255, shape, np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Draw start and target, or take them from `options={"start": 1, "goal": 4}`.

        Raises: GtrTurboError: The options are incomplete, not on the line, or equal.
        """
        super().reset(seed=seed)
        self.current, self.target = self._given(options) if options else self._drawn()
        self.moves = 0
        return self.render(), self._info()

    def step(self, action: int):
        """Move one up or down; see the class for the rewards."""
        check_action(action, STEPS)
        before = abs(self.target - self.current)
        self.current = min(max(self.current + (1 if action == 1 else -1), 0), self.line)
        self.moves += 1
        after = abs(self.target - self.current)
        reward = 1.0 if after == 0 else -1.0 if after >= before else 0.0
        truncated = after > 0 and self.moves >= self.horizon
        return self.render(), reward, after == 0, truncated, self._info()

    def render(self) -> np.ndarray:
        """Return the picture of the present state."""
        return (_full if self.image == "full" else _tiny)(self.target, self.current)

    def _drawn(self) -> tuple[int, int]:
        start, target = (int(number) for number in self.np_random.integers(self.line + 1, size=2))
        return start, (target + 1) % self.line if start == target else target

    def _given(self, options: Mapping[str, Any]) -> tuple[int, int]:
        check_reset_keys(options, ("start", "goal"))
        for name in ("start", "goal"):
            check_options({name: options[name]}, {name: Whole(0, 0, self.line)})
        if options["start"] == options["goal"]:
            raise GtrTurboError(f"start and goal are both {options['goal']}.", "choose two different numbers.")
        return options["start"], options["goal"]

    def _info(self) -> dict[str, Any]:
        return {"Target": self.target, "Current": self.current, "won": self.current == self.target}


def _full(target: int, current: int) -> np.ndarray:
    picture = Image.new("RGB", (300, 300), WHITE)
    draw = ImageDraw.Draw(picture)
    for y, line in ((60, f"Target: {target}"), (180, f"Current: {current}")):
        draw.text((30, y), line, fill=BLACK, font=font(36), stroke_width=1)
    return np.array(picture)


def _tiny(target: int, current: int) -> np.ndarray:
    rows = enumerate((f"T{target}", f"C{current}"))
    return grid(4, 2, {(column, row): (text, BLACK) for row, line in rows for column, text in enumerate(line)})


def prompt(info: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """Ask for a move; the numbers are for the picture to tell."""
    return (
        f"The image shows the target number and the current number on a line from 0 to {options['line']}. "
        'Move the current number to the target: "+" adds 1, "-" subtracts 1. Reply with JSON only: '
        '{"current number": number, "target number": number, "thoughts": "compare the two", "action": "+" or "-"}'
    )


def truth(info: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the two numbers on the picture."""
    return {"current number": info["Current"], "target number": info["Target"]}


def expert(info: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[str, str]:
    """Return true thoughts and the move towards the target."""
    current, target = info["Current"], info["Target"]
    if current > target:
        return f"{current} is larger than {target} so go down", "-"
    return f"{current} is smaller than {target} so go up", "+"


def random_expert(info: Mapping[str, Any], options: Mapping[str, Any], rng: np.random.Generator) -> tuple[str, str]:
    """Return thoughts that do not compare, and a move that is left to chance."""
    up = bool(rng.integers(2))
    return f"{info['Current']} so go {'up' if up else 'down'}", "+" if up else "-"
