"""The texts of a task, prompts and replies, from which a built-in model's tokenizer is made."""

from collections.abc import Iterator

import gymnasium as gym
import numpy as np

from gtrturbo.errors import GtrTurboError
from gtrturbo.tasks.chance import turn_limit
from gtrturbo.tasks.environment import closed_after
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.task import Task
from gtrturbo.tasks.view import ChatPrompt, Info, Past, View

# The games whose texts the default tokenizer is made of. It stays what it is when there are more tasks.
CORPUS_GAMES = ("numberline", "ezpoints", "blackjack", "points24")
EPISODES = 100


def corpus() -> Iterator[str]:
    """Yield the texts of the four games, of which the built-in models' tokenizer is made where no task is named."""
    for name in CORPUS_GAMES:
        yield from task_texts(load_task(name, ["image=tiny"]), wander=False)


def task_texts(task: Task, episodes: int = EPISODES, *, wander: bool = True) -> Iterator[str]:
    """Yield the prompts of a task's states, each with a reply: the expert's, else the random expert's, else an action's text.

    Args:
        task: what is played.
        episodes: how many; the first is that of seed 0, and the texts are the same each time.
        wander: play every other episode at random, so that there are texts of states that no expert comes to.
    """
    rng = np.random.default_rng(0)
    with closed_after(task.open()) as env:
        for episode in range(episodes):
            yield from _episode(task, env, episode, rng, at_random=wander and episode % 2 == 1)


def _episode(task: Task, env: gym.Env, seed: int, rng: np.random.Generator, *, at_random: bool) -> Iterator[str]:
    observation, info = env.reset(seed=seed)
    history: list[Past] = []
    for _ in range(turn_limit(task, env)):
        known = task.know(env, observation, info)
        prompt = task.ask(View(observation, known, tuple(history), env.render))
        yield from words(prompt)
        reply, action = _reply(task, known, rng)
        yield reply
        if at_random:
            allowed = task.allowed(known)
            action = allowed[rng.integers(len(allowed))]
            yield action
        observation, reward, terminated, truncated, info = env.step(task.given(action, known))
        history.append(Past(known, reply, action, reward, prompt.images))
        if terminated or truncated:
            return


def words(prompt: ChatPrompt) -> Iterator[str]:
    """Yield the texts of a prompt's messages."""
    for message in prompt.messages:
        parts = message["content"]
        yield from [parts] if isinstance(parts, str) else [part["text"] for part in parts if part["type"] == "text"]


def _reply(task: Task, info: Info, rng: np.random.Generator) -> tuple[str, str]:
    """Return a reply's text and its action; a task need not have an expert."""
    if not (task.expert or task.writes_random_replies):
        allowed = task.allowed(info)
        action = allowed[rng.integers(len(allowed))]
        return action, action
    reply = task.expert_reply(info) if task.expert else task.random_expert_reply(info, rng)
    parsed = task.read(reply, info)
    if parsed is None:
        raise GtrTurboError(f"{task.name} cannot read its own expert's reply {reply!r}.", "mend its parse, or its expert.")
    return reply, parsed.action
