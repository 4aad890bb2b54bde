"""Which files of the user's own a module is made of: the modules that it imports, and the files beside them that they name."""

import ast
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from gtrturbo.config.marks import DRAFT_MARK, MANIFEST, RECORD
from gtrturbo.errors import GtrTurboError
from gtrturbo.plugins import SUFFIX, is_users

IMPORTS = ("import_module", "__import__")
WRITES = ("w", "a", "x")  # How a mode of `open` begins that is not for reading.
MOST_BYTES = 255  # Of a name in a folder.
MOST_BESIDE = 10_000  # Files of a folder that is named, and those of its folders.
MOST_SIZE = 1 << 32  # Of all of these, in bytes.
CACHE = "__pycache__"


def files_of(modules: Sequence[str]) -> dict[str, Path]:
    """Find the files of modules and of all that they import, if they are the user's own; by the names of the modules.

    Imports count wherever they stand, in functions too, and so does where a value comes from that a loaded module holds. A file
    or folder beside a module that one of its texts names counts, too, unless the module opens it to write; of a folder all that
    it holds, but for what `_inside` leaves out.

    Args:
        modules: names; of those that are not there, or installed, nothing is found.

    Raises: GtrTurboError: a folder that is named holds too much.
    """
    waiting, files = list(modules), {}
    while waiting:
        name = waiting.pop()
        file = _file(name)
        if name in files or file is None or not is_users(str(file)):
            continue
        files[name] = file
        tree = _read(file)
        held = vars(sys.modules[name]).values() if name in sys.modules else ()
        waiting += [name.rpartition(".")[0], *_imported(tree, _package(name, file)), *map(_home, list(held))]
        files |= {f"{name}/{beside.relative_to(file.parent)}": beside for beside in _beside(tree, file.parent)}
    return files


def _file(name: str) -> Path | None:
    """Return the file of a module, which need not be loaded; nothing is imported to find it."""
    found = _spec(name)
    file = found.origin if found and found.has_location else getattr(sys.modules.get(name), "__file__", None)
    return Path(file) if file else None


def _spec(name: str) -> ModuleSpec | None:
    if name in sys.modules:
        return getattr(sys.modules[name], "__spec__", None)
    parent, _, last = name.rpartition(".")
    if not last.isidentifier():
        return None
    if not parent:
        return find_spec(name)
    above = _spec(parent)
    places = above.submodule_search_locations if above else None
    return PathFinder.find_spec(name, places) if places else None


def _read(file: Path) -> ast.AST:
    """Read code; nothing of what is not Python's, or of another version of it."""
    with suppress(SyntaxError, ValueError):
        return ast.parse(file.read_bytes() if file.suffix == SUFFIX else b"")
    return ast.Module([], [])


def _package(name: str, file: Path) -> str:
    return name if file.stem == "__init__" else name.rpartition(".")[0]


def _imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield the names of what is imported; of what is imported from a module, that of each thing too: it may be one itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            place = ".".join(filter(None, [above, node.module]))
            yield from (place, *(f"{place}.{each.name}" for each in node.names))
        elif isinstance(node, ast.Call) and _called(node) in IMPORTS:
            yield from _texts(node.args[:1])


def _beside(tree: ast.AST, folder: Path) -> Iterator[Path]:
    """Yield the files in a folder that texts of code name, and those of the folders in it that they name."""
    written = {text for node in ast.walk(tree) if isinstance(node, ast.Call) and _writes(node) for text in _texts([node])}
    for text in sorted(set(filter(_may_be_path, _texts([tree]))) - written):
        place = folder / text
        if place.is_file() and place.suffix != SUFFIX:
            yield place
        elif place.is_dir():
            yield from _bounded(place)


def _bounded(folder: Path) -> list[Path]:
    """List the files in a folder.

    Raises: GtrTurboError: there is more than can be read each time.
    """
    found: list[Path] = []
    size = 0
    for file in _inside(folder):
        found.append(file)
        size += file.stat().st_size
        if len(found) > MOST_BESIDE or size > MOST_SIZE:
            raise GtrTurboError(
                f"{folder}, which code beside it names, holds more than {MOST_BESIDE} files, or {MOST_SIZE >> 30} GiB.",
                "let the code name what it reads in there, or move what it does not read elsewhere.",
            )
    return found


def _inside(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and in those in it, but for hidden ones, and for artifacts and runs, which come and go."""
    for place, folders, files in os.walk(folder, followlinks=True):
        here = Path(place)
        yield from (each for each in map(here.joinpath, files) if each.suffix != SUFFIX and each.is_file())
        folders[:] = [name for name in folders if name != CACHE and name[0] != "." and not _left_out(here / name)]


def _left_out(folder: Path) -> bool:
    """Tell whether a folder was written by gtrturbo, or is a link to one that it lies in."""
    ours = any((folder / name).is_file() for name in (MANIFEST, DRAFT_MARK, RECORD))
    return ours or folder.parent.resolve().is_relative_to(folder.resolve())


def _may_be_path(text: str) -> bool:
    """Tell whether a text may name what lies in a folder, and not the folder itself."""
    short = text.isprintable() and len(text.encode()) <= MOST_BYTES
    return short and bool(text.strip("./ ")) and not Path(text).is_absolute() and ".." not in Path(text).parts


def _writes(call: ast.Call) -> bool:
    """Tell whether a call opens a file to write, or writes it."""
    modes = [*call.args[1:2], *(each.value for each in call.keywords if each.arg == "mode")]
    if isinstance(call.func, ast.Attribute):
        modes += call.args[:1]
    return _called(call).startswith("write") or (
        _called(call) == "open" and any(text.startswith(WRITES) for text in _texts(modes))
    )


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _texts(nodes: Sequence[ast.AST]) -> Iterator[str]:
    found = (each.value for node in nodes for each in ast.walk(node) if isinstance(each, ast.Constant))
    return (value for value in found if isinstance(value, str))


def _home(value: Any) -> str:
    """Return the module that a value is, or comes from."""
    home = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    return home if isinstance(home, str) else ""
