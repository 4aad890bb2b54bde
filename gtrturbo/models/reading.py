"""What a model's files do to the libraries that read them, told by the model's name: any of them may be damaged, or no file."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, FineGrainedFP8Config

from gtrturbo.errors import GtrTurboError, said_by
from gtrturbo.models.quantised import DEQUANTISED, quantisation_of
from gtrturbo.store.mending import mend_of

# What some models need beside transformers, by the word in its error. A tokenizer.model that SentencePiece is not there to
# read is taken for one of tiktoken.
NEEDED = {
    "num2words": "num2words",
    "torchvision": "torchvision",
    "timm": "timm",
    "tiktoken": "sentencepiece protobuf",
    "sentencepiece": "sentencepiece protobuf",
}


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
        if package := missing_package(error):
            mend = f"install it: pip install {package}"
        kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
        raise GtrTurboError(f"{model} {does}: {kind}{said_by(error)}", mend or mend_of(model)) from error


def missing_package(error: Exception) -> str | None:
    """Name what is to be installed where a library says that it lacks another; None where it is something else."""
    told = str(error).lower()
    names = (name for name in NEEDED if name in told and find_spec(NEEDED[name].split()[0]) is None)
    return next((NEEDED[name] for name in names), None) if isinstance(error, ImportError | ValueError) else None


def dequantising(folder: Path | None) -> dict[str, Any]:
    """Say to transformers how weights are loaded that it makes plain numbers of: everywhere, not only where there is no GPU."""
    said = quantisation_of(folder) if folder else None
    return {"quantization_config": FineGrainedFP8Config(dequantize=True)} if said and said.method in DEQUANTISED else {}


def require_takes_pictures(model: str | Path, config: Any) -> None:
    """Refuse a model that takes no pictures beside its text, before transformers lists all of those that do.

    Args:
        model: its folder, or its id on a hub.
        config: its transformers config.

    Raises:
        GtrTurboError: it is no image-text-to-text model of transformers.
    """
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise GtrTurboError(
            f"{model} is no image-text-to-text model, but of type {config.model_type}: what an agent sees would not reach it.",
            "choose a model that takes pictures and text.",
        )


def _require_files(folder: Path) -> None:
    """Refuse a folder with a pipe or a device in the place of a file: to open one is to wait for it."""
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        odd = sorted(entry.name for entry in entries if not (entry.is_file() or entry.is_dir() or entry.is_symlink()))
    if odd:
        raise GtrTurboError(f"{folder / odd[0]} is no regular file, but a pipe or a device.", "put the file back.")
