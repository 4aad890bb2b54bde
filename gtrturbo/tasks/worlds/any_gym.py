"""gym:ID, any environment of Gymnasium's registry that draws frames and has a discrete action space."""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import load_env_creator

from gtrturbo.errors import GtrTurboError
from gtrturbo.plugins import SUFFIX, from_module
from gtrturbo.tasks.deals import plain_panel_seeds
from gtrturbo.tasks.environment import PlayedEnv, telling
from gtrturbo.tasks.task import Task
from gtrturbo.tasks.view import ChatPrompt, Past, View, WonByReturn, ask, described, is_picture, won_by_info
from gtrturbo.tasks.worlds.frames import draw_unseen, require_known, require_within, shrunk
from gtrturbo.tasks.worlds.gym_settings import Settings, settled
from gtrturbo.tasks.worlds.observations import in_words, is_plain

PIXELS = "bytes (uint8) [height, width, 3]"
OBSERVED, MASK = "observed", "action_mask"
BRINGS = {"ALE/": "ale_py", "BabyAI-": "minigrid", "MiniGrid-": "minigrid", "miniwob/": "miniwob"}  # Modules, by how ids begin.


def any_gym(
    environment: str,
    *,
    prompt: str | None = None,
    actions: str | None = None,
    size: int | None = None,
    frames: int | None = None,
    history: int | None = None,
    observation: bool | None = None,
    horizon: int | None = None,
    win_return: float | None = None,
    file: str = "",
) -> Task:
    """Make the task of an environment by its id, MODULE:ID where a module must be imported for it.

    An `action_mask`, of an info or else of a dict that is observed, says which actions a state allows.

    Args:
        environment: its id, with its version.
        prompt: what to do, in words; of what else stands in the prompt see `_text`.
        actions: names of the actions in the order of their numbers, with commas between; the environment's own if not given.
        size: pixels of a frame's longer side; 0, the default, leaves it as it is drawn.
        frames: so many of the last frames, oldest first, as an image each; 1 if not given.
        history: so many of the last turns in words, oldest first; none if not given.
        observation: whether texts, and the texts and numbers of a dict or tuple, that are observed stand in the prompt; they do.
        horizon: turns after which an episode is cut; 0, the default, leaves it to the environment.
        win_return: an episode is won that pays at least so much; if not given, as its info says, else by the environment's
            reward_threshold, else by a return above 0 where the environment's rules end it.
        file: YAML file with any of these; and `make`, the environment's own arguments. What is given beside it counts.

    Raises: GtrTurboError: there is no such environment, or it cannot be played: names what it lacks.
    """
    given = {"prompt": prompt, "actions": actions, "size": size, "frames": frames, "history": history}
    given |= {"observation": observation, "horizon": horizon, "win_return": win_return}
    how = settled(given, file)
    name, known_id = f"gym:{environment}", _imported(environment)
    require_known(known_id, name, otherwise=_where_else(environment))
    draw_unseen()
    mode = _mode(name, known_id)
    make = partial(gym.make, known_id, disable_env_checker=True, **(how.make or {}))
    drawing = partial(make, render_mode=mode) if mode else make
    with telling(name, "cannot be made"):
        made = PlayedEnv(drawing(), name)
    with closing(made) as env:
        names = _names(name, env, how.actions)
        observed, _ = env.reset(seed=0)
        renders = _renders(name, env, observed)
        require_within(name, env.spec.max_episode_steps if env.spec else None, how.horizon)
        first = int(env.action_space.start)  # type: ignore[attr-defined]
    return Task(
        name=name,
        make=drawing,
        blind=_blind(name, make, drawing),
        prompt=partial(_prompt, how=how, name=known_id, names=names, renders=renders),
        actions=partial(_allowed, names=names),
        act=lambda action, info: first + names.index(action),
        known=partial(_known, name=name, shows=how.observation, count=len(names)),
        won=_won(known_id, how.win_return),
        max_turns=how.horizon or None,
        panels={"fixed": plain_panel_seeds()},
    )


def _blind(name: str, make: Callable[[], gym.Env], drawing: Callable[[], gym.Env]) -> Callable[[], gym.Env]:
    """Return how the environment is made where no picture is looked at: the one that draws where it does not play without."""
    try:
        with telling(name, "cannot be made without pictures"), closing(PlayedEnv(make(), name)) as env:
            env.reset(seed=0)
    except GtrTurboError:
        return drawing
    return make


def _imported(environment: str) -> str:
    """Import the module that an id names, and return the id without it."""
    module, colon, rest = environment.rpartition(":")
    if module.endswith(SUFFIX):
        file = Path(module)
        raise GtrTurboError(
            f"gym: takes a module, and {module} is a file.",
            f"set PYTHONPATH to the folder {file.parent.absolute()} and write: gym:{file.stem}:{rest}",
        )
    if colon:
        from_module("task", module)
    return rest


def _where_else(environment: str) -> str:
    """Say what brings an environment that is not known, unless a module is named that was to bring it."""
    if ":" in environment:
        return ""
    module = next((module for begins, module in BRINGS.items() if environment.startswith(begins)), "MODULE")
    return f"; one that a module of a package or of your own makes known is gym:{module}:{environment or 'ID'}"


def _mode(name: str, environment: str) -> str | None:
    """Return how the environment is to draw; None where nothing says that it takes rgb_array, and then it must draw unasked."""
    entry = gym.spec(environment).entry_point
    if entry is None:
        raise GtrTurboError(f"{name} is made as a vector of many alone, and one is played.", "give it an entry_point of its own.")
    with telling(name, "cannot be made"):
        creator = load_env_creator(entry) if isinstance(entry, str) else entry
    if isinstance(creator, type):
        return "rgb_array" if "rgb_array" in getattr(creator, "metadata", {}).get("render_modes", []) else None
    takes = inspect.signature(creator).parameters.values()  # type: ignore[arg-type]
    return "rgb_array" if any(each.name == "render_mode" or each.kind is each.VAR_KEYWORD for each in takes) else None


def _names(name: str, env: gym.Env, given: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the actions: those that are given, those of the environment, or their numbers."""
    space = env.action_space
    if not isinstance(space, gym.spaces.Discrete):
        what = "continuous actions" if isinstance(space, gym.spaces.Box) else "actions of several parts"
        raise GtrTurboError(f"{name} has {what} ({space}).", "take an environment whose action space is Discrete.")
    count, first = int(space.n), int(space.start)
    with telling(name, "fails at get_action_meanings()"):
        meanings = [str(each).lower() for each in getattr(env.unwrapped, "get_action_meanings", lambda: [])()]
    own = meanings if len(set(meanings)) == count else map(str, range(first, first + count))
    names = tuple(given or own)
    if len(names) != count or len(set(names)) < count or not all(names):
        raise GtrTurboError(
            f"{name} has {count} actions, and these are {len(set(names))}: {', '.join(names)}.", "name each once."
        )
    return names


def _renders(name: str, env: gym.Env, observation: Any) -> bool:
    """Tell whether what is rendered is shown, and not what is observed: where that is no picture, or one of another size.

    Symbols are observed as bytes of that form, too.

    Raises: GtrTurboError: there is no picture. Refused here, not in the middle of a run.
    """
    drawn = env.render()
    if is_picture(drawn):
        return not is_picture(observation) or drawn.shape != observation.shape
    if is_picture(observation):
        return False
    modes = ", ".join(map(str, env.metadata.get("render_modes", []))) or "nothing"
    draws = f"draws {modes}, not rgb_array" if drawn is None else f"draws {described(drawn)}, not {PIXELS}"
    if env.render_mode == "rgb_array" and drawn is None:
        draws = "draws nothing, though it was asked for rgb_array"
    raise GtrTurboError(
        f"{name} shows no frames: it observes {described(observation)} and {draws}.",
        f"take an environment that draws rgb_array, or let it draw {PIXELS}.",
    )


def _known(env: gym.Env, observation: Any, info: Mapping[str, Any], *, name: str, shows: bool, count: int) -> dict[str, Any]:
    """Keep of an info what JSON can hold, which actions are allowed, and what of the observation the prompt shows."""
    found = {str(key): value for key, value in info.items() if is_plain(value)}
    observed = observation if isinstance(observation, Mapping) else {}
    mask = info[MASK] if info.get(MASK) is not None else observed.get(MASK)
    found |= {MASK: _flags(name, mask, count)} if mask is not None else {}
    words = _observed(observation) if shows else ""
    return {**found, OBSERVED: words} if words else found


def _flags(name: str, mask: Any, count: int) -> list[Any]:
    """Read a mask of actions.

    Raises: GtrTurboError: it is not one flag for each; a list of those that are allowed is none.
    """
    flags = np.asarray(mask) if isinstance(mask, np.ndarray | list | tuple) else np.empty(0)
    if flags.size != count or flags.dtype.kind not in "biuf" or not np.isin(flags, (0, 1)).all():
        raise GtrTurboError(
            f"action_mask of {name} is {np.array2string(flags, threshold=8) if flags.size else mask!r}.",
            f"let it be {count} flags, 1 for each action that is allowed and 0 for each other, in their order.",
        )
    return flags.ravel().tolist()


def _observed(observation: Any) -> str:
    """Put an observation into words, without the mask that says which actions there are."""
    kept = isinstance(observation, Mapping) and MASK in observation
    return in_words({key: value for key, value in observation.items() if key != MASK} if kept else observation)


def _allowed(info: Mapping[str, Any], *, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the actions that the mask allows; all where there is none, or it allows nothing, as at an end."""
    mask = info.get(MASK) or [True] * len(names)
    return tuple(name for name, allows in zip(names, mask, strict=True) if allows) or names


def _prompt(view: View, *, how: Settings, name: str, names: tuple[str, ...], renders: bool) -> ChatPrompt:
    before = [past.images[-1] for past in view.history[-how.frames + 1 :]] if how.frames > 1 else []
    picture = shrunk(view.frame if renders else view.picture, how.size)
    return ask(_text(view, how, name, _allowed(view.info, names=names), images=1 + len(before)), *before, picture)


def _text(view: View, how: Settings, name: str, actions: Sequence[str], *, images: int) -> str:
    """Say what to do, what is observed, what was done before, and how to reply."""
    shown = "The image shows the state" if images == 1 else f"The {images} images show the last states, the newest last"
    told = [how.prompt or f"You play {name}.", f"{shown}."]
    if how.observation and (observed := _observed(view.observation)):
        told.append(f"You observe: {observed}.")
    if past := view.history[-how.history :] if how.history else ():
        told.append(f"Your last turns, oldest first: {'; '.join(map(_turn, past))}.")
    choice = json.dumps(" or ".join(actions), ensure_ascii=False)
    told.append(f'Reply with JSON only: {{"thoughts": "what to do", "action": {choice}}}')
    return " ".join(told)


def _turn(past: Past) -> str:
    return f"{past.action or 'nothing'}, reward {past.reward:g}"


def _won(environment: str, least: float | None):
    """Tell what decides whether an episode is won."""
    if least is not None:
        return WonByReturn(least, "win_return")
    threshold = gym.spec(environment).reward_threshold
    return won_by_info if threshold is None else WonByReturn(float(threshold), "reward_threshold", info_first=True)
