"""What a state directory says of the running sums in it: whose they are, and how they were taken; and who may add to them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from gtrturbo.errors import GtrTurboError
from gtrturbo.store.claims import claimed_anew, replaced, require_outside_artifacts

STATE = "state.json"
STATE_FORMAT = 1


@dataclass(frozen=True)
class RunningSums:
    """What state.json holds: which checkpoints the sums are of, and how they were taken."""

    format: int
    base: str
    checkpoints: list[str]
    settings: dict[str, str]


def read_state(folder: Path) -> RunningSums | None:
    """Read what a state directory says of itself; None where there is none yet.

    Raises:
        GtrTurboError: the folder holds something else.
    """
    place = folder if folder.exists() else replaced(folder)  # Between the renames of a writer, who may have been killed there.
    if not place.exists():
        return None
    try:
        state = TypeAdapter(RunningSums).validate_json((place / STATE).read_bytes())
    except (OSError, ValidationError):
        raise GtrTurboError(f"{folder} holds no merge state.", "choose another --state.") from None
    if "only" in state.settings:  # As --include was called once.
        state.settings["include"] = state.settings.pop("only")
    if state.format != STATE_FORMAT:
        raise GtrTurboError(f"{folder} is of format {state.format}, not {STATE_FORMAT}.", "choose another --state.")
    return state


@contextmanager
def claimed(folder: Path) -> Iterator[Path]:
    """Keep a state from other writers, and yield the empty folder for the next one, which goes away if the block fails.

    Raises:
        GtrTurboError: another process is adding to it, or it lies in an artifact.
    """
    require_outside_artifacts(folder, "--state")
    busy = GtrTurboError(f"{folder} is being added to by another process.", "wait for it, or choose another --state.")
    with claimed_anew(folder, busy) as following:
        if not folder.exists() and replaced(folder).exists():
            replaced(folder).rename(folder)
        yield following


def require_unchanged(folder: Path, state: RunningSums | None, expected: list[str]) -> None:
    """Refuse a state that another process added to after it was read for the first time.

    Raises:
        GtrTurboError: it holds other checkpoints than the first of those expected.
    """
    held = state.checkpoints if state else []
    if expected[: len(held)] != held:
        raise GtrTurboError(f"another process has just added to {folder}.", "run it again.")


def require_same(folder: Path, state: RunningSums, *, base: str, settings: dict[str, str]) -> None:
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
