"""init: the first checkpoint. The only stage that may touch the network."""

from typing import Any

from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.utils import logging

from gtrturbo.artifacts import Draft, Result, seed_for, writing
from gtrturbo.config import InitConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import BASE, DTYPES, add_adapter, rebased_name, save_model
from gtrturbo.models.processor import load_processor, renderer_hash, save_processor
from gtrturbo.models.tiny import build_tiny
from gtrturbo.stages import done, provenance


def run(config: InitConfig) -> Result:
    """Write full weights (lora_rank 0), or an adapter that changes nothing yet on a base that it names."""
    logging.disable_progress_bar()
    with writing(config.out, provenance(config), overwrite=config.overwrite) as draft:
        model, processor = _load(config)
        if config.lora_rank:
            base = _keep_base(config, draft, model, processor)
            alpha = config.lora_alpha or 2 * config.lora_rank
            model = add_adapter(
                model, rank=config.lora_rank, alpha=alpha, target=config.lora_target, seed=seed_for(config.seed, "adapter")
            )
            save_model(model, draft.folder, base=base)
        else:
            save_model(model, draft.folder)
        save_processor(processor, draft.folder)
        draft.renderer = renderer_hash(draft.folder)
        draft.metrics = _sizes(model)
    return done(draft)


def _load(config: InitConfig) -> tuple[Any, Any]:
    if config.model == "tiny":
        model, processor = build_tiny(seed_for(config.seed, "init"))
        dtype = DTYPES[config.dtype]
        return (model if dtype == "auto" else model.to(dtype)), processor
    try:
        architecture = AutoConfig.from_pretrained(config.model, revision=config.revision)
        model = AutoModelForImageTextToText.from_pretrained(config.model, revision=config.revision, dtype=DTYPES[config.dtype])
        processor = load_processor(config.model, model_type=architecture.model_type, revision=config.revision)
    except (OSError, ValueError) as error:
        raise GtrTurboError(
            f"{config.model} cannot be loaded: {error}", "give tiny, a Hugging Face id, or a local folder."
        ) from error
    return model, processor


def _keep_base(config: InitConfig, draft: Draft, model: Any, processor: Any) -> str:
    """Name what the adapter stands on: a copy inside the checkpoint for the tiny model, else the model where it is."""
    if config.model != "tiny":
        return rebased_name(config.model, config.out)
    save_model(model, draft.folder / BASE)
    save_processor(processor, draft.folder / BASE)
    return BASE


def _sizes(model: Any) -> dict[str, float]:
    parameters = list(model.parameters())
    return {
        "parameters": sum(p.numel() for p in parameters),
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
    }
