"""What a model's files do to the libraries that read them, told by the model's name: any of them may be damaged, or no file."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from gtrturbo.errors import GtrTurboError, said_by


@contextmanager
def reading_model(model: str | Path, does: str = "cannot be loaded", *, mend: str = "") -> Iterator[None]:
    """Name the model whose files make a library fail, and the command that checks it.

    transformers, PEFT, tokenizers and jinja raise what comes of a damaged file: a KeyError as well as an OSError. Only too
    little memory is not the files' doing.

    Args:
        model: its folder, or its id on a hub.
        does: what it does then.
        mend: what to do; the command that checks the folder if not given.

    Raises:
        GtrTurboError: names the model and what the library says.
    """
    folder = Path(model)
    _require_files(folder)
    try:
        yield
    except (GtrTurboError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
        raise GtrTurboError(f"{model} {does}: {kind}{said_by(error)}", mend or f"see: gtrturbo show {model} --check") from error


def _require_files(folder: Path) -> None:
    """Refuse a folder with a pipe or a device in the place of a file: to open one is to wait for it."""
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        odd = sorted(entry.name for entry in entries if not (entry.is_file() or entry.is_dir() or entry.is_symlink()))
    if odd:
        raise GtrTurboError(f"{folder / odd[0]} is no regular file, but a pipe or a device.", "put the file back.")
