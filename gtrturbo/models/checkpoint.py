"""Checkpoints on disk: full weights or a LoRA adapter, in plain Hugging Face and PEFT layout, with canonical bytes."""

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import disable_progress_bars
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.utils import logging

from gtrturbo.artifacts import MANIFEST, TIMING, read_manifest, save_json
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.policy import Policy
from gtrturbo.models.processor import RENDERER_FILES, load_processor, renderer_hash
from gtrturbo.models.value_head import ValueHead

ADAPTER_CONFIG = "adapter_config.json"
BASE = "base"
ONE_THREAD = 5_000_000
DTYPES = {"auto": "auto", "float32": torch.float32, "bfloat16": torch.bfloat16}


def load_policy(path: Path, *, device: str, dtype: str = "auto", trainable: bool = False) -> Policy:
    """Load a checkpoint as a policy: base and adapter or full weights, processor, value head if there is one.

    Raises:
        GtrTurboError: no checkpoint, its files are damaged, or its base is not where it says.
    """
    if (path / MANIFEST).is_file():
        read_manifest(path, "checkpoint")
    quiet()
    model = load_model(path, dtype=dtype, trainable=trainable).to(resolve_device(device))
    if model.device.type == "cpu" and model.num_parameters() < ONE_THREAD:
        # Threads of so small a model wait for each other: with two, ppo-step was 8 times slower on a busy machine.
        torch.set_num_threads(1)
    processor = load_processor(path, model_type=model.config.model_type, local_files_only=True)
    head = ValueHead.load(path)
    return Policy(model, processor, head.to(model.device) if head else None)


def load_foreign(model: str, *, revision: str | None, dtype: str) -> tuple[Any, Any]:
    """Load model and processor of a Hugging Face id or folder; may touch the network, which only init does.

    Raises:
        GtrTurboError: there is no such model, or it takes no images and text.
    """
    quiet()
    where = {"revision": revision or "main"}
    try:
        architecture = AutoConfig.from_pretrained(model, **where)
        weights = AutoModelForImageTextToText.from_pretrained(model, dtype=DTYPES[dtype], **where)
        return weights, load_processor(model, model_type=architecture.model_type, **where)
    except (OSError, ValueError) as error:
        raise GtrTurboError(f"{model} cannot be loaded: {error}", "give tiny, a Hugging Face id, or a local folder.") from error


def quiet() -> None:
    """Keep the libraries' bars and warnings off the terminal: errors are raised, progress is ours."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")


def load_model(path: Path, *, dtype: str = "auto", trainable: bool = False) -> Any:
    """Load a checkpoint's model: a PEFT model where it is an adapter; everything frozen unless `trainable`."""
    try:
        if not is_adapter(path):
            model = AutoModelForImageTextToText.from_pretrained(path, dtype=DTYPES[dtype], local_files_only=True)
            return model.requires_grad_(trainable)
        base, revision = base_of(path), _adapter_config(path).get("revision")
        model = AutoModelForImageTextToText.from_pretrained(
            base, dtype=DTYPES[dtype], revision=revision or "main", local_files_only=True
        )
        return PeftModel.from_pretrained(model.requires_grad_(False), str(path), is_trainable=trainable)
    except (OSError, SafetensorError, ValueError) as error:
        raise GtrTurboError(f"{path} cannot be loaded: {error}", f"see: gtrturbo show {path} --check") from error


def is_adapter(path: Path) -> bool:
    """Tell whether a checkpoint is a LoRA adapter rather than full weights."""
    return (path / ADAPTER_CONFIG).is_file()


def base_of(path: Path) -> str:
    """Name the model under an adapter: a folder relative to the adapter's own, else a folder or hub id as it stands."""
    named = _adapter_config(path)["base_model_name_or_path"]
    beside = path / named
    return str(beside) if beside.is_dir() else named


def _adapter_config(path: Path) -> dict[str, Any]:
    return json.loads((path / ADAPTER_CONFIG).read_text(encoding="utf-8"))


def save_model(model: Any, folder: Path, *, base: str | None = None) -> None:
    """Write full weights or an adapter so that the same model gives the same bytes in every process.

    Args:
        model: a transformers model or a PEFT model around one.
        folder: where to; exists.
        base: for an adapter, what its config names as base: a path relative to the adapter's folder, or a hub id.
    """
    if not isinstance(model, PeftModel):
        model.save_pretrained(folder)
    else:
        # Left to itself PEFT asks the hub whether the vocabulary grew; no adapter of ours touches the embeddings.
        model.save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)
        point_to_base(folder, base)


def point_to_base(folder: Path, base: str | None) -> None:
    """Name an adapter's base in its config, and put the config into canonical order."""
    file = folder / ADAPTER_CONFIG
    config = _adapter_config(folder)
    # PEFT keeps the target modules in a set, whose order differs from process to process.
    config = {name: sorted(value) if isinstance(value, list) else value for name, value in config.items()}
    config |= {"base_model_name_or_path": base, "inference_mode": True}
    save_json(file, config)


def save_successor(policy: Policy, source: Path, folder: Path, out: Path) -> str:
    """Write a trained checkpoint beside the files of the one that it came from; return the renderer's hash.

    Args:
        policy: what was trained.
        source: checkpoint that it was loaded from; its processor files are copied byte for byte.
        folder: where to write.
        out: where the folder will stand in the end, from which the path to an adapter's base is counted.
    """
    save_model(policy.model, folder, base=rebased(source, out) if is_adapter(source) else None)
    copy_renderer(source, folder)
    if policy.value_head:
        policy.value_head.save(folder)
    return renderer_hash(folder)


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
    left_out = {MANIFEST, TIMING, "optimizer.safetensors", "metrics.jsonl", "value_head.safetensors"}
    for entry in sorted(source.iterdir()):
        if entry.is_file() and entry.name not in left_out:
            shutil.copyfile(entry, folder / entry.name)


def add_adapter(model: Any, *, rank: int, alpha: float, target: tuple[str, ...], revision: str | None, seed: int) -> PeftModel:
    """Wrap a model with a fresh LoRA adapter, which changes nothing until it is trained (B is zero).

    Dropout is 0: it would make the probability ratio of two equal policies differ from 1.
    """
    torch.manual_seed(seed)
    names = list(target) if target else "all-linear"
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        target_modules=names,
        lora_dropout=0.0,
        bias="none",
        revision=revision,
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise GtrTurboError(f"no adapter fits: {error}", "see the module names with: gtrturbo show CHECKPOINT") from None


def resolve_device(device: str) -> str:
    """Turn auto into cuda where there is one, else cpu."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device
