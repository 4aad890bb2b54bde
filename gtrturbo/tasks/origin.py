"""Where a built-in task's episodes come from, besides this package: the environment's id, and the version of what holds it."""

import functools
import hashlib
import importlib
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import gymnasium as gym

from gtrturbo.config.games import FAMILIES, game_name, settings_file
from gtrturbo.tasks.alf.alfworld import alfworld, alfworld_origin
from gtrturbo.tasks.code import files_of
from gtrturbo.tasks.environment import telling
from gtrturbo.tasks.loading import load_task, options_of, read_options
from gtrturbo.tasks.worlds import sokoban
from gtrturbo.tasks.worlds.miniwob import NAMED

DIGITS = 12  # of a sha256 in a version


def origin(task: str, options: Sequence[str]) -> dict[str, str]:
    """Name what a world is played with, for a manifest: `name` and `version`, and the `sha256` of a file of settings.

    Nothing is said of the games, whose rules are this package's and do not change, nor of a task of the user's own.

    Raises: GtrTurboError: there is no such environment.
    """
    name = game_name(task)
    family, _, environment = name.partition(":")
    if name == "sokoban":
        return {"name": "sokoban", "version": sokoban.VERSION}
    if name == "frozenlake":
        return {"name": "FrozenLake-v1", "version": f"gymnasium {metadata.version('gymnasium')}"}
    if name == "alfworld":
        return alfworld_origin(read_options(name, options, options_of(name, alfworld)))
    if family not in FAMILIES:
        return {}
    environment = NAMED.format(environment) if family == "miniwob" else environment.rpartition(":")[2]
    code = environment_code(task, tuple(options))
    if environment not in gym.registry:
        load_task(task, options)  # Says what is missing.
    return {"name": environment, "version": " ".join(filter(None, [_version(environment), code[:DIGITS]]))} | _file(task, options)


@functools.cache
def environment_code(task: str, options: tuple[str, ...]) -> str:
    """Return the sha256 of the user's own files that the environment of gym:ID is made of; empty where there is none.

    They are the module that makes the environment known, the one that it lies in, what these import, wherever in them, and the
    files beside them that they name; see `files_of`. What is read by a name that is put together is not found.

    Raises: GtrTurboError: there is no such environment.
    """
    family, _, place = game_name(task).partition(":")
    module, _, environment = place.rpartition(":")
    if family != "gym":
        return ""
    if environment not in gym.registry or (module and module not in sys.modules):
        load_task(task, options)  # Imports the module that makes it known.
    with telling(task, "cannot be made"):
        importlib.import_module(_module(environment))
    digest, files = hashlib.sha256(), files_of([module, _module(environment)])
    for name, file in sorted(files.items()):
        with file.open("rb") as opened:
            digest.update(name.encode() + hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest() if files else ""


@functools.cache
def rules() -> str:
    """Return the sha256 of the source of all built-in tasks: what is kept of one is found again only while it is the same."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return digest.hexdigest()


def _module(environment: str) -> str:
    """Return the module that an environment's code lies in."""
    entry = gym.registry[environment].entry_point
    return (entry if isinstance(entry, str) else getattr(entry, "__module__", "")).partition(":")[0]


def _version(environment: str) -> str:
    """Return the package that an environment's code lies in, and its version; the name of the module where it has none."""
    module = _module(environment).partition(".")[0]
    for package in metadata.packages_distributions().get(module, [module]):
        with suppress(metadata.PackageNotFoundError, ValueError):  # A name that is empty is a ValueError.
            return f"{package.lower()} {metadata.version(package)}"
    return module


def _file(task: str, options: Sequence[str]) -> dict[str, str]:
    file = settings_file(task, options)
    return {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()} if file and file.is_file() else {}
