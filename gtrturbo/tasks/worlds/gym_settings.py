"""How an environment of others is shown and played: by options, and by a YAML file that says what they do not."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gtrturbo.config.yaml_files import read_yaml
from gtrturbo.errors import GtrTurboError
from gtrturbo.tasks.options import Number, Option, Switch, Text, Whole, check_option

BOUNDS: dict[str, Option] = {
    "prompt": Text(""),
    "size": Whole(0, 0, 4096),
    "frames": Whole(1, 1, 16),
    "history": Whole(0, 0, 1000),
    "observation": Switch(True),
    "horizon": Whole(0, 0, 100_000),
    "win_return": Number(None),
}
OWN_ARGUMENTS = ("id", "render_mode", "disable_env_checker")  # What gymnasium.make is called with anyway.


@dataclass(frozen=True)
class Settings:
    """See `any_gym`; `make` holds the environment's own arguments."""

    prompt: str = ""
    actions: tuple[str, ...] = ()
    size: int = 0
    frames: int = 1
    history: int = 0
    observation: bool = True
    horizon: int = 0
    win_return: float | None = None
    make: Mapping[str, Any] | None = None


def settled(given: Mapping[str, Any], file: str) -> Settings:
    """Return the settings: what is given, else what a file says, else the defaults.

    Args:
        given: what was given by name; None is what was not.
        file: a YAML file; empty for none.

    Raises: GtrTurboError: a name or value that is none; names the file if it is from there.
    """
    chosen = {name: _settled(name, name, value) for name, value in given.items() if value is not None}
    return Settings(**{**(_read(Path(file)) if file else {}), **chosen})


def _read(file: Path) -> dict[str, Any]:
    found, known = read_yaml(file), list(Settings.__dataclass_fields__)
    if not isinstance(found, dict) or (odd := [str(key) for key in found if key not in known]):
        wrong = f"holds {', '.join(odd)}" if isinstance(found, dict) else "is no mapping of names to values"
        raise GtrTurboError(f"{file} {wrong}.", f"it may hold: {', '.join(known)}.")
    return {name: _settled(name, f"{name} in {file}", value) for name, value in found.items()}


def _settled(name: str, called: str, value: Any) -> Any:
    """Check one setting; `called` is what an error calls it."""
    if name == "actions":
        return _actions(called, value)
    if name == "make":
        return _arguments(called, value)
    number = isinstance(BOUNDS[name], Number) and isinstance(value, int) and not isinstance(value, bool)
    value = float(value) if number else value
    check_option(called, value, BOUNDS[name])
    return value


def _actions(called: str, value: Any) -> tuple[str, ...]:
    """Read the names of actions: a list of them, or one text with commas between."""
    if isinstance(value, str):
        check_option(called, value, BOUNDS["prompt"])
        return tuple(each.strip() for each in value.split(",")) if value else ()
    if not isinstance(value, list):
        raise GtrTurboError(f"{called} are {_told(value)}.", "give a list of names.")
    for each in value:
        if isinstance(each, bool):
            raise GtrTurboError(f"{called} hold {each!r}, which is no text.", "YAML reads no, yes, on and off as such: quote it.")
        if not isinstance(each, str | int):
            raise GtrTurboError(f"{called} hold {_told(each)}, which is no text.", "quote it, or leave it out.")
        check_option(called, str(each), BOUNDS["prompt"])
    return tuple(str(each).strip() for each in value)


def _told(value: Any) -> str:
    return "empty" if value is None else repr(value)


def _arguments(called: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise GtrTurboError(f"{called} is {_told(value)}.", "give the environment's own arguments by name, or leave make out.")
    if taken := [key for key in OWN_ARGUMENTS if key in value]:
        raise GtrTurboError(f"{called} sets {', '.join(taken)}, which is set here.", "leave it out.")
    return value
