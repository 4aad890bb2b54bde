"""ALFWorld as a Gymnasium environment: a game per episode, commands in words, and what a turn pays."""

import difflib
import importlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from PIL import Image, ImageDraw

from gtrturbo.errors import GtrTurboError
from gtrturbo.tasks.alf.household import GOAL_MARK
from gtrturbo.tasks.alf.library import Library
from gtrturbo.tasks.alf.scenes import HouseEngine, Scene
from gtrturbo.tasks.deals import PANEL_SEEDS, panel_of
from gtrturbo.tasks.games.drawing import BLACK, CELL, WHITE, font, wrapped

WIN = 50.0
HOUSE_PANELS = ("seen", "unseen")  # In the order of their places.
SIDES = {"full": 308, "tiny": 112}  # Pixels; both are a whole number of cells.
LETTERS = {"full": 18, "tiny": 11}
MARGIN = 4
MOST_LETTERS = 100_000
Pays = Literal["increment", "level"]
Size = Literal["full", "tiny"]


class HouseEnv(gym.Env):
    """One game after another, chosen by the seed.

    Args:
        engine: makes what plays them.
        games: of the split that episodes are dealt from, and of `seen` and `unseen` for the episodes of panels.
        pays: `increment`: 50 for a win and the rise of the goal-condition rate; `level`: the rate itself, every turn, as the
            original does, where it pays to idle.
        size: of the pictures of what is told: `full` or `tiny`.
        render_mode: None or `rgb_array`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 1}  # noqa: RUF012 - gymnasium's own declaration

    def __init__(
        self,
        engine: Callable[[], HouseEngine],
        games: Mapping[str, Library],
        pays: Pays,
        size: Size,
        render_mode: str | None = None,
    ) -> None:
        self.games, self.render_mode = games, render_mode
        self.pays: Pays = pays
        self.size: Size = size
        self.engine = engine()
        self.scene: Scene | None = None
        self.action_space = gym.spaces.Text(MOST_LETTERS, charset=frozenset(map(chr, range(32, 0x250))))
        self.observation_space = gym.spaces.Text(MOST_LETTERS, min_length=0, charset=frozenset(map(chr, range(32, 0x250))))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Begin a game: that of a panel in its order, else one of the split's, each as likely."""
        super().reset(seed=seed)
        place = panel_of(seed)
        if seed is None or place is None:
            games = self.games["dealt"]
            number = int(self.np_random.integers(len(games.names)))
        else:
            games = self.games[HOUSE_PANELS[place]]
            number = (seed - PANEL_SEEDS * (1 + place)) % len(games.names)
        self.game = games.game(number)
        self.scene = self.engine.start(self.game)
        told, _, goal = self.scene.text.partition(GOAL_MARK)
        self.told, self.goal = told.strip() or self.scene.text, goal.strip().rstrip(".")
        return self.told, self._info()

    def step(self, command: str):
        """Do one of the commands that the state allows.

        Raises: GtrTurboError: it allows no such command, or there is no game.
        """
        before = self.scene
        if before is None or command not in before.commands:
            commands = before.commands if before else ()
            close = difflib.get_close_matches(str(command), commands, n=3, cutoff=0.4) or list(commands[:3])
            raise GtrTurboError(
                f"{command!r} is not possible here.", f"{len(commands)} commands are, such as: {', '.join(close) or 'none'}."
            )
        self.scene = after = self.engine.act(command)
        self.told = after.text
        return self.told, paid(before, after, self.pays), after.won, False, self._info()

    def render(self) -> np.ndarray:
        """Return what the engine draws, else what is told as a picture of it."""
        frame = self.scene.frame if self.scene else None
        return drawn_words(self.told, self.size) if frame is None else frame

    def close(self) -> None:
        self.engine.close()
        self.scene = None

    def _info(self) -> dict[str, Any]:
        assert self.scene is not None
        scene = self.scene
        return {
            "type": self.game.kind,
            "game": self.game.name,
            "sha256": self.game.sha256,
            "goal": self.goal,
            "told": self.told,
            "commands": list(scene.commands),
            "plan": list(scene.plan[:1]),
            "rate": scene.rate,
            "won": scene.won,
        }


def paid(before: Scene, after: Scene, pays: Pays) -> float:
    """Return what a turn pays: 50 · won + rate − rate before, or 50 · won + rate.

    Increments add up to the rate at the end less that at the beginning, so that nothing is earned by idling.

    Source: RL4VLM's wrapper of ALFWorld, whose reward is the level (Zhai et al., 2024).
    """
    return WIN * after.won + after.rate - (before.rate if pays == "increment" else 0.0)


def drawn_words(text: str, size: Size) -> np.ndarray:
    """Draw words on white, at least a square, and higher where they need it. uint8 [H, W, 3], whole cells"""
    side, letters = SIDES[size], LETTERS[size]
    lines = wrapped(tuple(text.split()), letters, side - 2 * MARGIN)
    height = MARGIN * 2 + round(letters * 1.3) * (lines.count("\n") + 1)
    picture = Image.new("RGB", (side, max(side, -(-height // CELL) * CELL)), WHITE)
    ImageDraw.Draw(picture).multiline_text((MARGIN, MARGIN), lines, fill=BLACK, font=font(letters), spacing=round(letters * 0.3))
    return np.asarray(picture)


def textworld_engine(*, plans: bool = True) -> HouseEngine:
    """Make TextWorld's engine; its package is imported only now."""
    return importlib.import_module("gtrturbo.tasks.alf.textworld_engine").TextWorldEngine(plans=plans)
