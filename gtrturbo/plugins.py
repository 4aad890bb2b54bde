"""What a user brings instead of something built in: a name in a table, `package.module:NAME`, or `path/to/file.py:NAME`.

Nothing registers itself, and code is loaded only because the user named it; what an artifact says is never loaded. Where code
came from is told by the name of its file and the sha256 of its text, which go into the manifest of what it helped to make.
"""

import difflib
import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from gtrturbo.errors import GtrTurboError

Built = TypeVar("Built")
SUFFIX = ".py"


@dataclass(frozen=True)
class Plugin:
    """Something from outside: `value` as the user wrote it, `name` without a folder, `sha256` of the file that defines it."""

    value: Any
    name: str
    sha256: str


def is_outside(name: str) -> bool:
    """Tell whether a name is of the form MODULE:NAME or FILE.py:NAME, and so of the user's own code."""
    place, colon, attribute = name.rpartition(":")
    return bool(colon) and bool(place) and attribute.isidentifier()


def names_code(path: Path) -> bool:
    """Tell whether an option that takes a folder names the user's own code instead. A folder of that very name is a folder."""
    return is_outside(str(path)) and not path.exists()


def find(kind: str, name: str, built_in: Mapping[str, Built]) -> Built | Any:
    """Return what is built in under a name, or what the user's own code holds under it.

    Args:
        kind: what is looked for, as an error says it: task, merge rule.
        name: of the built-in table, or MODULE:NAME, or FILE.py:NAME.
        built_in: the table.

    Raises:
        GtrTurboError: there is no such thing; lists what is built in, what was tried, and what is spelt alike.
    """
    if name in built_in:
        return built_in[name]
    if is_outside(name):
        return load(kind, name).value
    close = difflib.get_close_matches(name, built_in, n=3)
    meant = f"did you mean {' or '.join(close)}? " if close else ""
    raise GtrTurboError(
        f"there is no {kind} {name!r}.",
        f"{meant}built in: {', '.join(built_in)}; one of your own: package.module:NAME or path/to/file.py:NAME.",
    )


def load(kind: str, name: str) -> Plugin:
    """Import the user's code and return what it holds under a name.

    Raises:
        GtrTurboError: no such file, module or name, or the code raises while it is imported; names the line.
    """
    place, _, attribute = name.rpartition(":")
    module, file = _from_file(kind, Path(place)) if place.endswith(SUFFIX) else _from_module(kind, place)
    if not hasattr(module, attribute):
        public = [each for each in vars(module) if not each.startswith("_")]
        close = difflib.get_close_matches(attribute, public, n=3) or public
        raise GtrTurboError(f"{file} has no {attribute} to be a {kind}.", f"it has: {', '.join(close) or 'nothing'}.")
    written = f"{file.name}:{attribute}" if place.endswith(SUFFIX) else name
    return Plugin(getattr(module, attribute), written, hashlib.sha256(file.read_bytes()).hexdigest())


def _from_file(kind: str, file: Path) -> tuple[ModuleType, Path]:
    if not file.is_file():
        beside = sorted(path.name for path in file.parent.glob("*" + SUFFIX)) if file.parent.is_dir() else []
        close = difflib.get_close_matches(file.name, beside, n=3)
        raise GtrTurboError(f"there is no file {file} to take a {kind} from.", f"beside it: {', '.join(close)}." if close else "")
    # Of the same text the same module: what it holds is one thing, however often it is asked for.
    name = "_gtrturbo_" + hashlib.sha256(str(file.resolve()).encode() + file.read_bytes()).hexdigest()[:16]
    if name in sys.modules:
        return sys.modules[name], file
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # Before it runs: dataclasses look their module up there.
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _raised(kind, file, error) from error
    return module, file


def _from_module(kind: str, name: str) -> tuple[ModuleType, Path]:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise GtrTurboError(
                f"there is no module {error.name} to take a {kind} from.",
                f"install it, or set PYTHONPATH to the folder that it is in; a file is named with its ending: {name}.py:NAME.",
            ) from None
        raise _raised(kind, Path(name), error) from error
    except (Exception, SystemExit) as error:
        raise _raised(kind, Path(name), error) from error
    if not module.__file__:
        raise GtrTurboError(f"module {name} has no file to take a {kind} from.")
    return module, Path(module.__file__)


def _raised(kind: str, file: Path, error: BaseException) -> GtrTurboError:
    """Show the user's own line, not the ones of the import system that led there."""
    if isinstance(error, SyntaxError):
        where = f"{error.filename} line {error.lineno}"
        return GtrTurboError(f"{where} is no Python: {error.msg}.", (error.text or "").strip())
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "importlib" not in frame.filename and frame.filename != __file__] or frames[-1:]
    where = f"{own[-1].filename} line {own[-1].lineno}"
    return GtrTurboError(
        f"{file} cannot be imported for a {kind}: {where} raises {type(error).__name__}: {error}", own[-1].line or ""
    )


@contextmanager
def calling(kind: str, name: str) -> Iterator[None]:
    """Show what the user's own code raises while it is at work as one error with its own line.

    Args:
        kind, name: of what is called, as `load` was given them; code that is built in raises as it does.

    Raises:
        GtrTurboError: the code raised anything else.
    """
    try:
        yield
    except GtrTurboError:
        raise
    except Exception as error:
        if not is_outside(name):
            raise
        raise GtrTurboError(f"{kind} {name} fails: {line_of(name, error)}") from error


def line_of(name: str, error: BaseException) -> str:
    """Say what was raised, and in which line of the file that a name of the user's own is of."""
    place = name.rpartition(":")[0]
    file = Path(place if place.endswith(SUFFIX) else sys.modules[place].__file__ or "").resolve()
    frames = traceback.extract_tb(error.__traceback__)
    frame = ([each for each in frames if Path(each.filename).resolve() == file] or frames)[-1]
    return f"{frame.filename} line {frame.lineno} raises {type(error).__name__}: {error}\n{frame.line}"
