"""Pruned files: what was removed of a finished artifact on purpose, and what is missing or changed without that."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from gtrturbo.errors import GtrTurboError
from gtrturbo.store.files import list_files, save_json
from gtrturbo.store.ids import sha256_file
from gtrturbo.store.inside import PlainName, open_inside, remove_inside
from gtrturbo.store.manifest import Manifest, read_manifest
from gtrturbo.store.names import PRUNED


@dataclass(frozen=True)
class Pruned:
    """What pruned.json holds: files that were removed on purpose, with the hashes that the manifest gives them, and the command
    that makes them again."""

    files: dict[PlainName, str]
    remake: str


def prune(folder: Path, names: Iterable[str], *, remake: str, within: Path | None = None) -> list[str]:
    """Remove files of a finished artifact for good, and record it beside them: the manifest, and with it the id, stays.

    The record is there before the first file goes, so a process that is killed in between leaves no file that seems lost;
    called again, it removes the rest. Only what was made with the artifact goes: a file whose content is not what the manifest
    says stays, and so does what is reached through a link.

    Args:
        folder: the artifact.
        names: of its files; those that its manifest does not name are left alone, whatever the record of pruned ones holds.
        remake: command that makes them again, for whoever needs them after all.
        within: folder that the artifact lies in, from which on no link is followed; the artifact's own if not given.

    Returns: names that stay although the manifest has them.
    """
    root = within or folder
    manifest, before = read_manifest(folder), _read_pruned(folder)
    named = {name: str(folder.relative_to(root) / name) for name in names if name in manifest.files}
    found = {name: _found(root, path, manifest.files[name]) for name, path in named.items()}
    files = before.files | {name: manifest.files[name] for name in named if found[name] != "foreign"}
    if files != before.files:
        save_json(folder / PRUNED, {"files": files, "remake": remake})
    for name, path in named.items():
        if found[name] == "own":
            remove_inside(root, path)
    return [name for name in named if found[name] == "foreign"]


def _found(root: Path, name: str, sha256: str) -> Literal["own", "gone", "foreign"]:
    try:
        with open_inside(root, name) as file:
            return "own" if hashlib.file_digest(file, "sha256").hexdigest() == sha256 else "foreign"
    except FileNotFoundError:
        return "gone"
    except GtrTurboError:
        return "foreign"


def pruned_files(folder: Path) -> list[str]:
    """Name the files of an artifact that were pruned and are not there."""
    return sorted(name for name in _read_pruned(folder).files if not (folder / name).is_file())


def missing_files(folder: Path, manifest: Manifest) -> list[str]:
    """Name the files of an artifact that are not there and were not pruned."""
    pruned = set(pruned_files(folder))
    return sorted(name for name in manifest.files if name not in pruned and not (folder / name).is_file())


def remake_command(folder: Path) -> str:
    """Return the command that makes an artifact's pruned files again."""
    return _read_pruned(folder).remake


def _read_pruned(folder: Path) -> Pruned:
    file = folder / PRUNED
    if not file.is_file():
        return Pruned(files={}, remake="")
    try:
        return TypeAdapter(Pruned).validate_json(file.read_bytes())
    except ValidationError as error:
        raise GtrTurboError(f"{file} is damaged: {error.errors()[0]['msg']}.", "make the artifact again.") from None


def damaged_files(folder: Path) -> list[str]:
    """Hash every file again and name those that are missing, changed or not in the manifest; pruned ones are not missing."""
    expected = read_manifest(folder).files
    present = {name: sha256_file(folder / name) for name in list_files(folder)}
    wrong = {name for name in expected.keys() | present.keys() if expected.get(name) != present.get(name)}
    return sorted(wrong - set(pruned_files(folder)))
