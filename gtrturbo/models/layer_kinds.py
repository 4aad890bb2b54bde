"""Of which kinds a model's layers are by its config, found without weights: what their modules are, and how they are set."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from gtrturbo.models.stored_names import model_without_weights

Kind = dict[str, Any]  # By names within a layer: the classes of its modules, their plain settings, and shapes of tensors.


def whole_config(folder: Path) -> dict[str, Any]:
    """Return a folder's config with what transformers fills in, such as `layer_types` that follow from a number.

    Raises:
        OSError, ValueError: it knows no such model.
    """
    return AutoConfig.from_pretrained(folder, local_files_only=True).to_dict()


@dataclass(frozen=True)
class ModelShape:
    """A model without weights: `layers` of one stack, and the shapes of all its tensors by name."""

    layers: list[Kind]
    tensors: dict[str, tuple[int, ...]]


def model_shape(folder: Path, stack: str) -> ModelShape:
    """Describe the model that transformers makes of a folder's config, and each layer of a stack.

    Args:
        folder: holds a config; weights are not read.
        stack: the name that transformers gives to the layers.

    Raises:
        OSError, ValueError: it makes no model of the config, or one without such a stack.
    """
    try:
        model = model_without_weights(folder)
        layers = model.get_submodule(stack)
    except AttributeError as error:
        raise ValueError(str(error)) from None
    tensors = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return ModelShape([_kind(layer) for layer in layers.children()], tensors)


def _kind(layer: Any) -> Kind:
    kind: Kind = {name: tuple(tensor.shape) for name, tensor in layer.state_dict().items()}
    for path, module in layer.named_modules():
        kind[path] = type(module).__name__
        # Dropout may grow with depth, and is of training.
        kind |= {f"{path}.{name}": value for name, value in vars(module).items() if _is_plain(value) and "drop" not in name}
    return kind


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str | None)


def telling(kinds: list[Kind]) -> set[str]:
    """Name what differs among the layers of a stack, but for their numbers."""
    names = {name for kind in kinds for name in kind}
    found = {name: [kind.get(name) for kind in kinds] for name in names}
    return {name for name, values in found.items() if any(value != values[0] for value in values) and not _counts(values)}


def _counts(values: list[Any]) -> bool:
    """Tell whether values are the numbers of the layers, from whichever on."""
    return all(type(value) is int and value - values[0] == number for number, value in enumerate(values))
