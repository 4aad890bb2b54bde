"""What a state directory says of the running sums in it: whose they are, and how they were taken."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from gtrturbo.errors import GtrTurboError

STATE = "state.json"
FORMAT = 1


@dataclass(frozen=True)
class State:
    """What state.json holds: which checkpoints the sums are of, and how they were taken."""

    format: int
    base: str
    checkpoints: list[str]
    settings: dict[str, str]


def read_state(folder: Path) -> State | None:
    """Read what a state directory says of itself; None where there is none yet.

    Raises:
        GtrTurboError: the folder holds something else.
    """
    if not folder.exists() and replaced(folder).exists():  # A writer was killed between the renames.
        replaced(folder).rename(folder)
    if not folder.exists():
        return None
    try:
        state = TypeAdapter(State).validate_json((folder / STATE).read_bytes())
    except (OSError, ValidationError):
        raise GtrTurboError(f"{folder} holds no merge state.", "choose another --state.") from None
    if state.format != FORMAT:
        raise GtrTurboError(f"{folder} is of format {state.format}, not {FORMAT}.", "choose another --state.")
    return state


def replaced(folder: Path) -> Path:
    """Where a state is while the next one takes its place."""
    return folder.parent / f".{folder.name}.replaced"


def require_same(folder: Path, state: State, *, base: str, settings: dict[str, str]) -> None:
    """Refuse a state that was begun otherwise.

    Raises:
        GtrTurboError: names the first difference.
    """
    if state.base != base:
        raise GtrTurboError(
            f"{folder} was begun with another base ({state.base[:6]}, not {base[:6]}).", "choose another --state."
        )
    for name, value in settings.items():
        if state.settings.get(name) != value:
            raise GtrTurboError(
                f"{folder} was begun with --{name} {state.settings.get(name)}, not {value}.", "choose another --state."
            )
