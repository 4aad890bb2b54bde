"""gym:ID, any environment of Gymnasium's registry that draws frames and has a discrete action space."""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import load_env_creator
from gymnasium.error import DependencyNotInstalled

from gtrturbo.config.yaml_files import read_yaml
from gtrturbo.errors import GtrTurboError
from gtrturbo.tasks.deals import panel_seeds
from gtrturbo.tasks.options import Option, Whole, check_options
from gtrturbo.tasks.task import Task
from gtrturbo.tasks.view import ChatPrompt, Ending, Past, View, ask, described, is_picture, won_by_info
from gtrturbo.tasks.worlds.frames import draw_unseen, require_known, shrunk

FRAME_BOUNDS: dict[str, Option] = {
    "size": Whole(0, 0, 4096),
    "frames": Whole(1, 1, 16),
    "history": Whole(0, 0, 1000),
    "horizon": Whole(0, 0, 100_000),
}
MOST_NUMBERS = 64  # A dict's array of more is not written into a prompt.
MOST_DIGITS = 4


@dataclass(frozen=True)
class Frames:
    """How an environment of others is shown and played, see `any_gym`."""

    prompt: str = ""
    actions: str = ""
    size: int = 0
    frames: int = 1
    history: int = 0
    observation: bool = True
    horizon: int = 0
    win_return: str = ""
    make: Mapping[str, Any] | None = None


def any_gym(
    environment: str,
    *,
    prompt: str = "",
    actions: str = "",
    size: int = 0,
    frames: int = 1,
    history: int = 0,
    observation: bool = True,
    horizon: int = 0,
    win_return: str = "",
    file: str = "",
) -> Task:
    """Make the task of an environment by its id, MODULE:ID where a module must be imported for it.

    Args:
        environment: its id, with its version.
        prompt: what to do, in words; of what else stands in the prompt see `_text`.
        actions: names of the actions in the order of their numbers, with commas between; the environment's own if not given.
        size: pixels of a frame's longer side; 0 leaves it as it is drawn.
        frames: so many of the last frames, oldest first, as an image each.
        history: so many of the last turns in words, oldest first.
        observation: whether texts, and the texts and numbers of a dict, that are observed stand in the prompt.
        horizon: turns after which an episode is cut; 0 leaves it to the environment.
        win_return: an episode is won that pays at least so much; if not given, as the environment's threshold or its info says.
        file: YAML file with any of these; and `make`, the environment's own arguments. What is given beside it counts.

    Raises: GtrTurboError: there is no such environment, or it cannot be played: names what it lacks.
    """
    given = Frames(prompt, actions, size, frames, history, observation, horizon, win_return)
    how = _with_file(given, Path(file)) if file else given
    check_options({name: getattr(how, name) for name in FRAME_BOUNDS}, FRAME_BOUNDS)
    name, known_id = f"gym:{environment}", _imported(environment)
    require_known(known_id, name)
    draw_unseen()
    make = partial(_make, name, known_id, how.make or {})
    mode = _mode(name, known_id)
    with closing(make(render_mode=mode)) as env:
        names = _names(name, env, how.actions)
        _require_frames(name, env)
        first = int(env.action_space.start)  # type: ignore[attr-defined]
    return Task(
        name=name,
        make=partial(make, render_mode=mode),
        blind=partial(make, render_mode=None),
        prompt=partial(_prompt, how=how, name=known_id, actions=names),
        actions=names,
        act=lambda action, info: first + names.index(action),
        known=partial(_known, shows=how.observation),
        won=partial(_won, least=_least(name, known_id, how.win_return)),
        max_turns=how.horizon or None,
        panels={"fixed": panel_seeds()},
    )


def _with_file(given: Frames, file: Path) -> Frames:
    """Take from a YAML file what is not given otherwise than it is by default."""
    found = read_yaml(file)
    known = {field.name: field for field in fields(Frames)}
    if not isinstance(found, dict) or (odd := [str(key) for key in found if key not in known]):
        wrong = f"holds {', '.join(odd)}" if isinstance(found, dict) else "is no mapping of names to values"
        raise GtrTurboError(f"{file} {wrong}.", f"it may hold: {', '.join(known)}.")
    values = {key: _as_text(key, value) for key, value in found.items()}
    for key, value in values.items():
        kind = Mapping if key == "make" else type(known[key].default)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise GtrTurboError(f"{key} in {file} is {value!r}.", f"give {kind.__name__}.")
    chosen = {key for key, field in known.items() if getattr(given, key) != field.default}
    return replace(given, **{key: value for key, value in values.items() if key not in chosen})


def _as_text(key: str, value: Any) -> Any:
    """Write a list of actions, and a number that wins, as on the command line."""
    if key == "actions" and isinstance(value, list):
        return ",".join(map(str, value))
    return str(value) if key == "win_return" and isinstance(value, int | float) else value


def _imported(environment: str) -> str:
    """Import the module that an id names, and return the id without it."""
    module, colon, rest = environment.rpartition(":")
    if not colon:
        return environment
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise GtrTurboError(f"module {module} of gym:{environment} cannot be imported: {error}.", "install it.") from None
    return rest


@contextmanager
def _making(name: str) -> Iterator[None]:
    """Say in one sentence why an environment of others cannot be made."""
    try:
        yield
    except (DependencyNotInstalled, ImportError) as error:
        raise GtrTurboError(f"{name} cannot be made: {_sentence(error)}.", "install what it needs.") from None
    except (gym.error.Error, TypeError, ValueError) as error:
        raise GtrTurboError(f"{name} cannot be made: {_sentence(error)}.", "see its page for its arguments.") from None


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _mode(name: str, environment: str) -> str | None:
    """Return how the environment is to draw; None where its class says nothing of frames, and then it must show them itself."""
    entry = gym.spec(environment).entry_point
    with _making(name):
        creator = load_env_creator(entry) if isinstance(entry, str) else entry
    return "rgb_array" if "rgb_array" in getattr(creator, "metadata", {}).get("render_modes", []) else None


def _make(name: str, environment: str, arguments: Mapping[str, Any], *, render_mode: str | None) -> gym.Env:
    mode = {"render_mode": render_mode} if render_mode else {}
    with _making(name):
        return gym.make(environment, disable_env_checker=True, **mode, **arguments)


def _names(name: str, env: gym.Env, given: str) -> tuple[str, ...]:
    """Return the names of the actions: those that are given, those of the environment, or their numbers."""
    space = env.action_space
    if not isinstance(space, gym.spaces.Discrete):
        what = "continuous actions" if isinstance(space, gym.spaces.Box) else "actions of several parts"
        raise GtrTurboError(f"{name} has {what} ({space}).", "take an environment whose action space is Discrete.")
    count = int(space.n)
    meanings = getattr(env.unwrapped, "get_action_meanings", lambda: [])()
    own = [str(each).lower() for each in meanings] if len(set(meanings)) == count else list(map(str, range(count)))
    names = tuple(each.strip() for each in given.split(",")) if given else tuple(own)
    if len(names) != count or len(set(names)) < count or not all(names):
        raise GtrTurboError(
            f"{name} has {count} actions, and these are {len(set(names))}: {', '.join(names)}.", "name each once."
        )
    return names


def _require_frames(name: str, env: gym.Env) -> None:
    observation, _ = env.reset(seed=0)
    try:
        View(observation, {}, render=env.render).picture  # noqa: B018 - refused here, not in the middle of a run
    except DependencyNotInstalled as error:
        raise GtrTurboError(f"{name} cannot draw: {_sentence(error)}.", "install what it needs.") from None
    except (GtrTurboError, gym.error.Error):
        modes = ", ".join(map(str, env.metadata.get("render_modes", []))) or "nothing"
        raise GtrTurboError(
            f"{name} shows no frames: it observes {described(observation)} and draws {modes}, not rgb_array.",
            "take an environment that draws rgb_array.",
        ) from None


def _known(env: gym.Env, observation: Any, info: Mapping[str, Any], *, shows: bool) -> dict[str, Any]:
    """Keep of an info what JSON can hold, and what of the observation the prompt shows."""
    found = {str(key): value for key, value in info.items() if _is_plain(value)}
    words = observed(observation) if shows else ""
    return {**found, "observed": words} if words else found


def _is_plain(value: Any) -> bool:
    if isinstance(value, np.ndarray | np.generic):
        return _is_plain(value.tolist()) if value.dtype.kind in "biufU" and value.size <= MOST_NUMBERS else False
    if isinstance(value, float):
        return bool(np.isfinite(value))
    return value is None or isinstance(value, str | int) or (isinstance(value, list) and all(map(_is_plain, value)))


def observed(observation: Any) -> str:
    """Put an observation into words: a text, or of a dict its texts and numbers; pictures and large arrays are left out."""
    if isinstance(observation, str):
        return observation
    if not isinstance(observation, Mapping):
        return ""
    parts = {name: _value(value) for name, value in observation.items()}
    return "; ".join(f"{name}: {value}" for name, value in parts.items() if value)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = observed(value)
        return f"({inner})" if inner else ""
    if is_picture(value) or (isinstance(value, np.ndarray) and value.size > MOST_NUMBERS):
        return ""
    if isinstance(value, np.ndarray | list | tuple):
        return "[" + ", ".join(_value(each) for each in np.asarray(value).ravel().tolist()) + "]"
    return f"{value:.{MOST_DIGITS}g}" if isinstance(value, float | np.floating) else str(value)


def _prompt(view: View, *, how: Frames, name: str, actions: Sequence[str]) -> ChatPrompt:
    before = [past.images[-1] for past in view.history[-how.frames + 1 :]] if how.frames > 1 else []
    return ask(_text(view, how, name, actions, images=1 + len(before)), *before, shrunk(view.picture, how.size))


def _text(view: View, how: Frames, name: str, actions: Sequence[str], *, images: int) -> str:
    """Say what to do, what is observed, what was done before, and how to reply."""
    shown = "The image shows the state" if images == 1 else f"The {images} images show the last states, the newest last"
    told = [how.prompt or f"You play {name}.", f"{shown}."]
    if observed := view.info.get("observed"):
        told.append(f"You observe: {observed}.")
    if past := view.history[-how.history :] if how.history else ():
        told.append(f"Your last turns, oldest first: {'; '.join(map(_turn, past))}.")
    told.append(f'Reply with JSON only: {{"thoughts": "what to do", "action": "{" or ".join(actions)}"}}')
    return " ".join(told)


def _turn(past: Past) -> str:
    return f"{past.action or 'nothing'}, reward {past.reward:g}"


def _least(name: str, environment: str, given: str) -> float | None:
    if not given:
        return gym.spec(environment).reward_threshold
    try:
        return float(given)
    except ValueError:
        raise GtrTurboError(f"win_return of {name} must be a number, got {given!r}.") from None


def _won(end: Ending, *, least: float | None) -> bool:
    return won_by_info(end) if least is None else end.total >= least
