"""The interface to the games for everything else: make, prompt, parse, truth, expert."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np

from gtrturbo.errors import GtrTurboError
from gtrturbo.tasks.games import blackjack, ezpoints, numberline, points24
from gtrturbo.tasks.options import Option, default, read_option
from gtrturbo.tasks.reply import Reply, read_reply, same

Info = Mapping[str, Any]
Options = Mapping[str, Any]


@dataclass(frozen=True)
class Game:
    """What a game module gives to its task."""

    env_id: str
    settings: Mapping[str, Option]
    reads: tuple[str, ...]  # names of the fields that `truth` gives
    actions: Callable[[Options], tuple[str, ...]]
    max_turns: Callable[[Options], int]
    prompt: Callable[[Info, Options], str]
    truth: Callable[[Info, Options], dict[str, Any]]
    expert: Callable[[Info, Options], tuple[str, str]]
    random_expert: Callable[[Info, Options, np.random.Generator], tuple[str, str]]


GAMES = {
    "numberline": Game(
        env_id="gtrturbo/NumberLine-v0",
        settings=numberline.OPTIONS,
        reads=("current number", "target number"),
        actions=lambda options: numberline.ACTIONS,
        max_turns=lambda options: options["horizon"],
        prompt=numberline.prompt,
        truth=numberline.truth,
        expert=numberline.expert,
        random_expert=numberline.random_expert,
    ),
    "ezpoints": Game(
        env_id="gtrturbo/EZPoints-v0",
        settings=ezpoints.OPTIONS,
        reads=("cards", "formula"),
        actions=lambda options: ezpoints.RULES.actions(options["face_cards_as_10"]),
        max_turns=lambda options: ezpoints.RULES.limit + 2,
        prompt=ezpoints.prompt,
        truth=ezpoints.truth,
        expert=ezpoints.expert,
        random_expert=ezpoints.random_expert,
    ),
    "blackjack": Game(
        env_id="gtrturbo/Blackjack-v0",
        settings=blackjack.OPTIONS,
        reads=("player total", "dealer card"),
        actions=lambda options: blackjack.ACTIONS,
        max_turns=lambda options: blackjack.MAX_TURNS,
        prompt=blackjack.prompt,
        truth=blackjack.truth,
        expert=blackjack.expert,
        random_expert=blackjack.random_expert,
    ),
    "points24": Game(
        env_id="gtrturbo/Points24-v0",
        settings=points24.OPTIONS,
        reads=("cards", "formula"),
        actions=lambda options: points24.RULES.actions(options["face_cards_as_10"]),
        max_turns=lambda options: points24.RULES.limit + 2,
        prompt=points24.prompt,
        truth=points24.truth,
        expert=points24.expert,
        random_expert=points24.random_expert,
    ),
}
TASKS = tuple(GAMES)


@dataclass(frozen=True)
class Task:
    """One game with its settings.

    Attributes:
        name: one of `TASKS`.
        env_id: for `gymnasium.make`.
        actions: the text of each action, in the order of the environment's action numbers.
        options: every keyword argument of the environment, defaults included.
    """

    name: str
    env_id: str
    actions: tuple[str, ...]
    options: dict[str, Any]

    def make(self) -> gym.Env:
        """Make the environment."""
        return gym.make(self.env_id, disable_env_checker=True, **self.options)

    @property
    def max_turns(self) -> int:
        """The number of turns after which no episode goes on."""
        return GAMES[self.name].max_turns(self.options)

    def prompt(self, info: Info) -> str:
        """Return the user's text for a state; what the picture shows is not told, but for the current formula."""
        return GAMES[self.name].prompt(info, self.options)

    def parse(self, text: str) -> Reply | None:
        """Read a reply strictly; None unless it is one JSON object with the right fields, a legal action last.

        A code fence around the object is allowed. See `read_reply`.
        """
        return read_reply(text, required=(*GAMES[self.name].reads, "thoughts", "action"), actions=self.actions)

    def truth(self, info: Info) -> dict[str, Any]:
        """Return the fields that are read off the picture, with their true values."""
        return GAMES[self.name].truth(info, self.options)

    def perception_correct(self, reply: Reply, info: Info) -> bool:
        """Say whether every field that is read off the picture has its true value.

        Numbers may stand as text and text as numbers; case and spaces do not matter; a ten is `10` or `T`.
        """
        return all(same(reply.fields[name], value) for name, value in self.truth(info).items())

    def expert(self, info: Info) -> str:
        """Return a whole reply with true fields, true thoughts and a good action, as JSON on one line."""
        return self._reply(info, *GAMES[self.name].expert(info, self.options))

    def random_expert(self, info: Info, rng: np.random.Generator) -> str:
        """Return a reply of an expert who reads truly and keeps to the rules, but does not know what wins: the action is drawn.

        The turns before must be a random expert's too.
        """
        return self._reply(info, *GAMES[self.name].random_expert(info, self.options, rng))

    def _reply(self, info: Info, thoughts: str, action: str) -> str:
        return json.dumps({**self.truth(info), "thoughts": thoughts, "action": action}, ensure_ascii=False)

    def won(self, info: Info) -> bool:
        """Say whether the episode ended in a win."""
        return bool(info["won"])


def load_task(name: str, options: Sequence[str] = ()) -> Task:
    """Return a task by its name or environment id, with settings written `key=value`.

    Raises: GtrTurboError: An unknown task, key or value; the alternatives are listed.
    """
    ids = {game.env_id.lower(): known for known, game in GAMES.items()}
    known = ids.get(name.lower(), name.lower())
    if known not in GAMES:
        raise GtrTurboError(f"there is no task {name!r}.", f"choose one of: {', '.join(TASKS)}.")
    game = GAMES[known]
    values: dict[str, Any] = {key: default(option) for key, option in game.settings.items()}
    for text in options:
        key, equals, value = text.partition("=")
        if not equals or key not in game.settings:
            wrong = f"{known} has no option {key!r}." if equals else f"{text!r} is not of the form key=value."
            raise GtrTurboError(wrong, f"its options are: {', '.join(game.settings)}.")
        values[key] = read_option(key, value, game.settings[key])
    return Task(name=known, env_id=game.env_id, actions=game.actions(values), options=values)


def chance(task: Task, *, episodes: int, seed: int) -> dict[str, float]:
    """Play without a model, to tell what a policy that sees nothing achieves.

    Args:
        task: the game; its picture size does not matter.
        episodes: hands per policy, the same hands for each.
        seed: of the hands and of the random actions.

    Returns: `random`, success rate of uniformly random actions, and `random_return`, their mean return; `constant`,
        success rate of the best single action, `constant_return` its mean return and `constant_action` its number. Of
        actions with equal success the one with the highest return counts.
    """
    env = replace(task, options={**task.options, "image": "tiny"}).make()
    seeds = [int(word) for word in np.random.SeedSequence(seed).generate_state(episodes)]
    rng = np.random.default_rng(seed)
    wins, mean_return = _play(env, seeds, lambda: int(rng.integers(len(task.actions))))
    constants = [(*_play(env, seeds, lambda action=action: action), -action) for action in range(len(task.actions))]
    constant, constant_return, negative = max(constants)
    return {
        "random": wins,
        "random_return": mean_return,
        "constant": constant,
        "constant_return": constant_return,
        "constant_action": -negative,
    }


def _play(env: gym.Env, seeds: Sequence[int], choose: Callable[[], int]) -> tuple[float, float]:
    """Return success rate and mean return over one episode per seed."""
    wins, rewards = 0, 0.0
    for seed in seeds:
        _, info = env.reset(seed=seed)
        ended = False
        while not ended:
            _, reward, terminated, truncated, info = env.step(choose())
            rewards += float(reward)
            ended = terminated or truncated
        wins += info["won"]
    return wins / len(seeds), rewards / len(seeds)
