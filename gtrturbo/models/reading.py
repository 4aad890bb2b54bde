"""What a model's files do to the libraries that read them, told by the model's name: any of them may be damaged, or no file."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, FineGrainedFP8Config, __version__

from gtrturbo.errors import GtrTurboError, said_by
from gtrturbo.models.hub_names import folder_of
from gtrturbo.models.quantised import DEQUANTISED, quantisation_of
from gtrturbo.store.mending import mend_of
from gtrturbo.store.names import MODEL_CONFIG

# What some models need beside transformers, by the word in its error. A tokenizer.model that SentencePiece is not there to
# read is taken for one of tiktoken.
NEEDED = {
    "num2words": "num2words",
    "torchvision": "torchvision",
    "timm": "timm",
    "tiktoken": "sentencepiece protobuf",
    "sentencepiece": "sentencepiece protobuf",
}
LIBRARY = re.compile(r"requires the ([\w.-]+) library")  # So transformers says of any other.
NOT_THERE = re.compile(r"Can't load ([\w ]+) for .* containing an? (\w+\.json)", re.DOTALL)
NOT_KNOWN = "does not recognize this architecture"
# What Python raises where code meets something that it was not written for: its text speaks to who wrote the code.
OF_CODE = (AttributeError, TypeError, LookupError, NotImplementedError, AssertionError, NameError)
PICTURES_AND_TEXT = "choose a model that takes pictures and text."
UNFITTING = "its files and transformers' code for {type} do not fit together"


@contextmanager
def reading_model(model: str | Path, does: str = "cannot be loaded", *, mend: str = "", why: str = UNFITTING) -> Iterator[None]:
    """Name the model whose files make a library fail, and the command that checks it.

    transformers, PEFT, tokenizers and jinja raise what comes of a damaged file: a KeyError as well as an OSError. Only too
    little memory is not the files' doing.

    Args:
        model: its folder, or its id on a hub.
        does: what it does then.
        mend: what to do; the command that checks the folder if not given.
        why: what is said in the place of an error of code, with {type} for the model's.

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
        raise _told(model, does, error, mend or mend_of(model), why) from error


def _told(model: str | Path, does: str, error: Exception, mend: str, why: str) -> GtrTurboError:
    """Say in one sentence what a library's error means for a model."""
    if package := missing_package(error):
        needs = f"{_type_of(model)} needs {package.split()[0]}, which is not installed."
        return GtrTurboError(f"{model} {does}: {needs}", f"install it: pip install {package}")
    if NOT_KNOWN in str(error):
        return GtrTurboError(
            f"{model} {does}: transformers {__version__} does not know {_type_of(model)}.",
            "update it: pip install --upgrade transformers; or choose another model.",
        )
    if lacking := NOT_THERE.search(str(error)):
        return GtrTurboError(f"{model} {does}: of its {lacking[1]} there is no file, such as {lacking[2]}.", mend)
    if isinstance(error, OF_CODE):
        said = why.format(type=_type_of(model))
        return GtrTurboError(f"{model} {does}: {said} ({type(error).__name__}; --debug shows where).", mend)
    kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
    return GtrTurboError(f"{model} {does}: {kind}{said_by(error)}", mend)


def _type_of(model: str | Path) -> str:
    """Name the type of a model as its config on this machine says it."""
    folder = folder_of(str(model), None)
    try:
        found = json.loads((folder / MODEL_CONFIG).read_bytes()).get("model_type") if folder else None
    except (OSError, ValueError, AttributeError, RecursionError):
        found = None
    return f"type {found}" if isinstance(found, str) else "its type"


def missing_package(error: Exception) -> str | None:
    """Name what is to be installed where a library says that it lacks another; None where it is something else."""
    if not isinstance(error, ImportError | ValueError):
        return None
    told = str(error).lower()
    names = (name for name in NEEDED if name in told and find_spec(NEEDED[name].split()[0]) is None)
    if found := next((NEEDED[name] for name in names), None):
        return found
    said = LIBRARY.search(str(error))
    return error.name or (said[1] if said else None) if isinstance(error, ImportError) else None


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
        GtrTurboError: it is no image-text-to-text model of transformers, or writes no replies that go on from prompts.
    """
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise GtrTurboError(
            f"{model} is no image-text-to-text model, but of type {config.model_type}: what an agent sees would not reach it.",
            PICTURES_AND_TEXT,
        )
    text = config.get_text_config()
    if config.is_encoder_decoder or text.is_encoder_decoder:
        raise GtrTurboError(
            f"{model} is an encoder-decoder, of type {config.model_type}: its replies stand apart from its prompts, and a turn's "
            "go on from them.",
            PICTURES_AND_TEXT,
        )
    if not hasattr(text, "vocab_size"):
        raise GtrTurboError(
            f"{model} writes no text: the config of type {config.model_type} has no vocabulary.", PICTURES_AND_TEXT
        )


def _require_files(folder: Path) -> None:
    """Refuse a folder with a pipe or a device in the place of a file: to open one is to wait for it."""
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        odd = sorted(entry.name for entry in entries if not (entry.is_file() or entry.is_dir() or entry.is_symlink()))
    if odd:
        raise GtrTurboError(f"{folder / odd[0]} is no regular file, but a pipe or a device.", "put the file back.")
