"""Model folders on disk without loading a model: what they are, what lies under an adapter, which files go along."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from gtrturbo.errors import GtrTurboError
from gtrturbo.store.files import read_regular, save_json
from gtrturbo.store.names import (
    ADAPTER_CONFIG,
    FAMILY,
    MANIFEST,
    METRICS,
    METRICS_LOG,
    MODEL_INDEX,
    OPTIMIZER_FILE,
    PRUNED,
    TIMING,
    VALUE_HEAD,
)

# What is copied with weights: text, by suffix. The index of shards is written with them.
SIDE_SUFFIXES = {".json", ".jinja", ".txt", ".model", ".tiktoken", ".py", ""}
NOT_BESIDE = {MANIFEST, TIMING, PRUNED, ADAPTER_CONFIG, MODEL_INDEX, "pytorch_model.bin.index.json",
              METRICS, "trainer_state.json", ".gitattributes"}  # fmt: skip
RENDERER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json",
    "tokenizer.model", "chat_template.jinja", "chat_template.json", "processor_config.json", "preprocessor_config.json",
    "video_preprocessor_config.json", FAMILY,
)  # fmt: skip


def is_adapter(path: Path) -> bool:
    """Tell whether a checkpoint is a LoRA adapter rather than full weights."""
    return (path / ADAPTER_CONFIG).is_file()


def base_of(path: Path) -> str:
    """Name the model under an adapter: a folder relative to the adapter's own, else a folder or hub id as it stands."""
    named = adapter_config(path).get("base_model_name_or_path")
    if not named:
        raise GtrTurboError(f"{path / ADAPTER_CONFIG} names no base_model_name_or_path.", "write there which model it adapts.")
    beside = path / named
    return str(beside) if beside.is_dir() else named


def adapter_config(path: Path) -> dict[str, Any]:
    """Read what PEFT wrote beside an adapter.

    Raises:
        GtrTurboError: it is damaged, or names no base.
    """
    file = path / ADAPTER_CONFIG
    try:
        config = json.loads(read_regular(file))
    except (ValueError, RecursionError) as error:
        raise GtrTurboError(f"{file} is damaged: {error}.", f"see: gtrturbo show {path} --check") from None
    if not isinstance(config, dict) or not isinstance(config.get("base_model_name_or_path"), str | None):
        raise GtrTurboError(f"{file} is no config of an adapter.", f"see: gtrturbo show {path} --check")
    return config


def point_to_base(folder: Path, base: str | None) -> None:
    """Name an adapter's base in its config, and put the config into canonical order."""
    file = folder / ADAPTER_CONFIG
    config = adapter_config(folder)
    # PEFT keeps the target modules in a set, whose order differs from process to process.
    config = {name: sorted(value) if isinstance(value, list) else value for name, value in config.items()}
    config |= {"base_model_name_or_path": base, "inference_mode": True}
    save_json(file, config)


def rebased(source: Path, out: Path) -> str:
    """Say where an adapter's base is as seen from `out`; hub ids stay as they are."""
    return rebased_name(base_of(source), out)


def rebased_name(model: str, out: Path) -> str:
    """Turn a model folder into a path relative to `out`; a hub id stays as it is."""
    return Path(os.path.relpath(model, out)).as_posix() if Path(model).is_dir() else model


def copy_renderer(source: Path, folder: Path) -> None:
    """Copy tokenizer, processor and chat template byte for byte."""
    for name in RENDERER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def copy_checkpoint(source: Path, folder: Path) -> None:
    """Copy a checkpoint's own files, without manifest, training state and metrics."""
    left_out = {MANIFEST, TIMING, PRUNED, OPTIMIZER_FILE, METRICS_LOG, VALUE_HEAD}
    for entry in sorted(source.iterdir()):
        if entry.is_file() and entry.name not in left_out:
            shutil.copyfile(entry, folder / entry.name)


def copy_side_files(source: Path, folder: Path) -> None:
    """Copy what lies beside a checkpoint's weights: configs, tokenizer, processor, licence; no weights, no training state."""
    for entry in sorted(source.iterdir()):
        if entry.is_file() and entry.suffix in SIDE_SUFFIXES and entry.name not in NOT_BESIDE:
            shutil.copyfile(entry, folder / entry.name)


def renderer_hash(folder: Path) -> str:
    """Hash the files that decide how a prompt becomes token ids and pixels: tokenizer, processor, chat template."""
    digest = hashlib.sha256()
    for name in RENDERER_FILES:
        file = folder / name
        if file.is_file():
            digest.update(name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()
