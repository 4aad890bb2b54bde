"""From what a user writes to a task: a built-in name or environment id, or code of their own, with options `key=value`."""

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any, Literal

from gtrturbo.config.games import game_name
from gtrturbo.errors import GtrTurboError
from gtrturbo.plugins import find, is_outside, load
from gtrturbo.tasks.alf.alfworld import alfworld
from gtrturbo.tasks.built_in import GAMES, game_task
from gtrturbo.tasks.options import Choice, Number, Option, Switch, Text, Whole, default, read_option
from gtrturbo.tasks.task import Task
from gtrturbo.tasks.worlds.any_gym import any_gym
from gtrturbo.tasks.worlds.frozenlake import frozen_lake
from gtrturbo.tasks.worlds.minigrid import mini_grid
from gtrturbo.tasks.worlds.miniwob import web_page
from gtrturbo.tasks.worlds.sokoban import sokoban

KIND = "task"
# Each takes its options by keyword, as a function of the user's own does; those of a family take the environment's id before.
WORLDS: dict[str, Callable[..., Task]] = {"frozenlake": frozen_lake, "sokoban": sokoban, "alfworld": alfworld}
BY_ID: dict[str, Callable[..., Task]] = {"gym": any_gym, "minigrid": mini_grid, "miniwob": web_page}
ANY_WHOLE = 1 << 53


def load_task(name: str, options: Sequence[str] = ()) -> Task:
    """Return a task by its name, environment id, or place in the user's code, with settings written `key=value`.

    What a file holds under the name is a `Task`, or a function with typed keyword arguments that makes one.

    Raises: GtrTurboError: an unknown task, key or value; the alternatives are listed.
    """
    if is_outside(name):
        return _own_task(name, load(KIND, name).value, options)
    known = game_name(name)
    if known in GAMES:
        return game_task(known, read_options(known, options, GAMES[known].settings))
    family, colon, environment = known.partition(":")
    if colon and family in BY_ID:
        return _made(known, BY_ID[family], options, environment)
    if known not in WORLDS:
        find(KIND, name, dict.fromkeys([*GAMES, *WORLDS, *(f"{each}:ID" for each in BY_ID)]))
    return _made(known, WORLDS[known], options)


def _own_task(name: str, found: Any, options: Sequence[str]) -> Task:
    if isinstance(found, Task):
        read_options(found.name, options, {})
        return found
    if not callable(found) or isinstance(found, type):
        raise GtrTurboError(
            f"{name} is {_called(found)}, not a Task.", "make one of gtrturbo.tasks.Task, or a function that does."
        )
    return _made(name, found, options)


def _made(name: str, make: Callable[..., Any], options: Sequence[str], *of: str) -> Task:
    """Let a function make a task from its options; `of` is what it takes before them."""
    values = read_options(name, options, options_of(name, make, after=len(of)))
    made = make(*of, **values)
    if not isinstance(made, Task):
        raise GtrTurboError(f"{name} made {_called(made)}, not a Task.", "return a gtrturbo.tasks.Task.")
    return replace(made, options=made.options or values)


def _called(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def read_options(task: str, texts: Sequence[str], settings: Mapping[str, Option]) -> dict[str, Any]:
    """Return a value for every option of a task: what the texts `key=value` say, else its default.

    Raises: GtrTurboError: an unknown key, or a value that the option cannot have.
    """
    values: dict[str, Any] = {key: default(option) for key, option in settings.items()}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or key not in settings:
            wrong = f"{task} has no option {key!r}." if equals else f"{text!r} is not of the form key=value."
            raise GtrTurboError(wrong, f"its options are: {', '.join(settings) or 'none'}.")
        values[key] = read_option(key, value, settings[key])
    return values


def options_of(name: str, function: Callable[..., Any], *, after: int = 0) -> dict[str, Option]:
    """Read the options of a task off the keyword arguments of the function that makes it, `after` so many others.

    Raises: GtrTurboError: an argument has no default, or is of a kind that no text can be read as.
    """
    arguments = list(inspect.signature(function).parameters.values())[after:]
    return {each.name: _option(name, each.name, _type_of(name, function, each), each.default) for each in arguments}


def _type_of(name: str, function: Callable[..., Any], argument: inspect.Parameter) -> Any:
    """Read the type of one argument, which may be written as text; what the function returns is not looked at.

    Raises: GtrTurboError: the text names something that the file does not know, or the argument cannot be given by its name.
    """
    if argument.kind in (argument.VAR_KEYWORD, argument.VAR_POSITIONAL):
        stars = "**" if argument.kind is argument.VAR_KEYWORD else "*"
        what = f"{name} takes {stars}{argument.name}, of which nobody knows the names."
        raise GtrTurboError(what, "name each option, with its type and a default.")
    if argument.kind is argument.POSITIONAL_ONLY:
        raise GtrTurboError(f"{name} takes {argument.name} by its place alone.", "let it be given by its name: leave out the /.")
    if argument.annotation is argument.empty:
        return type(argument.default)
    written = SimpleNamespace(__annotations__={argument.name: argument.annotation})
    try:
        return typing.get_type_hints(written, getattr(_inner(function), "__globals__", {}))[argument.name]
    except (NameError, TypeError, SyntaxError, AttributeError) as error:
        raise GtrTurboError(
            f"{name} has an argument {argument.name} of the type {argument.annotation!r}, which cannot be read: {error}.",
            "use int, float, bool, str or Literal; what only type checkers import is not there.",
        ) from None


def _inner(function: Any) -> Any:
    """Return the function that was written, of a part of it, of what wraps it, or of an object that is called."""
    while hasattr(function, "__wrapped__") or not hasattr(function, "__globals__"):
        if isinstance(function, partial):
            function = function.func
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif inspect.isfunction(call := type(function).__call__):
            function = call
        else:
            return function
    return function


def _option(task: str, name: str, kind: Any, value: Any) -> Option:
    if value is inspect.Parameter.empty:
        raise GtrTurboError(f"{task} has an argument {name} without a default.", "give it one: it is what --env NAME=… replaces.")
    said = [each for each in typing.get_args(kind) if each is not type(None)]
    if len(said) == 1 and type(None) in typing.get_args(kind):  # An option that need not say anything.
        [kind] = said
    if typing.get_origin(kind) is Literal and value is not None:
        words = typing.get_args(kind)
        return Choice((value, *(word for word in words if word != value)))
    if kind is bool:
        return Switch(value)
    if kind is int:
        return Whole(value, -ANY_WHOLE, ANY_WHOLE)
    if kind is float:
        return Number(value)
    if kind is str:
        return Text(value)
    raise GtrTurboError(
        f"{task} has an argument {name} of a kind that cannot be written.", "use int, float, bool, str or Literal."
    )
