"""Environments of other packages: whether they are there, and their frames in a size that a model can read."""

import difflib
import importlib
import importlib.util
import os
from collections.abc import Sequence

import gymnasium as gym
import numpy as np
from PIL import Image

from gtrturbo.errors import GtrTurboError

# Pygame draws in memory: it needs no display, asks for none, and prints no greeting among our output.
UNSEEN = {"SDL_VIDEODRIVER": "dummy", "PYGAME_HIDE_SUPPORT_PROMPT": "1"}


def require_pygame(task: str) -> None:
    """Refuse a task whose pictures Gymnasium draws with pygame where there is none, and let it draw unseen where there is.

    Raises: GtrTurboError: with the line that installs it.
    """
    if importlib.util.find_spec("pygame") is None:
        raise GtrTurboError(
            f"{task} draws its pictures with pygame, which is not installed.", "run: pip install 'gymnasium[toy-text]'"
        )
    draw_unseen()


def import_extra(package: str, task: str) -> None:
    """Import the package that holds a task's environments, which makes them known.

    Raises: GtrTurboError: it is not installed; with the line that does.
    """
    if importlib.util.find_spec(package) is None:
        raise GtrTurboError(
            f"{task} needs the package {package}, which is not installed.", f"run: pip install 'gtrturbo[{package}]'"
        )
    importlib.import_module(package)


def draw_unseen() -> None:
    """Let pygame draw in memory, unless the user's environment says where it is to draw."""
    for name, value in UNSEEN.items():
        os.environ.setdefault(name, value)


def scaled(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """Scale a picture. [H, W, 3] uint8 -> [height, width, 3] uint8"""
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


def shrunk(picture: np.ndarray, side: int) -> np.ndarray:
    """Scale a picture so that its longer side has `side` pixels; 0 leaves it. [H, W, 3] uint8"""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    return scaled(picture, max(1, round(width * scale)), max(1, round(height * scale))) if side else picture


def require_within(task: str, limit: int | None, horizon: int) -> None:
    """Refuse more turns than an environment goes on for: it would cut its episodes before.

    Args:
        task: what an error calls it.
        limit: the environment's own number of turns, if it has one.
        horizon: what is asked for; 0 asks for nothing.

    Raises: GtrTurboError: with the limit.
    """
    if limit and horizon > limit:
        longer = (
            " or raise the limit with make: {max_episode_steps: …} in --env file=FILE.yaml." if task.startswith("gym:") else ""
        )
        raise GtrTurboError(
            f"horizon is {horizon}, and {task} cuts its episodes after {limit} turns itself.",
            f"ask for {limit} at most{longer or '.'}",
        )


def require_known(environment: str, task: str, *, prefix: str = "", otherwise: str = "") -> None:
    """Refuse an environment that Gymnasium does not know; see `refuse_unknown`."""
    refuse_unknown(environment, task, [name for name in gym.registry if name.startswith(prefix)], otherwise)


def refuse_unknown(environment: str, task: str, known: Sequence[str], otherwise: str = "") -> None:
    """Refuse an environment that is none of those that are known; `otherwise` says what else may be meant.

    Raises: GtrTurboError: with the ids that are spelt alike.
    """
    if environment not in known:
        close = difflib.get_close_matches(environment, known, n=3, cutoff=0.4) or known[:3]
        raise GtrTurboError(
            f"there is no environment {environment!r} for {task}.", f"the closest are: {', '.join(close)}{otherwise}."
        )
