"""How transformers names a model's stored tensors in memory, found without loading weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import Concatenate, MergeModulelist, WeightConverter, WeightRenaming, rename_source_key
from transformers.pytorch_utils import Conv1D

from gtrturbo.models.names_in_memory import ModelNames, StackPart
from gtrturbo.store.safetensors_files import TensorEntry, read_layout

KINDS = (AutoModelForImageTextToText, AutoModelForCausalLM, AutoModel)


def stored_names(folder: Path) -> dict[str, str]:
    """Return, for each tensor of a model in memory, the name under which the folder stores it."""
    return {name: stored for stored, name in model_names(folder).in_memory.items()}


def model_names(folder: Path) -> ModelNames:
    """Ask transformers for the model that it would load from a folder.

    Raises:
        OSError, ValueError: it knows no such model.
    """
    model = model_without_weights(folder)
    changes = get_model_conversion_mapping(model)
    renamings = [change for change in changes if isinstance(change, WeightRenaming)]
    converters = [change for change in changes if isinstance(change, WeightConverter)]
    state = model.state_dict()
    stored = read_layout(folder).entries
    found = {name: rename_source_key(name, renamings, converters, model.base_model_prefix, state) for name in stored}
    names = {name: place for name, (place, _) in found.items()}
    by_source = {name: (place, pattern) for name, (place, pattern) in found.items() if pattern}
    stacks = _stacks(by_source, converters, stored, {name: tuple(value.shape) for name, value in state.items()})
    changed = by_source.keys() - {part.stored for parts in stacks.values() for part in parts}
    return ModelNames(names, frozenset(state), dict(model.all_tied_weights_keys), stacks, frozenset(changed))


def _stacks(
    found: Mapping[str, tuple[str, str]],
    converters: Sequence[WeightConverter],
    stored: Mapping[str, TensorEntry],
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, tuple[StackPart, ...]]:
    """Say what stacks of experts are made of: of each expert one matrix, or several one below the other.

    Args:
        found: for each stored name that is converted, the name in memory and the pattern of the conversion that it fits.
        converters: how transformers makes tensors in memory of stored ones.
        stored: the tensors on disk.
        shapes: of the tensors in memory.
    """
    ways = [(MergeModulelist, 0)], [(MergeModulelist, 0), (Concatenate, 1)]
    plain = [each for each in converters if [(type(step), getattr(step, "dim", None)) for step in each.operations] in ways]
    order = {pattern: place for each in plain for place, pattern in enumerate(each.source_patterns) if "*" in pattern}
    members: dict[str, list[tuple[int, int, str]]] = {}
    for name, (place, pattern) in found.items():
        numbers = [part for part in name.split(".") if part.isdigit()]
        if pattern in order and numbers and len(stored[name].shape) == 2:
            members.setdefault(place, []).append((int(numbers[-1]), order[pattern], name))
    stacks = {}
    for place, each in members.items():
        parts, heights = [], dict[int, int]()
        for expert, _, name in sorted(each):
            parts.append(StackPart(name, expert, heights.get(expert, 0)))
            heights[expert] = parts[-1].top + stored[name].shape[0]
        # Of a model that lacks experts, or has others, nothing is known.
        if [(expert, *shapes.get(place, ())[1:2]) for expert in range(len(heights))] == sorted(heights.items()):
            stacks[place] = tuple(parts)
    return stacks


def transposed_layers(folder: Path) -> set[str] | None:
    """Name the layers whose weights are stored as [in, out], as in memory, and the parameters of experts that are.

    Returns: names, or None where transformers knows no such model.
    """
    try:
        model = model_without_weights(folder)
    except (OSError, ValueError):
        return None
    found = {name for name, module in model.named_modules() if isinstance(module, Conv1D)}
    for name, module in model.named_modules():
        if getattr(module, "is_transposed", False):
            found |= {f"{name}.{parameter}" for parameter, _ in module.named_parameters(recurse=False)}
    return found


def model_without_weights(folder: Path) -> Any:
    """Make the model of a folder's config on the meta device.

    Raises:
        OSError, ValueError: transformers knows no such model.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            return _kind_of(config)._from_config(config)
    except (StrictDataclassError, LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError, AssertionError) as error:
        raise ValueError(f"transformers makes no model of its config: {error}") from error


def _kind_of(config: Any) -> Any:
    """The class that the config names, or the one that an automatic choice takes."""
    named = [getattr(transformers, name, None) for name in config.architectures or ()]
    auto = [kind._model_mapping[type(config)] for kind in KINDS if type(config) in kind._model_mapping]
    known = [kind for kind in named if kind is not None] or auto
    if not known:
        raise ValueError(f"it has no class for {type(config).__name__}")
    return known[0][0] if isinstance(known[0], tuple) else known[0]
