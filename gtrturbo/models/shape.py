"""Read a model's shape from its config, without its weights: its modules on the meta device, counted."""

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig

from gtrturbo.distributed.devices import resolve_device
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.budget import CPU_TOKENS, tokens_that_fit
from gtrturbo.models.built_in import build_processor, built_in_config
from gtrturbo.models.checkpoint import DTYPES, add_adapter, architecture_here, quiet
from gtrturbo.models.families import Family, read_family
from gtrturbo.models.hub_names import folder_of
from gtrturbo.models.memory import Shape
from gtrturbo.models.parts import towers_of
from gtrturbo.models.processor import load_processor
from gtrturbo.models.reading import reading_model, require_takes_pictures
from gtrturbo.models.renderer import Renderer
from gtrturbo.models.shared_base import memory
from gtrturbo.models.sizes import BUILT_IN, PUBLISHED
from gtrturbo.models.stored_types import auto_type
from gtrturbo.models.widths import text_layers, vision_layers

CHANNELS = 3
UNBUILT = "transformers' code builds no model of its config"
NO_ESTIMATE = "leave --dry-run out: init plays a turn with the model; or choose another."


def read_shape(
    model: str,
    *,
    revision: str | None = None,
    lora_rank: int = 0,
    lora_target: tuple[str, ...] = (),
    dtype: str = "auto",
    texts: Iterable[str] | None = None,
) -> Shape | None:
    """Describe a model without its weights; None where its config is not here, and no network is asked.

    Args:
        model: a built-in model, a hub id, or a folder, as `init --model` takes it.
        revision: of a hub id.
        lora_rank, lora_target: of the adapter that is put on it; rank 0 for none.
        dtype: of the weights in memory; auto is the config's.
        texts: what the tokenizer of a built-in model is made of, as `init --task` does; the four games' if None.
    """
    quiet()
    config = _config(model, revision, texts)
    if config is None:
        return None
    require_takes_pictures(model, config)
    with reading_model(model, f"is of type {config.model_type}, of which no estimate can be made", mend=NO_ESTIMATE, why=UNBUILT):
        return _shape(model, config, revision, lora_rank, lora_target, DTYPES[dtype])


def _shape(model: str, config: Any, revision: str | None, lora_rank: int, lora_target: tuple[str, ...], chosen: Any) -> Shape:
    family = read_family(Path(model), config.model_type)
    stored = auto_type(config, None if model in BUILT_IN else folder_of(model, revision))
    weights_type = stored if chosen == "auto" else chosen
    with torch.device("meta"):
        built = AutoModelForImageTextToText.from_config(config, dtype=weights_type)
        found = [module for module in (built.get_input_embeddings(), built.get_output_embeddings()) if module is not None]
        ends = {id(module.weight): module.weight for module in found}
        towers = [built.get_submodule(name) for name in towers_of(built, family)]
        counts = {
            "parameters": built.num_parameters(),
            "vision": sum(parameter.numel() for tower in towers for parameter in tower.parameters()),
            "embeddings": sum(weight.numel() for weight in ends.values()),
            **_gathered(built),
            "adapters": _adapters(built, lora_rank, lora_target, family),
        }
    vision = getattr(config, "vision_config", None)
    patch, merge = _side(getattr(vision, "patch_size", 14)), getattr(vision, "spatial_merge_size", 1)
    size = _side(getattr(vision, "image_size", None))
    text = config.get_text_config()
    return Shape(
        name=model,
        **counts,
        rank=lora_rank,
        width=weights_type.itemsize,
        dtype=weights_type,
        holds_base=lora_rank > 0 and (model in BUILT_IN or weights_type != stored),
        vocabulary=text.vocab_size,
        hidden=text.hidden_size,
        text=text_layers(text),
        tower=vision_layers(vision),
        image_cell=patch * merge,
        patches=merge * merge,
        patch_size=CHANNELS * getattr(vision, "temporal_patch_size", 1) * patch**2,
        image_tokens=(size // patch) ** 2 if size else None,
        count=_counted(model, revision, config),
    )


def auto_tokens(shape: Shape, device: str, *, recomputes: bool, shares: int = 1) -> int:
    """Return the tokens per forward pass that `--micro-batch-tokens auto` takes on a device, as batches.token_budget does.

    Of weights that are split into so many shares the device holds one.
    """
    device = resolve_device(device)
    if not device.startswith("cuda") or not torch.cuda.is_available():
        return CPU_TOKENS
    taken = shape.weights + shape.adapter_bytes + shape.trainable_bytes + shape.optimizer_bytes
    free = memory(device)[1] - taken // shares
    text = shape.text
    return tokens_that_fit(free, hidden=text.width, inner=text.inner, layers=text.count, recomputes=recomputes)


def published_config(model: str) -> Qwen2_5_VLConfig | None:
    """Return the architecture of Qwen2.5-VL 3B, 7B or 72B by its hub id, from its published numbers; None for another id.

    Source: Bai et al., "Qwen2.5-VL Technical Report" (arXiv 2502.13923), table 1, and the models' config.json.
    """
    if model not in PUBLISHED:
        return None
    parts = PUBLISHED[model]
    return Qwen2_5_VLConfig(
        text_config=parts["text"], vision_config=parts["vision"], tie_word_embeddings=parts["tied"], dtype="bfloat16"
    )


def _config(model: str, revision: str | None, texts: Iterable[str] | None) -> Any:
    if model in BUILT_IN:
        return built_in_config(model, build_processor(texts).tokenizer)
    try:
        return architecture_here(model, revision=revision or "main")
    except (OSError, ValueError):
        return published_config(model)


def _gathered(model: Any) -> dict[str, int]:
    """Count what is gathered together where the weights are split: those of the largest layer, and those outside all layers."""
    names = set(model._no_split_modules or ())
    layers = [sum(weight.numel() for weight in each.parameters()) for each in model.modules() if type(each).__name__ in names]
    return {"layer": max(layers, default=0), "outside": model.num_parameters() - sum(layers)}


def _adapters(model: Any, rank: int, target: tuple[str, ...], family: Family) -> int:
    if not rank:
        return 0
    adapted = add_adapter(model, rank=rank, alpha=float(rank), target=target, revision=None, seed=0, family=family)
    return sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)


def _side(size: Any) -> Any:
    """Return the one side of what some configs give as height and width."""
    return size[0] if isinstance(size, list | tuple) else size


def _counted(model: str, revision: str | None, config: Any) -> Callable[[tuple[tuple[int, int], ...]], int] | None:
    """Let the model's own processor count the tokens of a prompt's pictures; None where it is not on this machine."""
    family = read_family(Path(model), config.model_type)
    try:
        processor = load_processor(model, family=family, revision=revision or "main", local_files_only=True)
    except (OSError, ValueError, GtrTurboError):  # Who loads it says why; here its pictures are counted by their size.
        return None
    token = getattr(config, family.repeated_id, None)
    if token is None or not processor.chat_template:
        return None
    renderer = Renderer(processor, family)

    @cache
    def count(sizes: tuple[tuple[int, int], ...]) -> int:
        parts = [*({"type": "image"} for _ in sizes), {"type": "text", "text": "?"}]
        prompt = renderer.prompt([{"role": "user", "content": parts}], [np.zeros((*size, 3), np.uint8) for size in sizes])
        return int((prompt.ids == token).sum())

    return count
