"""What lies beside a model's weights and goes along with a merge: everything but weights, training state and junk.

Links are followed within the folder and, in a cache of downloads, to the blobs that a snapshot is made of; never elsewhere.
"""

import fnmatch
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gtrturbo.models.descriptions import renderer_files, require_readable
from gtrturbo.store.inside import copy_own, is_plain, leads_out
from gtrturbo.store.names import (
    ADAPTER_CONFIG,
    CARD,
    MANIFEST,
    METRICS,
    METRICS_LOG,
    MODEL_CONFIG,
    MOVED,
    PRUNED,
    TIMING,
)

WEIGHTS = (
    "*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.ggml", "*.h5", "*.msgpack", "*.onnx", "*.onnx_data", "*.ot",
    "*.pkl", "*.pickle", "*.npz", "*.tflite", "*.index.json", "*.index.*.json",
)  # fmt: skip
# Weights that a part of a model is loaded from, and the list of parts that sentence-transformers writes.
OF_MODULES = (
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*.bin",
    "pytorch_model.bin.index.json",
    "adapter_model.bin",
)
MODULES = "modules.json"
# Of trainers: transformers, DeepSpeed, TensorBoard, Weights & Biases. Of a weight's suffix they are weights, too.
TRAINING = (
    "trainer_state.json", "all_results.json", "*_results.json", "global_step*", "checkpoint-*", "latest", "zero_to_fp32.py",
    "events.out.tfevents.*", "runs", "wandb", "logs", "*.log", METRICS, METRICS_LOG,
)  # fmt: skip
JUNK = (
    ".*", "__pycache__", "__MACOSX", "*.pyc", "Thumbs.db", "desktop.ini", "*~", "#*#", "*.swp", "*.bak", "*.orig", "*.tmp",
    "*.lock",
)  # fmt: skip
# Of an artifact's own files, and those that are written anew.
ANEW = (MANIFEST, TIMING, MOVED, PRUNED, ADAPTER_CONFIG, CARD)


def copy_side_files(source: Path, folder: Path, *, below: bool = True) -> list[str]:
    """Copy what lies beside a model's weights, `below` it too, and return what a user has to know of what stays behind.

    Raises:
        GtrTurboError: the model's config or tokenizer is damaged, or a link that leads out of the folder.
    """
    require_readable(source)
    notes, left = [], sorted(_left(source))
    if left:
        notes.append(f"weights of other formats and training state of {source} are left out: {', '.join(left)}.")
    for name in sorted(name for name in _beside(source) if below or "/" not in name):
        file = source / name
        if not is_plain(name):
            notes.append(f"{name!a} of {source} has a name that no artifact's file may have: left out.")
        elif not file.is_file():
            notes.append(f"{file} is neither a file nor a link to one: left out.")
        elif leads_out(file, source) and name != MODEL_CONFIG and name not in renderer_files(source):
            notes.append(f"{file} is a link that leads out of its folder: left out.")
        elif _is_of(file.name, WEIGHTS) and not _is_of_a_module(source, name):
            notes.append(f"{file} holds weights that are not merged: left out.")
        else:
            if _is_of(file.name, WEIGHTS):
                notes.append(f"{file} is of a module of its own: it goes along as it is, and is not merged.")
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            copy_own(Path(os.path.realpath(file)) if not leads_out(file, source) else file, folder / name)
    return notes


def _is_of_a_module(source: Path, name: str) -> bool:
    """Tell whether weights in a folder below are of a part of the model, and not of the model itself in another format.

    A part has a config beside its weights: of a kind that is not the model's own, or of an adapter; or `modules.json` lists it.
    """
    below = (source / name).parent
    if not _is_of(Path(name).name, OF_MODULES):
        return False
    listed = _json(source / MODULES)
    if isinstance(listed, list) and any(
        isinstance(each, dict) and each.get("path") == Path(name).parent.as_posix() for each in listed
    ):
        return True
    if (below / ADAPTER_CONFIG).is_file():
        return True
    own, whole = _json(below / MODEL_CONFIG), _json(source / MODEL_CONFIG)
    kinds = [content.get("model_type") if isinstance(content, dict) else None for content in (own, whole)]
    return isinstance(own, dict) and (kinds[0] is None or kinds[0] != kinds[1])


def _json(file: Path) -> Any:
    """What a file says; None where it is not there or damaged."""
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def stays_behind(name: str) -> bool:
    """Tell whether a file or folder of such a name never goes along: junk, or a trainer's state."""
    return _is_of(name, (*JUNK, *TRAINING))


def _beside(source: Path) -> Iterator[str]:
    """Name what may go along but folders, which are walked unless they are links; weights only below, as parts of a model."""
    for place, folders, files in os.walk(source):
        below = Path(place).relative_to(source)
        top = Path(place) == source
        folders[:] = [name for name in folders if not stays_behind(name) and not (Path(place) / name / MANIFEST).is_file()]
        yield from ((below / name).as_posix() for name in folders if (Path(place) / name).is_symlink())
        for name in files:
            left = (top and (name in ANEW or _is_of(name, WEIGHTS))) or stays_behind(name)
            if not left:
                yield (below / name).as_posix()


def _left(source: Path) -> Iterator[str]:
    """Name what lies beside the weights that are merged, and is neither copied nor junk; not what an artifact has."""
    if (source / MANIFEST).is_file():
        return
    for path in source.iterdir():
        other = _is_of(path.name, WEIGHTS) and path.suffix not in (".json", ".safetensors")
        if other or (_is_of(path.name, TRAINING) and path.name not in (METRICS, METRICS_LOG)):
            yield path.name


def _is_of(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
