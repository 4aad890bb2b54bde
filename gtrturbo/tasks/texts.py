"""The texts of a task, prompts and replies, from which a built-in model's tokenizer is made."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np

from gtrturbo.errors import GtrTurboError
from gtrturbo.tasks.task import Info, Task, load_task

# The games whose texts the default tokenizer is made of. It stays what it is when there are more tasks.
CORPUS_GAMES = ("numberline", "ezpoints", "blackjack", "points24")
EPISODES = 100
MOST_TURNS = 100  # Of one episode: an environment need not end by itself.


def corpus() -> Iterator[str]:
    """Yield the texts of the four games, of which the built-in models' tokenizer is made where no task is named."""
    for name in CORPUS_GAMES:
        yield from task_texts(load_task(name, ["image=tiny"]))


def task_texts(task: Task, episodes: int = EPISODES) -> Iterator[str]:
    """Yield the prompts of a task's states, each with a reply: the expert's, or a random action where there is no expert.

    Args:
        task: what is played.
        episodes: how many; the first is that of seed 0, and the texts are the same each time.
    """
    rng = np.random.default_rng(0)
    with closing(task.make()) as env:
        for episode in range(episodes):
            _, info = env.reset(seed=episode)
            for _ in range(MOST_TURNS):
                yield task.prompt(info)
                reply, action = _reply(task, info, rng)
                yield reply
                _, _, terminated, truncated, info = env.step(task.actions.index(action))
                if terminated or truncated:
                    break


def _reply(task: Any, info: Info, rng: np.random.Generator) -> tuple[str, str]:
    """Return a reply's text and its action; a task need not have an expert."""
    expert = getattr(task, "expert", None)
    if expert is None:
        action = task.actions[rng.integers(len(task.actions))]
        return action, action
    reply = expert(info)
    parsed = task.parse(reply)
    if parsed is None:
        raise GtrTurboError(f"{task.name} cannot read its own expert's reply {reply!r}.", "mend its parse, or its expert.")
    return reply, parsed.action
