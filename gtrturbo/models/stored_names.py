"""How transformers names a model's stored tensors in memory, found without loading weights."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from gtrturbo.store.safetensors_files import read_layout


def stored_names(folder: Path) -> dict[str, str]:
    """Return, for each tensor of a model in memory, the name under which the folder stores it."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    kind = AutoModelForImageTextToText if type(config) in AutoModelForImageTextToText._model_mapping else AutoModelForCausalLM
    with torch.device("meta"):
        model = kind.from_config(config)
    changes = get_model_conversion_mapping(model)
    renamings = [change for change in changes if isinstance(change, WeightRenaming)]
    converters = [change for change in changes if isinstance(change, WeightConverter)]
    state = model.state_dict()
    stored = read_layout(folder).entries
    return {rename_source_key(name, renamings, converters, model.base_model_prefix, state)[0]: name for name in stored}
