"""Model folders on disk without loading a model: what they are, which files go along."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from gtrturbo.config.regular_files import read_regular
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.descriptions import OF_PROMPTS, has_vocabulary, renderer_files, require_readable
from gtrturbo.models.side_files import copy_side_files
from gtrturbo.store.files import save_json
from gtrturbo.store.inside import copy_own, leads_out, remove_whole
from gtrturbo.store.names import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CARD,
    CHAT_TEMPLATE,
    FAMILY,
    IMAGE_CONFIG,
    LEGACY_TEMPLATE,
    MODEL_INDEX,
    MODEL_WEIGHTS,
    MORE_TEMPLATES,
    PROCESSOR_CONFIG,
    SNAPSHOTS,
    TOKENIZER_CONFIG,
    VIDEO_CONFIG,
)
from gtrturbo.store.safetensors_files import read_layout
from gtrturbo.store.weight_files import weights_of

CACHED_MODEL = "models--"  # With what the Hugging Face cache begins a model's folder.


def is_adapter(path: Path) -> bool:
    """Tell whether a checkpoint is a LoRA adapter rather than full weights."""
    return (path / ADAPTER_CONFIG).is_file()


def adapter_config(path: Path) -> dict[str, Any]:
    """Read what PEFT wrote beside an adapter.

    Raises:
        GtrTurboError: it is no JSON object.
    """
    try:
        content = json.loads(read_regular(path / ADAPTER_CONFIG))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise GtrTurboError(f"{path / ADAPTER_CONFIG} is damaged: it is no JSON object.", "fetch or write the adapter again.")
    return content


def point_to_base(folder: Path, base: str | None, **also: str | None) -> None:
    """Name an adapter's base in its config, and `also` its revision, and put the config into canonical order."""
    file = folder / ADAPTER_CONFIG
    config = adapter_config(folder)
    # PEFT keeps the target modules in a set, whose order differs from process to process.
    config = {name: _in_order(value) if isinstance(value, list) else value for name, value in config.items()}
    config |= {"base_model_name_or_path": base, "inference_mode": True, **also}
    save_json(file, config)


def _in_order(values: list[Any]) -> list[Any]:
    try:
        return sorted(values)
    except TypeError:  # Of several kinds, or objects.
        return sorted(values, key=json.dumps)


def rebased_name(model: str, out: Path) -> str:
    """Turn a model folder into a path relative to `out`; a hub id stays as it is."""
    return path_from(out, Path(model)) if Path(model).is_dir() else model


def path_from(folder: Path, model: Path) -> str:
    """Write where a model lies as seen from a folder, both by what their links lead to: from there `..` leads up."""
    places = (os.path.join(os.path.realpath(path.parent), path.name) for path in (model, folder))
    return Path(os.path.relpath(*places)).as_posix()


def name_for_all(model: Path) -> str:
    """Name a model so that PEFT finds it from any working directory: by its id where it is a download, else by its full path."""
    folder = model.resolve()
    cached = folder.parent.parent.name if folder.parent.name == SNAPSHOTS else ""
    if cached.startswith(CACHED_MODEL):
        return cached.removeprefix(CACHED_MODEL).replace("--", "/", 1)
    return str(folder)


def copy_renderer(source: Path, folder: Path) -> None:
    """Copy tokenizer, processor and chat template byte for byte, in the place of those that another model left there.

    Of what the source has of its own nothing else stays: transformers would read a `chat_template.json` that is left before the
    template that was copied. What it lacks altogether, such as a processor, stays.

    Raises:
        GtrTurboError: one of them is damaged.
    """
    require_readable(source, OF_PROMPTS)
    remove_superseded(source, folder)
    for name in renderer_files(source):
        copy_own(source / name, folder / name)


def remove_superseded(source: Path, folder: Path) -> None:
    """Remove what a folder has in files that a source lacks: templates where it has one, and so its processor and tokenizer."""
    own = renderer_files(source)
    left = [name for name in renderer_files(folder) if name not in own]
    left += [MORE_TEMPLATES] if (folder / MORE_TEMPLATES).is_dir() and not (source / MORE_TEMPLATES).is_dir() else []
    templates, processor = (
        (CHAT_TEMPLATE, LEGACY_TEMPLATE, MORE_TEMPLATES),
        (PROCESSOR_CONFIG, IMAGE_CONFIG, VIDEO_CONFIG, FAMILY),
    )
    has_processor = IMAGE_CONFIG in own or "image_processor" in _says(source / PROCESSOR_CONFIG)
    has = dict.fromkeys(templates, has_template(source)) | dict.fromkeys(processor, has_processor)
    for name in (name for name in left if has.get(name, has_vocabulary(source))):
        remove_whole(folder / name)


def has_template(folder: Path) -> bool:
    """Tell whether a folder holds a chat template, in a file of its own or in a config."""
    if any((folder / name).is_file() for name in (CHAT_TEMPLATE, LEGACY_TEMPLATE)):
        return True
    return any(_says(folder / name).get("chat_template") is not None for name in (TOKENIZER_CONFIG, PROCESSOR_CONFIG))


def _says(file: Path) -> dict[str, Any]:
    """What a config says; nothing where it is not there, or is none, which whoever reads it as one says."""
    try:
        content = json.loads(read_regular(file)) if file.is_file() else {}
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def name_weights(folder: Path) -> None:
    """Name the single file that holds a model's weights in an index: servers (vLLM) else read a value head and an optimiser, too.

    Does nothing where there are several files, whose index is there, or an adapter.
    """
    if (folder / MODEL_WEIGHTS).is_file():
        layout = read_layout(folder)
        size = sum(entry.size for entry in layout.entries.values())
        weight_map = dict.fromkeys(sorted(layout.entries), MODEL_WEIGHTS)
        save_json(folder / MODEL_INDEX, {"metadata": {"total_size": size}, "weight_map": weight_map})


def copy_checkpoint(source: Path, folder: Path) -> list[str]:
    """Copy a checkpoint: the weights that are loaded and what lies beside them; return what a user has to know of the rest.

    Of an adapter's folder no folder within it goes along: its base is not copied.

    Raises:
        GtrTurboError: it holds no weights, is damaged, or one of its files is a link that leads out of the folder.
    """
    own = [CARD] if (source / CARD).is_file() and not leads_out(source / CARD, source) else []
    if is_adapter(source):
        notes, own = copy_side_files(source, folder, below=False), [*own, ADAPTER_CONFIG, ADAPTER_WEIGHTS]
    else:
        chosen = weights_of(source)
        notes, own = copy_side_files(source, folder), [*own, *chosen.files]
        placed = _says(source / MODEL_INDEX).get("weight_map")
        if chosen.index or (isinstance(placed, dict) and {*placed.values()} <= {*chosen.files}):
            own.append(chosen.index or MODEL_INDEX)
        if chosen.unread:
            read = chosen.index or chosen.files[0]
            notes.append(f"{source} is read as transformers does, by {read}; {', '.join(chosen.unread)} beside it is left out.")
    for name in own:
        copy_own(source / name, folder / name)
    return notes


def renderer_hash(folder: Path) -> str:
    """Hash the files that decide how a prompt becomes token ids and pixels: tokenizer, processor, chat template."""
    digest = hashlib.sha256()
    for name in renderer_files(folder):
        digest.update(name.encode() + b"\0" + (folder / name).read_bytes() + b"\0")
    return digest.hexdigest()
