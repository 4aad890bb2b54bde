"""A task in numbers, from a few episodes: how long its prompts and replies are, how many turns it takes, and its pictures."""

import io
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from gtrturbo.tasks.chance import turn_limit
from gtrturbo.tasks.environment import PlayedEnv, closed_after
from gtrturbo.tasks.task import Task
from gtrturbo.tasks.texts import words
from gtrturbo.tasks.view import ChatPrompt, Past, View

# Text is counted as one token per so many characters, which is more than tokenizers of large vocabularies make of it.
CHARACTERS_PER_TOKEN = 3
TEMPLATE_TOKENS = 16
SAMPLED_EPISODES = 16
# Bytes of a row of turns.jsonl besides prompt and reply.
ROW = 800
# Characters of a reply where no expert shows one.
REPLY = 200


@dataclass(frozen=True)
class Play:
    """A task in numbers: tokens of a prompt without its pictures, and of a true reply; turns per episode; bytes per turn.

    `pictures` are the sizes of the pictures of a prompt, height and breadth, once for all prompts that have the same. `longest`
    is the prompt with the most characters, `largest` the one with the most pixels.
    """

    text: int
    pictures: tuple[tuple[tuple[int, int], ...], ...]
    reply: int
    turns: float
    row: int
    png: float
    longest: ChatPrompt = field(default_factory=lambda: ChatPrompt([], []), repr=False, compare=False)
    largest: ChatPrompt = field(default_factory=lambda: ChatPrompt([], []), repr=False, compare=False)


def sample(task: Task) -> Play:
    """Play a few episodes with random actions, and look at prompts, pictures and the expert's replies."""
    with closed_after(task.open()) as env:
        return _played(task, env)


def _played(task: Task, env: PlayedEnv) -> Play:
    rng = np.random.default_rng(0)
    prompts, replies, turns = [], [], 0
    pictures: dict[bytes, int] = {}
    sizes: dict[tuple[tuple[int, int], ...], None] = {}
    longest = largest = ChatPrompt([], [])
    for episode in range(SAMPLED_EPISODES):
        observation, info = env.reset(seed=episode)
        history: list[Past] = []
        for _ in range(turn_limit(task, env)):
            known = task.know(env, observation, info)
            prompt = task.ask(View(observation, known, tuple(history), env.render))
            prompts.append(sum(map(len, words(prompt))))
            longest = prompt if prompts[-1] == max(prompts) else longest
            largest = prompt if _pixels(prompt) > _pixels(largest) else largest
            reply = task.expert_reply(known) if task.expert else "?" * REPLY
            replies.append(len(reply))
            pictures |= {picture.tobytes(): _png(picture) for picture in prompt.images}
            sizes[tuple((len(picture), picture.shape[1]) for picture in prompt.images)] = None
            turns += 1
            allowed = task.allowed(known)
            action = allowed[int(rng.integers(len(allowed)))]
            observation, reward, terminated, truncated, info = env.step(task.given(action, known))
            history.append(Past(known, reply, action, reward, prompt.images))
            if terminated or truncated:
                break
    return Play(
        text=TEMPLATE_TOKENS + _tokens(max(prompts)),
        pictures=tuple(sizes),
        reply=_tokens(max(replies)),
        turns=turns / SAMPLED_EPISODES,
        row=ROW + max(prompts) + max(replies),
        png=sum(pictures.values()) / turns,
        longest=longest,
        largest=largest,
    )


def _pixels(prompt: ChatPrompt) -> int:
    return sum(len(picture) * picture.shape[1] for picture in prompt.images)


def _tokens(characters: int) -> int:
    return -(-characters // CHARACTERS_PER_TOKEN)


def _png(picture: np.ndarray) -> int:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "png")
    return file.tell()
