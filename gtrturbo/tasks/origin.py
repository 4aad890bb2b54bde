"""Where a built-in task's episodes come from, besides this package: the environment's id, and the version of what holds it."""

import functools
import hashlib
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import gymnasium as gym

from gtrturbo.config.games import FAMILIES, game_name
from gtrturbo.tasks.alf.alfworld import alfworld, alfworld_origin
from gtrturbo.tasks.loading import load_task, options_of, read_options
from gtrturbo.tasks.worlds import sokoban
from gtrturbo.tasks.worlds.miniwob import NAMED

FILE = "file="


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
    if environment not in gym.registry:
        load_task(task, options)  # Imports the module that makes it known, or says what is missing.
    return {"name": environment, "version": _version(environment)} | _file(options)


@functools.cache
def rules() -> str:
    """Return the sha256 of the source of all built-in tasks: what is kept of one is found again only while it is the same."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return digest.hexdigest()


def _version(environment: str) -> str:
    """Return the package that an environment's code lies in, and its version; the name of the module where it has none."""
    spec = gym.registry.get(environment)
    entry = spec.entry_point if spec else None
    module = (entry if isinstance(entry, str) else getattr(entry, "__module__", "")).partition(":")[0].partition(".")[0]
    for package in metadata.packages_distributions().get(module, [module]):
        with suppress(metadata.PackageNotFoundError, ValueError):  # A name that is empty is a ValueError.
            return f"{package.lower()} {metadata.version(package)}"
    return module


def _file(options: Sequence[str]) -> dict[str, str]:
    files = [option.removeprefix(FILE) for option in options if option.startswith(FILE)]
    return {"sha256": hashlib.sha256(Path(files[-1]).read_bytes()).hexdigest()} if files and Path(files[-1]).is_file() else {}
