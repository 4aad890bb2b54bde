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
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, FineGrainedFP8Config, __version__

from gtrturbo.errors import GtrTurboError, said_by
from gtrturbo.models.checkpoint_files import is_adapter
from gtrturbo.models.hub_names import folder_of
from gtrturbo.models.quantised import DEQUANTISED, quantisation_of
from gtrturbo.models.stored_names import model_without_weights
from gtrturbo.models.under_adapter import base_here
from gtrturbo.store.mending import mend_of
from gtrturbo.store.names import MODEL_CONFIG, MODEL_WEIGHTS
from gtrturbo.store.safetensors_files import read_header

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
NO_WEIGHTS = "Error no file named"
OTHER_SHAPES = "ignore_mismatched_sizes"
NO_MEMORY = "can't allocate memory"
NOT_KNOWN = "does not recognize this architecture"
# What Python raises where code meets something that it was not written for: its text speaks to who wrote the code.
OF_CODE = (AttributeError, TypeError, LookupError, NotImplementedError, AssertionError, NameError, ArithmeticError, RuntimeError)
DEVICES = re.compile("CUDA|NCCL|MPS|gloo|connection", re.IGNORECASE)  # What these say is about machines.
PICTURES_AND_TEXT = "choose a model that takes pictures and text."
UNFITTING = "its {files} and transformers' code for {type} do not fit together"


@contextmanager
def reading_model(model: str | Path, does: str = "cannot be loaded", *, mend: str = "", why: str = UNFITTING) -> Iterator[None]:
    """Name the model whose files make a library fail, and the command that checks it.

    transformers, PEFT, tokenizers and jinja raise what comes of a damaged file: a KeyError as well as an OSError. Only too
    little memory is not the files' doing.

    Args:
        model: its folder, or its id on a hub.
        does: what it does then.
        mend: what to do; the command that checks the folder if not given.
        why: what is said in the place of an error of code, with {type} for the model's, and {files} for those that are at fault.

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
    if NO_WEIGHTS in str(error):
        return GtrTurboError(f"{model} {does}: of its weights there is no file, such as {MODEL_WEIGHTS}.", mend)
    if OTHER_SHAPES in str(error):
        return GtrTurboError(f"{model} {does}: its weights have other shapes than its {MODEL_CONFIG} says.", mend)
    if NO_MEMORY in str(error):
        return GtrTurboError(
            f"{model} {does}: it asks for more memory than there is.", f"look at the sizes in {MODEL_CONFIG}; or {mend}"
        )
    if isinstance(error, SafetensorError):
        return _broken_weights(model, does, mend)
    if isinstance(error, StrictDataclassError):
        said = said_by(error.__cause__ or error).rstrip(".")
        return GtrTurboError(f"{model} {does}: its {MODEL_CONFIG} holds what does not fit together: {said}.", mend)
    if isinstance(error, OF_CODE) and not DEVICES.search(str(error)):
        said = why.format(type=_type_of(model), files=_at_fault(model))
        return GtrTurboError(f"{model} {does}: {said} ({type(error).__name__}; --debug shows where).", mend)
    if type(error).__module__.startswith("jinja2"):
        return GtrTurboError(f"{model} {does}: its chat template fails: {said_by(error).rstrip('.')}.", mend)
    kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
    return GtrTurboError(f"{model} {does}: {kind}{said_by(error)}", mend)


def _broken_weights(model: str | Path, does: str, mend: str) -> GtrTurboError:
    """Name the file of weights that is none, and say what it is."""
    for file in (file for folder in _folders(model) for file in sorted(folder.glob("*.safetensors"))):
        try:
            with safe_open(file, framework="numpy"):
                pass
        except (SafetensorError, OSError):
            try:
                read_header(file)
            except GtrTurboError as told:
                return told
            return GtrTurboError(f"{file} is damaged.", mend)
    return GtrTurboError(f"{model} {does}: its weights are damaged.", mend)


def _at_fault(model: str | Path) -> str:
    """Name the files that do not fit to transformers' code: the config where it makes no model of it, without any weights."""
    try:
        for folder in _folders(model):
            if (folder / MODEL_CONFIG).is_file():
                model_without_weights(folder)
    except (OSError, ValueError):
        return MODEL_CONFIG
    return "files"


def _folders(model: str | Path) -> list[Path]:
    """List where a model's files are on this machine: its folder, and that of its base where it is an adapter."""
    folder = folder_of(str(model), None)
    base = base_here(folder) if folder and is_adapter(folder) else None
    return [each for each in (folder, base) if each]


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
