"""Files of a model that is split over processes: those that transformers writes of a whole one, while no process holds it whole.

Each file is written by one of the processes, and a tensor is gathered when its turn comes.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from huggingface_hub import StateDictSplit, split_state_dict_into_shards_factory
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from gtrturbo.distributed.processes import group
from gtrturbo.models.split_model import full
from gtrturbo.store.draft import Draft
from gtrturbo.store.files import save_json
from gtrturbo.store.names import MODEL_INDEX, MODEL_WEIGHTS
from gtrturbo.store.new_tensors import NewTensors, new_tensors

# As `save_pretrained` cuts, so that the files are the same.
MOST_IN_FILE = "50GB"
TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class StoredTogether:
    """Tensors in memory, by name, that are gathered together, and names of the stored ones that are made of them alone."""

    sources: tuple[str, ...]
    made: tuple[str, ...]


def save_split(model: Any, draft: Draft) -> None:
    """Write a split model as `save_pretrained` writes a whole one, byte for byte; all processes take part.

    Args:
        model: a transformers model whose parameters are split.
        draft: of each process; the first takes the others' files into its own.
    """
    held = _held(model)
    empty = {name: _empty(values) for name, values in held.items()}
    stored = revert_weight_conversion(model, empty)
    plan, parts = _planned(stored), list(parts_of(model, empty, stored))
    if left := stored.keys() - {name for part in parts for name in part.made}:
        raise ValueError(f"{min(left)} is stored of tensors of several layers.")
    world = group().world
    if world.first:
        # Without a tensor it writes what stands beside them, and removes what looks like files of another model.
        model.save_pretrained(draft.folder, state_dict={})
    with new_tensors() as new:
        for file in list(plan.filename_to_tensors)[world.rank :: world.size]:
            new.lay_out(draft.folder / file, {name: described(stored[name]) for name in plan.filename_to_tensors[file]})
        for part in parts:
            _gather(model, {name: held[name].detach() for name in part.sources}, new, new.places.keys() & part.made)
    group().barrier()
    if world.first:
        _join(draft, plan.filename_to_tensors)
        if plan.is_sharded:
            about = {"total_parameters": model.num_parameters(), **plan.metadata}
            save_json(draft.folder / MODEL_INDEX, {"metadata": about, "weight_map": plan.tensor_to_filename})


def _gather(model: Any, sources: Tensors, new: NewTensors, own: Collection[str]) -> None:
    """Gather tensors, of which this process writes what it has a place for."""
    whole = {name: full(values).cpu() for name, values in sources.items()}
    made = revert_weight_conversion(model, whole) if own else {}
    for name in own:
        new.write(name, raw(made[name]))


def _join(draft: Draft, files: Mapping[str, Any]) -> None:
    """Take the files of the other processes."""
    for shard in draft.shards:
        for file in files:
            if (shard / file).is_file():
                (shard / file).rename(draft.folder / file)


def _planned(stored: Tensors) -> StateDictSplit:
    """Say which tensor goes into which file, as `save_pretrained` does: parts of one tensor go into one."""
    stem, suffix = MODEL_WEIGHTS.split(".")
    return split_state_dict_into_shards_factory(
        dict(stored),
        get_storage_size=lambda values: values.untyped_storage().nbytes(),
        get_storage_id=lambda values: values.untyped_storage()._cdata,
        filename_pattern=f"{stem}{{suffix}}.{suffix}",
        max_shard_size=MOST_IN_FILE,
    )


def _held(model: Any) -> dict[str, Tensor]:
    """Return a model's tensors by name, in its own order: of those that are one, the one that the others are tied to."""
    values = model.state_dict()
    one = {name for name, source in model.all_tied_weights_keys.items() if _same(model, name, source)}
    left = one | set(model._keys_to_ignore_on_save or ())
    return {name: value for name, value in values.items() if name not in left}


def _same(model: Any, name: str, source: str) -> bool:
    return model.get_parameter_or_buffer(name) is model.get_parameter_or_buffer(source)


def _empty(values: Tensor) -> Tensor:
    return torch.empty(values.shape, dtype=values.dtype, device="meta")


def described(values: Tensor) -> tuple[str, tuple[int, ...]]:
    """Name a tensor's type and shape as safetensors does."""
    return TYPES[values.dtype], tuple(values.shape)


def raw(values: Tensor) -> np.ndarray:
    """Return a tensor's bytes, on the CPU. [bytes]"""
    return values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def gather_into(new: NewTensors, name: str, values: Tensor) -> None:
    """Gather a tensor, if it is split, and write it where this process has a place for it."""
    whole = full(values)
    if name in new.places:
        new.write(name, raw(whole))


def parts_of(model: Any, empty: Tensors, stored: Tensors) -> Iterator[StoredTogether]:
    """Divide a model into what can be stored one after the other: tensors, or where several are stored as one, those of a layer.

    Args:
        model: knows how it is stored.
        empty: its tensors on the meta device, by name in memory.
        stored: what is stored of them, by name.
    """
    together: dict[str, list[str]] = {}
    for name in empty:
        if made := _made_alone(model, {name: empty[name]}, stored):
            yield StoredTogether((name,), made)
        else:
            together.setdefault(_layer(name), []).append(name)
    for names in together.values():
        yield StoredTogether(tuple(names), tuple(revert_weight_conversion(model, {name: empty[name] for name in names})))


def _made_alone(model: Any, alone: Tensors, stored: Tensors) -> tuple[str, ...]:
    """Name what is stored of a tensor where that takes no other one; nothing where it does."""
    try:
        made = revert_weight_conversion(model, dict(alone))
    except (ValueError, KeyError, IndexError, RuntimeError):
        return ()
    fit = all(name in stored and described(values) == described(stored[name]) for name, values in made.items())
    return tuple(made) if fit else ()


def _layer(name: str) -> str:
    """Name the layer that a tensor is of: its name up to the first number; of no layer it is empty."""
    found = re.match(r".*?\.\d+\.", name)
    return found[0] if found else ""
