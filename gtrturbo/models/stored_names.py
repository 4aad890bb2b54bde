"""How transformers names a model's stored tensors in memory, found without loading weights."""

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.pytorch_utils import Conv1D

from gtrturbo.models.names_in_memory import ModelNames
from gtrturbo.store.safetensors_files import read_layout

KINDS = (AutoModelForImageTextToText, AutoModelForCausalLM, AutoModel)


def stored_names(folder: Path) -> dict[str, str]:
    """Return, for each tensor of a model in memory, the name under which the folder stores it."""
    return {name: stored for stored, name in model_names(folder).in_memory.items()}


def model_names(folder: Path) -> ModelNames:
    """Ask transformers for the model that it would load from a folder.

    Raises:
        OSError, ValueError: it knows no such model.
    """
    model = _without_weights(folder)
    changes = get_model_conversion_mapping(model)
    renamings = [change for change in changes if isinstance(change, WeightRenaming)]
    converters = [change for change in changes if isinstance(change, WeightConverter)]
    state = model.state_dict()
    stored = read_layout(folder).entries
    names = {name: rename_source_key(name, renamings, converters, model.base_model_prefix, state)[0] for name in stored}
    return ModelNames(names, frozenset(state), dict(model.all_tied_weights_keys))


def transposed_layers(folder: Path) -> set[str] | None:
    """Name the layers whose weights are stored as [in, out], as in memory; None where transformers knows no such model."""
    try:
        model = _without_weights(folder)
    except (OSError, ValueError):
        return None
    return {name for name, module in model.named_modules() if isinstance(module, Conv1D)}


def _without_weights(folder: Path) -> Any:
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):
        return _kind_of(config)._from_config(config)


def _kind_of(config: Any) -> Any:
    """The class that the config names, or the one that an automatic choice takes."""
    named = [getattr(transformers, name, None) for name in config.architectures or ()]
    auto = [kind._model_mapping[type(config)] for kind in KINDS if type(config) in kind._model_mapping]
    known = [kind for kind in named if kind is not None] or auto
    if not known:
        raise ValueError(f"it has no class for {type(config).__name__}")
    return known[0][0] if isinstance(known[0], tuple) else known[0]
