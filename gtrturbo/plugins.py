"""What a user brings instead of something built in: a name in a table, `package.module:NAME`, or `path/to/file.py:NAME`.

Nothing registers itself, and code is loaded only because the user named it; what an artifact says is never loaded. Where code
came from is told by the name of its file and the sha256 of the text that ran, which go into the manifest of what it helped to
make: a file may be edited while its code is at work.
"""

import difflib
import hashlib
import importlib
import importlib.util
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.abc import SourceLoader
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from gtrturbo.errors import GtrTurboError

Built = TypeVar("Built")
SUFFIX = ".py"
MOST_NAMES = 12
PREFIX = "_gtrturbo_"  # of the names under which files of the user's own are imported
_modules: set[str] = set()  # files of the user's own modules that were imported by their names, and of what they imported
_texts: dict[str, tuple[ModuleSpec | None, str]] = {}  # Of modules, by name: the import, and the sha256 of what it read.
_held: "list[dict[str, _Imported]]" = []  # What `one_text` holds, by the file or the module.
PACKAGE = Path(__file__).parent
IMPORT_SYSTEM = Path(importlib.__file__).parent
INSTALLED = {"site-packages", "dist-packages"}
NOT_MODULES = ("gym", "minigrid", "miniwob")  # Before a colon they name a built-in task's environment, see config/games.py.


@dataclass(frozen=True)
class Plugin:
    """Something from outside: `value` as the user wrote it, `name` without a folder, `sha256` of the text of `file` that ran."""

    value: Any
    name: str
    sha256: str
    file: Path

    @property
    def edited(self) -> bool:
        """Tell whether the file has another text by now, or is gone."""
        return _sha256(self.file) != self.sha256


@dataclass(frozen=True)
class _Imported:
    """A module of the user's own, its file, and the sha256 of the text that ran."""

    module: ModuleType
    file: Path
    sha256: str


def is_outside(name: str) -> bool:
    """Tell whether a name is of the form MODULE:NAME or FILE.py:NAME, and so of the user's own code."""
    place, colon, attribute = name.rpartition(":")
    return bool(colon) and bool(place) and attribute.isidentifier() and name.split(":")[0].lower() not in NOT_MODULES


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
    if name.endswith(SUFFIX) and Path(name).is_file():
        raise GtrTurboError(f"{name} is a file, and a {kind} is something in it.", f"name that, too: {name}:NAME")
    if name.endswith(SUFFIX):
        raise _no_file(kind, Path(name))
    close = difflib.get_close_matches(name, built_in, n=3)
    meant = f"did you mean {' or '.join(close)}? " if close else ""
    raise GtrTurboError(
        f"there is no {kind} {name!r}.",
        f"{meant}built in: {', '.join(built_in)}; one of your own: package.module:NAME or path/to/file.py:NAME.",
    )


def load(kind: str, name: str) -> Plugin:
    """Import the user's code and return what it holds under a name.

    Raises:
        GtrTurboError: no such file, module or name, the code raises while it is imported (names the line), or a module's file was
            edited since.
    """
    place, _, attribute = name.rpartition(":")
    code = _imported(kind, place)
    if not hasattr(code.module, attribute):
        raise GtrTurboError(f"{code.file} has no {attribute} to be a {kind}.", _names_in(code.module, attribute))
    written = f"{Path(place).name}:{attribute}" if place.endswith(SUFFIX) else name
    return Plugin(getattr(code.module, attribute), written, code.sha256, code.file)


@contextmanager
def one_text() -> Iterator[None]:
    """Let code of the user's own stay what it is when it is first loaded while the block runs, whatever its file says by then."""
    if _held:
        yield
        return
    _held.append({})
    try:
        yield
    finally:
        _held.pop()


def _imported(kind: str, place: str) -> _Imported:
    key = os.path.realpath(place) if place.endswith(SUFFIX) else place
    held = _held[-1] if _held else {}
    if key not in held:
        held[key] = _from_file(kind, Path(place)) if place.endswith(SUFFIX) else _of_module(kind, place)
    return held[key]


def _of_module(kind: str, name: str) -> _Imported:
    """Import a module by its name. Python does so once, however often its file is edited."""
    module, file = from_module(kind, name)
    ran = _note(module)
    if _sha256(file) != ran:
        raise GtrTurboError(
            f"{file} was edited after it was imported: what would run is the text that it had then.",
            f"begin Python anew; or name the file, which is imported again: {file}:NAME.",
        )
    return _Imported(module, file, ran)


def _note(module: ModuleType) -> str:
    """Return the sha256 of the text that a module ran; of one that others imported, that of its file when it is first seen."""
    spec, noted = _texts.get(module.__name__, (None, ""))
    if not noted or spec is not module.__spec__:  # A module that is imported again has another one.
        noted = _sha256(Path(module.__file__ or ""))
        _texts[module.__name__] = (module.__spec__, noted)
    return noted


def _sha256(file: Path) -> str:
    """Hash a file; the empty text where it is gone."""
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def _names_in(module: ModuleType, attribute: str) -> str:
    """List what a module defines itself, what is spelt alike first."""
    own = [name for name, value in vars(module).items() if not name.startswith("_") and _is_own(module, value)]
    close = difflib.get_close_matches(attribute, own, n=3)
    more = f" and {len(own) - MOST_NAMES} more" if len(own) > MOST_NAMES else ""
    return f"spelt alike: {', '.join(close)}." if close else f"it has: {', '.join(own[:MOST_NAMES]) or 'nothing'}{more}."


def _is_own(module: ModuleType, value: Any) -> bool:
    """Tell whether a module made a value, and did not import it."""
    if isinstance(value, ModuleType):
        return False
    return not callable(value) or getattr(value, "__module__", module.__name__) == module.__name__


def explained(error: BaseException) -> GtrTurboError | None:
    """Show an error that the user's own code raises by its own line; None where the error is none of theirs."""
    files = {module.__file__ for name, module in list(sys.modules.items()) if name.startswith(PREFIX)} | _modules
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    if not frames:
        return None
    where = f"{frames[-1].filename} line {frames[-1].lineno}"
    return GtrTurboError(f"{where} raises {type(error).__name__}: {error}", found_beside(error) or frames[-1].line or "")


def found_beside(error: BaseException) -> str:
    """Say how a module is found that lies beside the user's file which imports it in vain; nothing where none does."""
    line = line_of(error) if isinstance(error, ImportError) else None
    if line is None:
        return ""
    folder = Path(line.filename).absolute().parent
    if not isinstance(error, ModuleNotFoundError):
        dots = "relative import" in str(error)
        return f"set PYTHONPATH to the folder {folder}, and import what lies in it by its name, without dots." if dots else ""
    module = (error.name or "").partition(".")[0]
    there = module and ((folder / f"{module}{SUFFIX}").is_file() or (folder / module).is_dir())
    return (
        f"set PYTHONPATH to the folder {folder}, in which {module} lies: a file's own folder is not looked in." if there else ""
    )


def line_of(error: BaseException) -> traceback.FrameSummary | None:
    """Return the last line of code that is the user's own, neither installed nor this package's, on the way to an error."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_users(frame.filename)]
    return frames[-1] if frames else None


def is_users(file: str) -> bool:
    """Tell whether a file of code is the user's own: neither installed, nor of this package."""
    folders = Path(file).parents
    return not _is_ours(file) and not INSTALLED & set(Path(file).parts) and Path(sysconfig.get_path("stdlib")) not in folders


@contextmanager
def calling(kind: str, name: str) -> Iterator[None]:
    """Say of what the user's own code raises while it is at work what it was called for, and show its own line.

    Raises:
        GtrTurboError: code of the user's own raised anything else.
    """
    try:
        yield
    except GtrTurboError:
        raise
    except Exception as error:
        told = explained(error)
        if told is None:  # It takes other arguments than it is called with, or returns what no list can be made of.
            what = f"{type(error).__name__}: {error}"
            raise GtrTurboError(
                f"{kind} {name} does not fit: {what}.", "what it takes and returns is in the documentation: plugins."
            ) from error
        raise GtrTurboError(f"{kind} {name} fails: {told.what}", told.fix) from error


class _TextLoader(SourceLoader):
    """Has Python run a text as that of a file."""

    def __init__(self, file: str, text: bytes) -> None:
        self._file, self._text = file, text

    def get_filename(self, fullname: str) -> str:
        return self._file

    def get_data(self, path: str | bytes) -> bytes:
        return self._text


def _from_file(kind: str, file: Path) -> _Imported:
    if not file.is_file():
        raise _no_file(kind, file)
    text = file.read_bytes()
    # Of the same text the same module: what it holds is one thing, however often it is asked for.
    name = PREFIX + hashlib.sha256(os.path.realpath(file).encode(errors="surrogateescape") + text).hexdigest()[:16]
    sha256 = hashlib.sha256(text).hexdigest()
    if name in sys.modules:
        return _Imported(sys.modules[name], file, sha256)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.origin is not None
    spec.loader = _TextLoader(spec.origin, text)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # Before it runs: dataclasses look their module up there.
    try:
        with _noting():  # What runs is what was hashed: neither a later text, nor what Python kept of one of the same second.
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _raised(kind, file, error) from error
    return _Imported(module, file, sha256)


def _no_file(kind: str, file: Path) -> GtrTurboError:
    beside = sorted(path.name for path in file.parent.glob("*" + SUFFIX)) if file.parent.is_dir() else []
    close = difflib.get_close_matches(file.name, beside, n=3)
    mend = f"beside it: {', '.join(close)}." if close else "check its spelling."
    return GtrTurboError(f"there is no file {file} to take a {kind} from.", mend)


def from_module(kind: str, name: str) -> tuple[ModuleType, Path]:
    """Import a module of the user's own by its name.

    Raises:
        GtrTurboError: there is none, or it raises while it is imported; names the line.
    """
    if not all(part.isidentifier() for part in name.split(".")):
        raise GtrTurboError(
            f"{name!r} is neither a module nor a file to take a {kind} from.", "a file is named with its ending: FILE.py:NAME."
        )
    try:
        with _noting():
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
    _modules.add(module.__file__)
    return module, Path(module.__file__)


@contextmanager
def _noting() -> Iterator[None]:
    """Note which files of the user's own are imported on the way: what their code raises is told by its line, too."""
    before = set(sys.modules)
    yield
    modules = [sys.modules[name] for name in set(sys.modules) - before]
    for module in [each for each in modules if (file := getattr(each, "__file__", None)) and is_users(file)]:
        _modules.add(str(module.__file__))
        _note(module)


def _raised(kind: str, file: Path, error: BaseException) -> GtrTurboError:
    """Show the user's own line, not the ones of the import system that led there."""
    if isinstance(error, SyntaxError):
        where = f"{error.filename} line {error.lineno}"
        return GtrTurboError(f"{where} is no Python: {error.msg}.", (error.text or "").strip())
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _is_ours(frame.filename)] or frames[-1:]
    where = f"{own[-1].filename} line {own[-1].lineno}"
    if isinstance(error, GtrTurboError):
        return GtrTurboError(f"{where}: {error.what}", error.fix)
    return GtrTurboError(
        f"{file} cannot be imported for a {kind}: {where} raises {type(error).__name__}: {error}",
        found_beside(error) or own[-1].line or "",
    )


def _is_ours(file: str) -> bool:
    """Tell whether a line is of the import system, of what dataclasses write, or of this package."""
    return file.startswith("<frozen ") or file == "<string>" or bool({PACKAGE, IMPORT_SYSTEM} & set(Path(file).parents))
