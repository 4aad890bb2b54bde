"""Which layers of a model are of which class, found without loading weights."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.pytorch_utils import Conv1D


def transposed_layers(folder: Path) -> set[str] | None:
    """Name the layers whose weights are stored as [in, out], as in memory; None where transformers knows no such model."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError):
        return None
    kinds = (AutoModelForImageTextToText, AutoModelForCausalLM, AutoModel)
    kind = next((kind for kind in kinds if type(config) in kind._model_mapping), None)
    if kind is None:
        return None
    with torch.device("meta"):
        model = kind.from_config(config)
    return {name for name, module in model.named_modules() if isinstance(module, Conv1D)}
