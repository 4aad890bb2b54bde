"""A task tried without a model: some dozen episodes of scripted play, and what a check says of them."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from gtrturbo.errors import GtrTurboError
from gtrturbo.play.episodes import Agent, Played, Response, State, play_episodes
from gtrturbo.store.ids import seed_for
from gtrturbo.tasks.task import Task

EPISODES = 24
MOST_PLAYED = 2000  # Turns; no further episode is begun after so many.
Episodes = Sequence[Sequence[Played]]


@dataclass(frozen=True)
class Check:
    """One check: whether it passed (None: it is only told), what was seen, and what mends it."""

    name: str
    passed: bool | None
    said: str
    fix: str = ""


def check(name: str, look: Callable[[], Check]) -> Check:
    """Make a check of a look at the task; what the interface itself refuses is a check that failed."""
    try:
        return look()
    except GtrTurboError as error:
        return Check(name, False, error.what, error.fix)


def play(task: Task, *, num_envs: int, episodes: int = EPISODES) -> list[list[Played]]:
    """Play some dozen episodes, a third each by the expert, by the random expert, and by chance."""
    found: list[list[Played]] = []
    asked = {"seed": 0, "episodes": range(episodes), "num_envs": num_envs, "on_invalid_reply": "random"}
    with closing(play_episodes(_scripted(task), task, **asked)) as playing:
        for episode in playing:
            found.append(episode)
            if num_envs == 1 and sum(map(len, found)) > MOST_PLAYED:
                break
    return sorted(found, key=lambda episode: episode[0].state.episode)


def _scripted(task: Task) -> Agent:
    return lambda states: [Response(_script(task, state)) for state in states]


def _script(task: Task, state: State) -> str:
    """Reply as who plays the episode; what is not to be read is played by chance."""
    if player(task, state.episode) == "expert":
        return task.expert_reply(state.info)
    if player(task, state.episode) == "random expert":
        return task.random_expert_reply(state.info, np.random.default_rng(seed_for(0, "check", state.episode, state.turn)))
    return ""


def player(task: Task, episode: int) -> str:
    """Say who plays an episode: expert, random expert, or chance."""
    if episode % 3 == 0 and task.expert:
        return "expert"
    return "random expert" if episode % 3 == 1 and task.writes_random_replies else "chance"


def states(episodes: Episodes) -> Iterator[State]:
    """Yield every state that was asked about."""
    return (played.state for episode in episodes for played in episode)


def different(episodes: Episodes) -> Iterator[State]:
    """Yield the states of which different things are known, or asked."""
    seen: set[str] = set()
    for state in states(episodes):
        if (known := identity(state)) not in seen:
            seen.add(known)
            yield state


def identity(state: State) -> str:
    """Write down what is known of a state and what is asked about it, by which it is told from others, but for its pictures."""
    return json.dumps([state.info, state.messages], sort_keys=True, default=lambda part: type(part).__name__)


def range_of(numbers: Sequence[int]) -> str:
    """Write the span of numbers that are sorted."""
    return str(numbers[0]) if numbers[0] == numbers[-1] else f"{numbers[0]} to {numbers[-1]}"
