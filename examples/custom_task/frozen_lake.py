"""A task of one's own: Gymnasium's FrozenLake, read off its picture. docs/your-own-task.md goes through it.

gtrturbo check-task examples/custom_task/frozen_lake.py:TASK --model small
gtrturbo run --task examples/custom_task/frozen_lake.py:TASK --model small --method ppo --out runs/lake
"""

from functools import partial
from typing import Literal

import gymnasium as gym
import numpy as np
from PIL import Image

from gtrturbo.tasks import ChatPrompt, Task, View, ask

MOVES = {"left": (0, -1), "down": (1, 0), "right": (0, 1), "up": (-1, 0)}  # In the order of the environment's numbers.
TEXT = 'Walk to the flag. Reply: {"row": digit, "column": digit, "thoughts": "go where", "action": "left, down, right or up"}'


def prompt(view: View) -> ChatPrompt:
    """Show the lake in a size that a small model can read."""
    return ask(TEXT, np.asarray(Image.fromarray(view.picture).resize((112, 112))))


def known(env: gym.Env, observation: int, info: dict) -> dict:
    """Say where the player stands, and on what lake."""
    row, column = divmod(int(observation), env.unwrapped.ncol)
    return {"row": row, "column": column, "lake": [b"".join(line).decode() for line in env.unwrapped.desc]}


def expert(info: dict) -> tuple[str, str]:
    """Take the first move of a shortest way over the ice, breadth first."""
    lake, size, first = info["lake"], range(len(info["lake"])), {(info["row"], info["column"]): ""}
    for row, column in (places := list(first)):
        for move, (down, right) in MOVES.items():
            r, c = row + down, column + right
            if r in size and c in size and lake[r][c] != "H" and (r, c) not in first:
                first[r, c] = first[row, column] or move
                places.append((r, c))
    return say(first[size[-1], size[-1]])  # The flag stands in the last corner.


def say(move: str) -> tuple[str, str]:
    """Put a move into thoughts and action."""
    return f"go {move}", move


def TASK(*, slippery: bool = False, map_name: Literal["4x4", "8x8"] = "4x4", horizon: int = 12) -> Task:
    """Make the task; each keyword is an option: --env slippery=true."""
    make = partial(gym.make, "FrozenLake-v1", map_name=map_name, is_slippery=slippery, max_episode_steps=horizon)
    return Task(
        name="frozen-lake",
        make=partial(make, render_mode="rgb_array"),
        blind=make,
        prompt=prompt,
        actions=tuple(MOVES),
        known=known,
        reads=("row", "column"),
        truth=lambda info: {"row": info["row"], "column": info["column"]},
        expert=expert,
        random_expert=lambda info, rng: say(str(rng.choice(list(MOVES)))),
        won=lambda end: end.total > 0,
    )
