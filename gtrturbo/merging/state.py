"""What a state directory says of the running sums in it: whose they are, and how they were taken; and who may add to them."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from gtrturbo.config.regular_files import read_regular
from gtrturbo.errors import GtrTurboError
from gtrturbo.store.claims import claimed_anew, holds_no_links, replaced, require_outside_artifacts
from gtrturbo.store.files import save_json
from gtrturbo.store.hashes import content_hash, sealed_by
from gtrturbo.store.names import STATE

STATE_FORMAT = 2
REMAKE = "choose another --state, and merge all checkpoints into it."


@dataclass(frozen=True)
class RunningSums:
    """What state.json holds: which checkpoints the sums are of, oldest first, and how they were taken.

    `sums`: the hash of each file of sums; `seal`: that of all the rest, so that nothing is changed by hand unseen.
    """

    format: int
    base: str
    checkpoints: list[str]
    settings: dict[str, str]
    sums: dict[str, str] = field(default_factory=dict)
    seal: str = ""

    def sealed(self, sums: Mapping[str, str]) -> "RunningSums":
        """The same with the hashes of its files."""
        state = {**asdict(self), "sums": dict(sums), "seal": ""}
        return RunningSums(**{**state, "seal": sealed_by(state)})


def save_state(folder: Path, state: RunningSums, sums: Mapping[str, str]) -> None:
    """Write state.json, which seals the files of sums by their hashes."""
    save_json(folder / STATE, asdict(state.sealed(sums)))


def read_state(folder: Path) -> RunningSums | None:
    """Read what a state directory says of itself; None where there is none yet.

    Raises:
        GtrTurboError: the folder holds something else, or what was changed by hand.
    """
    place = folder if folder.exists() else replaced(folder)  # Between the renames of a writer, who may have been killed there.
    if not place.exists():
        return None
    try:
        state = TypeAdapter(RunningSums).validate_json(read_regular(place / STATE))
    except (OSError, ValidationError):
        raise GtrTurboError(f"{folder} holds no merge state.", "choose another --state.") from None
    if state.format != STATE_FORMAT:
        raise GtrTurboError(f"{folder} is of format {state.format}, not {STATE_FORMAT}.", REMAKE)
    if state != state.sealed(state.sums):
        raise GtrTurboError(f"{place / STATE} was changed after it was written.", REMAKE)
    return state


def require_intact(folder: Path, state: RunningSums, names: list[str]) -> None:
    """Hash the files of sums, and refuse those that are not what was written: other sums would merge into a wrong model.

    Raises:
        GtrTurboError: a file is gone, cut off, of another state, or was changed.
    """
    files = [folder / name for name in names]
    for file in files:
        if not file.is_file():
            raise GtrTurboError(f"{file} does not exist.", REMAKE)
    with ThreadPoolExecutor(len(files)) as pool:
        found = list(pool.map(content_hash, files))
    for file, digest in zip(files, found, strict=True):
        if state.sums.get(file.name) != digest:
            raise GtrTurboError(f"{file} does not hold the sums that {STATE} was written for.", REMAKE)


@contextmanager
def claimed(folder: Path) -> Iterator[Path]:
    """Keep a state from other writers, and yield the empty folder for the next one, which goes away if the block fails.

    Raises:
        GtrTurboError: another process is adding to it, it lies in an artifact, or is a link.
    """
    require_outside_artifacts(folder, "--state")
    if folder.is_symlink():
        raise GtrTurboError(f"{folder} is a link, and the next state takes its place.", "name the folder that it leads to.")
    busy = GtrTurboError(f"{folder} is being added to by another process.", "wait for it, or choose another --state.")
    with claimed_anew(folder, busy) as following:
        if not folder.exists() and holds_no_links(replaced(folder)):
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


def require_order(folder: Path, held: list[str], given: list[str], *, ordered: bool) -> int:
    """Refuse a list that the sums cannot stand for, and return how many checkpoints of the sums it does not name.

    Named may be the newest of those that the sums hold, or all of them; new ones follow. Where weights depend on the order it is
    theirs, else any.

    Args:
        folder: of the state.
        held: ids of the checkpoints that the sums hold, oldest first.
        given: ids that the user names.
        ordered: weights depend on the order.

    Raises:
        GtrTurboError: older ones are named without newer ones, twice, or in another order.
    """
    named = [identity for identity in given if identity in held]
    newest = held[len(held) - len(named) :]
    if named == newest and given[: len(named)] == named:
        return len(held) - len(named)
    if not ordered and sorted(named) == sorted(newest):
        return len(held) - len(named)
    what = "in another order" if sorted(named) == sorted(newest) else "other ones"
    raise GtrTurboError(
        f"{folder} holds the sums of {len(held)} checkpoints, and the list names {what}: sums cannot be taken apart.",
        "name those that it holds as they were added, then new ones; or leave out --state.",
    )


def require_same(folder: Path, state: RunningSums, *, base: str, settings: dict[str, str]) -> None:
    """Refuse a state that was begun otherwise.

    Raises:
        GtrTurboError: names the first difference.
    """
    if state.base != base:
        raise GtrTurboError(
            f"{folder} was begun with another base ({state.base[:6]}, not {base[:6]}).", "choose another --state."
        )
    was, now = ({"method": "ties"} | each for each in (state.settings, settings))  # That of ties says nothing of it.
    for name in was | now:
        if was.get(name) != now.get(name):
            begun = f"with --{name} {was[name]}" if was.get(name) else f"without --{name}"
            other = f"with {now[name]}" if now.get(name) else "without it"
            raise GtrTurboError(f"{folder} was begun {begun}, not {other}.", "choose another --state.")
