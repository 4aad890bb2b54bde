"""The games as tasks: which there are, and how each is made from its options."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np

from gtrturbo.config.games import GAME_IDS
from gtrturbo.tasks.deals import panel_seeds
from gtrturbo.tasks.games import blackjack, ezpoints, formula, numberline, points24
from gtrturbo.tasks.options import Option
from gtrturbo.tasks.task import Task
from gtrturbo.tasks.view import ChatPrompt, Info, View, ask

Options = Mapping[str, Any]
CHEAPEST = {"image": "tiny"}


@dataclass(frozen=True)
class Game:
    """What a game module gives to its task."""

    settings: Mapping[str, Option]
    reads: tuple[str, ...]
    actions: Callable[[Options], tuple[str, ...]]
    max_turns: Callable[[Options], int]
    prompt: Callable[[Info, Options], str]
    truth: Callable[[Info, Options], dict[str, Any]]
    expert: Callable[[Info, Options], tuple[str, str]]
    random_expert: Callable[[Info, Options, np.random.Generator], tuple[str, str]]
    panels: Callable[[Options], Mapping[str, Sequence[int]]] = lambda options: {"fixed": panel_seeds()}


GAMES = {
    "numberline": Game(
        settings=numberline.LINE_OPTIONS,
        reads=("current number", "target number"),
        actions=lambda options: numberline.STEPS,
        max_turns=lambda options: options["horizon"],
        prompt=numberline.prompt,
        truth=numberline.truth,
        expert=numberline.expert,
        random_expert=numberline.random_expert,
    ),
    "ezpoints": Game(
        settings=formula.FORMULA_OPTIONS,
        reads=("cards", "formula"),
        actions=lambda options: ezpoints.EZPOINTS.actions(options["face_cards_as_10"]),
        max_turns=lambda options: ezpoints.EZPOINTS.limit + 2,
        prompt=ezpoints.prompt,
        truth=ezpoints.truth,
        expert=ezpoints.expert,
        random_expert=ezpoints.random_expert,
    ),
    "blackjack": Game(
        settings=blackjack.BLACKJACK_OPTIONS,
        reads=("player total", "dealer card"),
        actions=lambda options: blackjack.DECISIONS,
        max_turns=lambda options: blackjack.MAX_TURNS,
        prompt=blackjack.prompt,
        truth=blackjack.truth,
        expert=blackjack.expert,
        random_expert=blackjack.random_expert,
    ),
    "points24": Game(
        settings=points24.POINTS24_OPTIONS,
        reads=("cards", "formula"),
        actions=lambda options: points24.POINTS24.actions(options["face_cards_as_10"]),
        max_turns=lambda options: points24.POINTS24.limit + 2,
        prompt=points24.prompt,
        truth=points24.truth,
        expert=points24.expert,
        random_expert=points24.random_expert,
        panels=points24.panels,
    ),
}
TASKS = tuple(GAMES)


def game_task(name: str, options: Options) -> Task:
    """Make the task of a game; `options` are all keyword arguments of its environment."""
    game = GAMES[name]

    def prompt(view: View) -> ChatPrompt:
        return ask(game.prompt(view.info, options), view.picture)

    return Task(
        name=name,
        make=partial(_make, GAME_IDS[name], options),
        blind=partial(_make, GAME_IDS[name], {**options, **CHEAPEST}),
        prompt=prompt,
        actions=game.actions(options),
        reads=game.reads,
        truth=lambda info: game.truth(info, options),
        expert=lambda info: game.expert(info, options),
        random_expert=lambda info, rng: game.random_expert(info, options, rng),
        max_turns=game.max_turns(options),
        panels=game.panels(options),
        options=options,
    )


def _make(env_id: str, options: Options) -> gym.Env:
    return gym.make(env_id, disable_env_checker=True, **options)
