"""Where ALFWorld's games come from: those that are written here, or the real ones below ALFWORLD_DATA."""

import difflib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from gtrturbo.errors import GtrTurboError
from gtrturbo.tasks.alf.household import HOUSEHOLD_VERSION
from gtrturbo.tasks.alf.scenes import HouseGame
from gtrturbo.tasks.alf.written import KINDS, kind_of, written_game, written_names

Split = Literal["train", "seen", "unseen"]
Source = Literal["auto", "written", "data"]
SPLITS: tuple[Split, ...] = ("train", "seen", "unseen")
FOLDERS = {"train": "train", "seen": "valid_seen", "unseen": "valid_unseen"}
DATA = "ALFWORLD_DATA"
GAME_FILE, TRAJECTORY = "game.tw-pddl", "traj_data.json"
NOT_PLAYABLE = ("movable", "Sliced")  # Tasks that ALFWorld's engines leave out.
DOWNLOAD = "run: alfworld-download, and set ALFWORLD_DATA to its folder; or add: --env games=written"


@dataclass(frozen=True)
class Library:
    """The games of a split, by name and in order; `root` is the folder that they lie below, None of the written ones."""

    split: str
    names: tuple[str, ...]
    root: Path | None = None

    def game(self, number: int) -> HouseGame:
        """Return a game by its number, or the next one that can be won.

        Raises: GtrTurboError: its file is damaged, or none of the games can be won.
        """
        for step in range(len(self.names)):
            found = _loaded(self.root, self.names[(number + step) % len(self.names)])
            if found.content.get("solvable", True):
                return found
        raise GtrTurboError(f"none of the {len(self.names)} games of {self.split} can be won.", "download them again.")

    @property
    def sha256(self) -> str:
        """A hash of the games: of what the written ones hold, of the names and sizes of the files of the real ones."""
        if self.root is None:
            return _hash([_loaded(None, name).sha256 for name in self.names])
        return _hash([[name, (self.root / name / GAME_FILE).stat().st_size] for name in self.names])


def library(split: Split, source: Source = "auto", kinds: Sequence[str] = tuple(KINDS), *, file: str = GAME_FILE) -> Library:
    """Find the games of a split.

    Args:
        split: `train`, `seen` or `unseen`.
        source: `auto` takes the real games where ALFWORLD_DATA is set, else the written ones.
        kinds: task types.
        file: what a folder of the real games must hold.

    Raises: GtrTurboError: there are none.
    """
    folder = os.environ.get(DATA, "")
    if source == "written" or (source == "auto" and not folder):
        return Library(split, written_names(split, kinds))
    if not folder:
        raise GtrTurboError(f"the real games of ALFWorld are meant, and {DATA} is not set.", DOWNLOAD)
    root = Path(folder)
    names = tuple(name for name in _below(root, split, file) if kind_of(name) in kinds)
    if not names:
        what = "of these types " if len(kinds) < len(KINDS) else ""
        raise GtrTurboError(f"{DATA} is {folder}, which holds no games {what}of the split {split}.", DOWNLOAD)
    return Library(split, names, root)


@lru_cache(maxsize=8)
def _below(root: Path, split: str, file: str) -> tuple[str, ...]:
    """Find the folders of a split's games of the newest version there, whatever the order in which the disk lists them."""
    for version in sorted(root.glob("json_*"), reverse=True):
        found = [each.parent.relative_to(root).as_posix() for each in (version / FOLDERS[split]).rglob(file)]
        if names := [name for name in found if _is_playable(name)]:
            return tuple(sorted(names))
    return ()


def _is_playable(name: str) -> bool:
    try:
        return bool(kind_of(name)) and not any(word in name for word in NOT_PLAYABLE)
    except ValueError:
        return False


@lru_cache(maxsize=256)
def _loaded(root: Path | None, name: str) -> HouseGame:
    if root is None:
        content = written_game(name)
        return HouseGame(name, kind_of(name), _hash(content), content)
    file = root / name / GAME_FILE
    if not file.is_file():  # THOR plays from the trajectory alone.
        file = root / name / TRAJECTORY
    raw = file.read_bytes()
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise GtrTurboError(f"{file} is damaged: {error}.", "download it again.") from None
    if not isinstance(content, dict):
        raise GtrTurboError(f"{file} is damaged: it holds no game.", "download it again.")
    return HouseGame(name, kind_of(name), hashlib.sha256(raw).hexdigest(), content, str(root / name))


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def chosen_kinds(text: str) -> tuple[str, ...]:
    """Read task types with commas between; `all` are all six.

    Raises: GtrTurboError: one is unknown; names the closest.
    """
    if text == "all":
        return tuple(KINDS)
    names = [each.strip() for each in text.split(",")]
    for name in names:
        if name not in KINDS:
            close = difflib.get_close_matches(name, KINDS, n=1, cutoff=0.3)
            near = f"the closest is {close[0]}; " if close else ""
            raise GtrTurboError(f"{name!r} is no task type of ALFWorld.", f"{near}they are: {', '.join(KINDS)}.")
    return tuple(kind for kind in KINDS if kind in names)


def games_version(found: Library) -> str:
    """Name the games of a split for a manifest."""
    return (
        f"written {HOUSEHOLD_VERSION}" if found.root is None else f"{found.names[0].partition('/')[0]}, {len(found.names)} games"
    )
