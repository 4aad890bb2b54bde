"""An environment as it is played: what it hands out stays as it was then, and what it raises is told in a sentence."""

import math
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import DependencyNotInstalled

from gtrturbo.errors import GtrTurboError, said_by
from gtrturbo.plugins import found_beside, line_of
from gtrturbo.tasks.view import flag

OWN = [Path(__file__).parent / folder for folder in ("games", "worlds", "alf")]  # This package's own environments.
STEP = ("observation", "reward", "terminated", "truncated", "info")


class PlayedEnv(gym.Wrapper):
    """An environment whose arrays are copied as they are handed out, for many draw into the same one again at the next step.

    Rewards are made numbers. What the environment raises names it, the call, and the user's own line.
    """

    def __init__(self, env: gym.Env, name: str) -> None:
        super().__init__(env)
        self.name = name

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Reset the environment.

        Raises: GtrTurboError: it raises anything, or returns something else than an observation and an info.
        """
        with telling(self.name, f"fails at reset(seed={seed})"):
            given = self.env.reset(seed=seed) if options is None else self.env.reset(seed=seed, options=options)
        if not isinstance(given, tuple) or len(given) != 2 or not isinstance(given[1], Mapping):
            raise GtrTurboError(f"reset of {self.name} returns {_listed(given)}.", "return an observation and an info, a dict.")
        return copied(given)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Go on by an action.

        Raises: GtrTurboError: it raises anything, returns something else than a step has, a reward that is no finite number, or
            an end that is neither true nor false.
        """
        with telling(self.name, f"fails at step({action!r})"):
            given = self.env.step(action)
        if not isinstance(given, tuple) or len(given) != len(STEP) or not isinstance(given[4], Mapping):
            raise GtrTurboError(f"step of {self.name} returns {_listed(given)}.", f"return {', '.join(STEP)}, a dict.")
        observation, reward, terminated, truncated, info = copied(given)
        ended, cut = _flag(self.name, "terminated", terminated), _flag(self.name, "truncated", truncated)
        return observation, _number(self.name, reward, action), ended, cut, info

    def render(self):
        """Draw; None where the environment has no pictures.

        Raises: GtrTurboError: it raises anything else.
        """
        with telling(self.name, "fails at render()"), suppress(NotImplementedError):
            return copied(self.env.render())

    def close(self) -> None:
        """Let go of what the environment holds.

        Raises: GtrTurboError: it raises anything.
        """
        with telling(self.name, "fails at close()"):
            self.env.close()


def close_after_failure(env: gym.Env) -> None:
    """Close an environment while an error is raised; one of its own is not told in place of that."""
    with suppress(Exception):
        env.close()


@contextmanager
def closed_after(env: PlayedEnv) -> Iterator[PlayedEnv]:
    """Close an environment when the block ends, also where it raises; see `close_after_failure`."""
    try:
        yield env
    except BaseException:
        close_after_failure(env)
        raise
    env.close()


def require_counted(env: gym.Env, name: str) -> None:
    """Refuse an environment that cannot be given the places of actions in a list, counted from 0, and close it.

    Raises: GtrTurboError: its action space holds something else.
    """
    space = getattr(env, "action_space", None)
    if not isinstance(space, gym.Space) or (isinstance(space, gym.spaces.Discrete) and space.start == 0):
        return
    env.close()
    first = f"{space.start} + " if isinstance(space, gym.spaces.Discrete) else "MOVES[action], not "
    raise GtrTurboError(
        f"{name} has the action space {space}, which does not count actions from 0, and is to be given their places.",
        f"say with act what it is given: act=lambda action, info: {first}ACTIONS.index(action)",
    )


@contextmanager
def telling(name: str, fails: str) -> Iterator[None]:
    """Say of what an environment raises which one it is, where it fails, and at which line of the user's own.

    Raises: GtrTurboError: instead of anything else but the want of memory, and what is a fault of this package.
    """
    try:
        yield
    except (GtrTurboError, MemoryError):
        raise
    except (DependencyNotInstalled, ImportError) as error:
        raise GtrTurboError(f"{name} {fails}: {_told(error)}.", found_beside(error) or "install what it needs.") from error
    except Exception as error:
        line = line_of(error)
        if line is None and set(OWN) & set(Path(traceback.extract_tb(error.__traceback__)[-1].filename).parents):
            raise
        said = f"{type(error).__name__}: {_told(error)}"
        where = f"{line.filename} line {line.lineno} raises " if line else ""
        fix = line.line if line else "for the full trace give the same command again with --debug."
        raise GtrTurboError(f"{name} {fails}: {where}{said}.", fix or "") from error


def copied(value: Any) -> Any:
    """Copy the arrays of a value, those in tuples, lists and dicts too."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if type(value) in (tuple, list):
        return type(value)(map(copied, value))
    if isinstance(value, dict):  # An OrderedDict stays one.
        same = copy(value)
        same.update((key, copied(each)) for key, each in value.items())
        return same
    return value


def _number(name: str, reward: Any, action: Any) -> float:
    """Return a reward as a number: arrays of one are numbers, too."""
    number = np.asarray(reward)
    if number.size != 1 or number.dtype.kind not in "biuf":
        raise GtrTurboError(f"{name} pays {reward!r}, which is no number.", "let step return a number as its reward.")
    if not math.isfinite(number.item()):
        raise GtrTurboError(f"{name} pays {number.item()} at step({action!r}).", "let rewards be finite.")
    return float(number.item())


def _flag(name: str, called: str, value: Any) -> bool:
    """Return whether an episode ended; see `flag`."""
    found = flag(value)
    if found is None:
        raise GtrTurboError(f"step of {name} returns {value!r} for {called}.", "return True or False.")
    return found


def _listed(given: Any) -> str:
    kinds = [type(each).__name__ for each in given] if isinstance(given, tuple) else [type(given).__name__]
    return ", ".join(kinds) or "nothing"


def _told(error: Exception) -> str:
    return said_by(error).rstrip(".")
