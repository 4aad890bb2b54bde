"""Checkpoints on disk: full weights or a LoRA adapter, in plain Hugging Face and PEFT layout, with canonical bytes."""

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import disable_progress_bars
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig
from transformers.utils import logging

from gtrturbo.distributed.devices import require_device, resolve_device
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.adapter_parts import (
    is_tied,
    modules_of,
    putting_on,
    require_no_end,
    require_no_stacks,
    require_repeatable,
    require_scale,
)
from gtrturbo.models.checkpoint_files import adapter_config, is_adapter, point_to_base, renderer_hash
from gtrturbo.models.descriptions import OF_WEIGHTS, require_readable
from gtrturbo.models.families import Family, family_of, read_family, require_picture_ids
from gtrturbo.models.first_turn import require_prompts, require_turn
from gtrturbo.models.hub_names import folder_of
from gtrturbo.models.policy import Policy
from gtrturbo.models.processor import load_processor
from gtrturbo.models.quantised import require_loadable
from gtrturbo.models.reading import dequantising, reading_model, require_takes_pictures
from gtrturbo.models.renderer import Renderer
from gtrturbo.models.shared_base import make_room, shared_base, writes_into_base
from gtrturbo.models.split_model import load_split, require_split
from gtrturbo.models.stored_types import auto_type, tell_narrowed
from gtrturbo.models.under_adapter import base_of
from gtrturbo.models.value_head import ValueHead
from gtrturbo.models.whole_weights import (
    require_as_many_layers,
    require_float_weights,
    require_numbers,
    require_one_place,
    require_tied,
    require_whole,
    require_whole_model,
    told_by_shape,
)
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.mending import mend_of
from gtrturbo.store.names import CARD, MANIFEST, VALUE_HEAD
from gtrturbo.store.run_cache import cached

ONE_THREAD = 5_000_000
DTYPES = {"auto": "auto", "float32": torch.float32, "bfloat16": torch.bfloat16}


def load_policy(path: Path, *, device: str, dtype: str = "auto", trainable: bool = False, split: bool = False) -> Policy:
    """Load a checkpoint as a policy: base and adapter or full weights, processor, value head if there is one.

    Of weights that are `split` over processes each of them reads its share; the value head is whole.

    Raises:
        GtrTurboError: no checkpoint, its files are damaged, its base is not where it says, or there is nothing to split.
    """
    if split:
        require_split(path)
    if (path / MANIFEST).is_file():
        read_manifest(path, "checkpoint")
    quiet()
    where = require_device(resolve_device(device))
    model = (_split_on if split else _model_on)(where, path, dtype=dtype, trainable=trainable)
    if model.device.type == "cpu" and model.num_parameters() < ONE_THREAD:
        # Threads of so small a model wait for each other: with two, ppo-step was 8 times slower on a busy machine.
        torch.set_num_threads(1)
    with reading_model(path):
        head = _value_head(path, model)
    family = read_family(path, model.config.model_type)
    renderer = _renderer(path, family)
    require_picture_ids(path, model.config, renderer.processor, family)
    renderer.fit(len(model.get_input_embeddings().weight))  # An adapter around it has weights, too.
    policy = Policy(model, renderer.processor, head.to(model.device) if head else None, family)
    policy.renderer = renderer
    renderer.end_at(policy.end_ids)
    _require_tested(path, policy, family, split=split)
    return policy


def _require_tested(path: Path, policy: Policy, family: Family, *, split: bool) -> None:
    """Let a model that none of our stages made play a turn, as init does; of a merge, which loads none, see the template.

    Weights that are split are never sampled from, so of these the template is seen as well.
    """
    foreign = not (path / MANIFEST).is_file()
    if foreign and not split:
        require_turn(policy.model, policy.processor, family, str(path))
    elif foreign or read_manifest(path).stage == "merge":
        require_prompts(policy.renderer, str(path))


def _model_on(device: str, path: Path, *, dtype: str, trainable: bool) -> Any:
    """Load a checkpoint's model onto a device; in a run the base under most adapters is read once."""
    if not is_adapter(path):
        make_room(path, device)
        return load_model(path, dtype=dtype, trainable=trainable).to(device)
    with reading_model(path):
        base, revision = base_of(path), adapter_config(path).get("revision") or "main"

        def load() -> Any:
            return _load_full(base, dtype=dtype, revision=revision).requires_grad_(False).to(device).eval()

        if writes_into_base(path):
            make_room(Path(base), device)
            model = load()
        else:
            model = shared_base(base, revision=revision, dtype=dtype, device=device, load=load)
        return _adapted(model, path, trainable=trainable).to(device)


def _split_on(device: str, path: Path, *, dtype: str, trainable: bool) -> Any:
    """Load this process's share of a checkpoint's full weights onto a device."""
    with reading_model(path):
        _require_sound(path)
        return load_split(path, device=device, dtype=DTYPES[dtype]).requires_grad_(trainable)


def _adapted(model: Any, path: Path, *, trainable: bool) -> PeftModel:
    """Put an adapter around its base, which already lies where it is to be."""
    require_readable(path, OF_WEIGHTS)
    require_float_weights(path)
    require_repeatable(path)
    base = {id(parameter) for parameter in model.parameters()}
    with told_by_shape(path):
        adapted = PeftModel.from_pretrained(model, str(path), is_trainable=trainable)
    # PEFT tells what did not fit only where an adapter is loaded into a model that has its modules already.
    mapping = getattr(model, "_checkpoint_conversion_mapping", {})
    told: Any = adapted.load_adapter(str(path), "default", is_trainable=trainable, key_mapping=mapping)
    require_whole(path, missing=told.missing_keys, unexpected=told.unexpected_keys)
    require_numbers(path, ((name, value) for name, value in adapted.named_parameters() if id(value) not in base))
    require_scale(path, adapted)
    return adapted


def _value_head(path: Path, model: Any) -> ValueHead | None:
    """Load a checkpoint's value head, which fits its model and is there if the manifest says so."""
    if (path / MANIFEST).is_file() and VALUE_HEAD in read_manifest(path).files and not (path / VALUE_HEAD).is_file():
        raise GtrTurboError(f"{path / VALUE_HEAD} is missing.", mend_of(path))
    head = ValueHead.load(path)
    width = model.config.get_text_config().hidden_size
    if head and head.width != width:
        raise GtrTurboError(f"{path / VALUE_HEAD} values states of width {head.width}, and the model's have {width}.")
    return head


def _renderer(path: Path, family: Family) -> Renderer:
    """Load a checkpoint's renderer; in a run all checkpoints with the same files share one, and the prompts that it rendered."""
    with reading_model(path):
        identity = renderer_hash(path)
        load = partial(load_processor, path, family=family, local_files_only=True)
        return cached(f"renderer {identity}", repr(family), lambda: Renderer(load(), family))


def load_foreign(model: str, *, revision: str | None, dtype: str, family: Family | None = None) -> tuple[Any, Any]:
    """Load model and processor of a Hugging Face id or folder; may touch the network, which only init does.

    Raises:
        GtrTurboError: there is no such model, or it takes no images and text.
    """
    quiet()
    where = {"revision": revision or "main"}
    with reading_model(model):
        if Path(model).is_dir():
            require_readable(Path(model), OF_WEIGHTS)
        architecture = AutoConfig.from_pretrained(model, **where)
        require_takes_pictures(model, architecture)  # Before its weights are looked at, which it then does not need.
        weights = _whole_model(model, dtype=dtype, **where)
        return weights, load_processor(model, family=family or read_family(Path(model), architecture.model_type), **where)


def quiet() -> None:
    """Keep the libraries' bars and warnings off the terminal: errors are raised, progress is ours."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")
    warnings.filterwarnings("ignore", category=UserWarning, module="peft")  # Of ties and keys: what does not fit is refused here.


def load_model(path: Path, *, dtype: str = "auto", trainable: bool = False) -> Any:
    """Load a checkpoint's model: a PEFT model where it is an adapter; everything frozen unless `trainable`."""
    with reading_model(path):
        if not is_adapter(path):
            return _load_full(str(path), dtype=dtype).requires_grad_(trainable)
        revision = adapter_config(path).get("revision") or "main"
        model = _load_full(base_of(path), dtype=dtype, revision=revision).requires_grad_(False)
        return _adapted(model, path, trainable=trainable)


def _load_full(model: str, *, dtype: str, revision: str = "main") -> Any:
    return _whole_model(model, dtype=dtype, revision=revision, local_files_only=True)


def _whole_model(model: str, *, dtype: str, **where: Any) -> Any:
    """Load full weights, all of them and nothing else."""
    is_folder = Path(model).is_dir()
    if is_folder:
        _require_sound(Path(model))
    require_takes_pictures(model, AutoConfig.from_pretrained(model, **where))
    if not is_folder:
        require_loadable(model, where.get("revision"))
    folder = folder_of(model, where.get("revision"))  # A hub id's is here since its config was read.
    # What does not fit is told by `require_whole_model`, and never made anew.
    how = {"dtype": DTYPES[dtype], "ignore_mismatched_sizes": True, **dequantising(folder)}
    settings = {"output_loading_info": True, **how, **where}
    told: Any = AutoModelForImageTextToText.from_pretrained(model, **settings)
    loaded, info = told
    require_whole_model(model, info)
    tied = loaded.get_expanded_tied_weights_keys(all_submodels=True)
    require_tied(model, tied.keys() - loaded.all_tied_weights_keys.keys())  # transformers drops those that it does not tie.
    if folder and not is_folder:
        require_float_weights(folder)
    require_numbers(model, loaded.named_parameters(), stored=folder)
    if dtype == "auto":
        tell_narrowed(model, folder, loaded)
    return loaded


def _require_sound(folder: Path) -> None:
    """Refuse, before anything is loaded, what would make a model that is not the folder's."""
    require_readable(folder, OF_WEIGHTS)
    require_loadable(folder)
    require_one_place(folder)
    require_float_weights(folder)
    require_as_many_layers(folder)


def load_architecture(path: Path) -> Any:
    """Read the transformers config of a checkpoint, or of the model under it where it is an adapter; no weights."""
    with reading_model(path):
        return AutoConfig.from_pretrained(base_of(path) if is_adapter(path) else path, local_files_only=True)


def architecture_here(model: str, *, revision: str) -> Any:
    """Read the transformers config of a hub id or folder from this machine alone.

    Raises:
        OSError, ValueError: it is not here, or none that transformers knows.
    """
    return AutoConfig.from_pretrained(model, revision=revision, local_files_only=True)


def is_loaded_as(model: str, *, revision: str | None, dtype: str) -> bool:
    """Tell whether a hub id or folder on this machine has a type in memory where no other is asked for; `auto` is that type."""
    if dtype == "auto":
        return True
    architecture = architecture_here(model, revision=revision or "main")
    return auto_type(architecture, folder_of(model, revision)) == DTYPES[dtype]


def load_generation(path: Path) -> GenerationConfig:
    """Read how a checkpoint's model is to generate, as a loaded model says it: of its file, else what its config says."""
    folder = base_of(path) if is_adapter(path) else path
    try:
        return GenerationConfig.from_pretrained(folder, local_files_only=True)
    except OSError:
        return GenerationConfig.from_model_config(load_architecture(path))


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
        (folder / CARD).unlink(missing_ok=True)
        point_to_base(folder, base)


def add_adapter(
    model: Any,
    *,
    rank: int,
    alpha: float,
    target: tuple[str, ...],
    revision: str | None,
    seed: int,
    family: Family | None = None,
) -> PeftModel:
    """Wrap a model with a fresh LoRA adapter, which changes nothing until it is trained (B is zero).

    Dropout is 0: it would make the probability ratio of two equal policies differ from 1.

    Raises:
        GtrTurboError: there is nothing to put it on, or it would go on a stack of experts, or on one end of a tie.
    """
    torch.manual_seed(seed)
    family = family or family_of(model.config.model_type)
    require_no_stacks(model, target)
    names = modules_of(model, family, target) if target else family.lora_targets
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        target_modules=names if isinstance(names, str) else list(names),
        lora_dropout=0.0,
        bias="none",
        revision=revision,
    )
    tied = is_tied(model)
    with putting_on(model, names):
        adapted = get_peft_model(model, config)
    if tied:
        require_no_end(adapted)
    return adapted
