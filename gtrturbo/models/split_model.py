"""Full weights that are split over processes with FSDP2 before the first of them is read.

The model is made on the meta device and split there; then each process reads its own rows of each tensor. The reading is
transformers' own: it takes a parameter that is split for what it is, and does with names, buffers and tied weights as always.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.models.auto.auto_factory import _get_model_class

from gtrturbo.console import stderr
from gtrturbo.distributed.escapes import shell_word
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint_files import is_adapter
from gtrturbo.models.names_in_memory import ModelNames
from gtrturbo.models.quantised import quantisation_of
from gtrturbo.models.split_ahead import require_splittable
from gtrturbo.models.stored_names import model_names
from gtrturbo.models.whole_weights import require_numbers, require_tied, require_whole_model
from gtrturbo.store.safetensors_files import TensorEntry, read_layout


def require_split(path: Path) -> None:
    """Refuse to split where there is one process only, or an adapter is trained, whose gradients are small enough to sum whole.

    Raises:
        GtrTurboError: says which; or the weights are quantised.
    """
    require_splittable(alone=not dist.is_initialized(), adapter=is_adapter(path))
    if said := quantisation_of(path):
        raise GtrTurboError(
            f"the weights of {path} are quantised ({said.method}), and rows of codes are no rows of weights: they are not split.",
            f"write them dequantised: gtrturbo init --model {shell_word(str(path))} --out PLAIN; then --checkpoint PLAIN.",
        )


def split(module: nn.Module, device: torch.device | str, layers: frozenset[str] = frozenset()) -> None:
    """Split a module's weights over all processes by rows, in place.

    Args:
        module: its own weights are gathered when it is run.
        device: where it is run.
        layers: names of classes of modules in it that are gathered one at a time.
    """
    mesh = init_device_mesh(torch.device(device).type, (dist.get_world_size(),))
    precision = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    for each in [*(inner for inner in module.modules() if type(inner).__name__ in layers), module]:
        fully_shard(each, mesh=mesh, mp_policy=precision)


def load_split(path: Path, *, device: str, dtype: Any) -> Any:
    """Load full weights, of which this process reads its share, and refuse what is missing, unexpected or no number.

    A model of which transformers cuts or turns stored tensors is read whole and then split: of a cut one, rows of a process are
    no rows of what it is cut into.

    Args:
        path: folder of the model, the same in all processes.
        device: of this process.
        dtype: of the weights; auto for what the config says.

    Raises:
        GtrTurboError: the weights are not those of the model.
    """
    config = AutoConfig.from_pretrained(path, local_files_only=True)
    kind = _get_model_class(config, AutoModelForImageTextToText._model_mapping)
    names = model_names(path)
    require_tied(path, _untied(path, names))
    changed = names.changed
    settings = {"config": config, "dtype": dtype, "output_loading_info": True, "local_files_only": True}
    model, info = (kind if changed else _splitting(kind, device)).from_pretrained(str(path), **settings)
    require_whole_model(str(path), info)
    require_numbers(path, ((name, own(values)) for name, values in model.named_parameters()))
    if changed:
        stderr.print(_about_changed(path, changed), style="yellow", soft_wrap=True)
        _split_layers(model.to(device), device)
    for module in model.modules():
        for name, values in module.named_buffers(recurse=False):
            setattr(module, name, values.to(device))  # Parameters are where they were split for.
    return model


def _untied(path: Path, names: ModelNames) -> list[str]:
    """Name the tensors that the model ties to others and that are stored with other values; they are read before it is split."""
    stored, entries = names.stored_alone(), read_layout(path).entries
    pairs = [(each, stored.get(each), stored.get(source)) for each, source in names.tied.items()]
    return [each for each, one, other in pairs if one and other and not torch.equal(_read(entries, one), _read(entries, other))]


def _read(entries: Mapping[str, TensorEntry], name: str) -> Tensor:
    with safe_open(entries[name].file, framework="pt") as file:
        return file.get_tensor(name)


def _about_changed(path: Path, changed: frozenset[str]) -> str:
    what = f"transformers makes other tensors of {min(changed)}"
    return f"{path} was loaded whole by each process before it was split: {what}."


def _splitting(kind: Any, device: str) -> Any:
    """Return the class of a model that is split when it has been made, and before its weights are read."""

    def load(model: Any, *args: Any, **settings: Any) -> Any:
        model.tie_weights()  # What is one parameter is to be split and gathered as one.
        _split_layers(model, device)
        return kind._load_pretrained_model(model, *args, **settings)

    # transformers looks at the names of class and module to tell its own models from others.
    return type(kind.__name__, (kind,), {"__module__": kind.__module__, "_load_pretrained_model": staticmethod(load)})


def _split_layers(model: Any, device: str) -> None:
    split(model, device, frozenset(model._no_split_modules or ()))


def own(tensor: Tensor) -> Tensor:
    """Return the rows that this process holds of a tensor that is split; any other is itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def own_rows(tensor: Tensor) -> slice | None:
    """Return which rows of a tensor this process holds; None for all of one that is not split."""
    if not isinstance(tensor, DTensor):
        return None
    first = min(tensor.shape[0], tensor.device_mesh.get_local_rank() * -(-tensor.shape[0] // tensor.device_mesh.size()))
    return slice(first, first + tensor.to_local().shape[0])


def full(tensor: Tensor) -> Tensor:
    """Gather a tensor that is split over processes, in all of them; any other is itself."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def of_rows(rows: Tensor, other: Tensor) -> Tensor:
    """Make a tensor that is split as `other` is of the rows that this process holds; beside one that is not split, itself."""
    if not isinstance(other, DTensor):
        return rows
    how = {"shape": other.shape, "stride": other.stride(), "run_check": False}
    return DTensor.from_local(rows, other.device_mesh, other.placements, **how)
