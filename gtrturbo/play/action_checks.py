"""What is checked of a task's actions: that the environment takes what it is given for each."""

from collections.abc import Mapping
from itertools import islice
from typing import Any

import gymnasium as gym
import numpy as np

from gtrturbo.play.trial import Check, Episodes, different
from gtrturbo.tasks.task import Task
from gtrturbo.tasks.view import Info

MOST_GIVEN = 4000


def actions(task: Task, episodes: Episodes) -> Check:
    """Compare what the environment is given for every allowed action with its action space."""
    name, env = "actions", task.open()
    space = getattr(env, "action_space", None)
    env.close()
    found = ((action, state.info) for state in different(episodes) for action in task.allowed(state.info))
    tried = 0
    for action, info in islice(found, MOST_GIVEN):
        if wrong := not_taken(task, space, action, info):
            return Check(name, False, wrong, "let act return what the action space holds, or mend the action space.")
        tried += 1
    said = f"the environment takes each that is allowed, {tried} tried."
    unnamed = int(space.n) - len(task.actions) if isinstance(space, gym.spaces.Discrete) and not callable(task.actions) else 0
    if task.act is None and unnamed > 0:
        return Check(name, None, f"{said} {unnamed} of the environment's {space.n} actions have no name: nobody can choose them.")
    return Check(name, True, said)


def not_taken(task: Task, space: Any, action: str, info: Info) -> str:
    """Say that an environment does not take what it is given for an action; nothing where it does, or has no action space."""
    given = task.given(action, info)
    if not isinstance(space, gym.Space) or holds(space, given):
        return ""
    return f"for {action!r} the environment is given {given!r}, which its action space {space} does not hold."


def holds(space: gym.Space, given: Any) -> bool:
    """Tell whether a space holds a value: numbers of any width, and texts of any letters, which `contains` may refuse."""
    if isinstance(space, gym.spaces.Box):
        numbers = np.asarray(given)
        inside = numbers.shape == space.shape and numbers.dtype.kind in "biuf"
        return inside and bool(np.all((numbers >= space.low) & (numbers <= space.high)))
    if isinstance(space, gym.spaces.Text):
        return isinstance(given, str)
    if isinstance(space, gym.spaces.Dict):
        same = isinstance(given, Mapping) and given.keys() == space.keys()
        return same and all(holds(part, given[name]) for name, part in space.items())
    if isinstance(space, gym.spaces.Tuple):
        same = isinstance(given, tuple | list) and len(given) == len(space)
        return same and all(holds(part, each) for part, each in zip(space, given, strict=True))
    return bool(space.contains(given))
