"""What an engine shows of a game at one moment, and what every engine can do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class HouseGame:
    """One game.

    Attributes:
        name: its split, type and number, or its folder below ALFWORLD_DATA.
        kind: its task type.
        sha256: of its rules, words and problem.
        content: `pddl_domain`, `grammar` and `pddl_problem`.
        folder: where it lies on disk; empty of a written one.
    """

    name: str
    kind: str
    sha256: str
    content: Mapping[str, Any]
    folder: str = ""


@dataclass(frozen=True)
class Scene:
    """A game at one moment.

    Attributes:
        text: what is told of it.
        commands: what may be done now, sorted, each once.
        won: whether the goal is reached.
        rate: share of the goal's conditions that hold, in [0, 1].
        plan: what the engine's expert would do next, first things first; empty where it has no plan.
        frame: what is seen, where the engine draws. [H, W, 3] uint8
    """

    text: str
    commands: tuple[str, ...]
    won: bool
    rate: float
    plan: tuple[str, ...]
    frame: np.ndarray | None = None


class HouseEngine(Protocol):
    """What plays a game."""

    def start(self, game: HouseGame) -> Scene:
        """Begin a game."""
        ...

    def act(self, command: str) -> Scene:
        """Do one of the scene's commands."""
        ...

    def close(self) -> None:
        """Give back what the engine holds; it may be started again."""
        ...
