"""The config of a model whose layers are stacked anew: how many there are, what it says of each, and that it fits them."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.matching import names_in_memory
from gtrturbo.merging.recipes.layers import VISION, place_of
from gtrturbo.merging.recipes.models import Model
from gtrturbo.merging.recipes.recipe import ModelRef
from gtrturbo.merging.recipes.tensors import Restacked
from gtrturbo.store.names import MODEL_CONFIG

DEPTHS = (
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "depth",
    "encoder_layers",
    "decoder_layers",
    "num_decoder_layers",
)
# Lists of the numbers of some layers. Other lists with as many entries as there are layers say something of each.
LISTED_LAYERS = (
    "mlp_only_layers", "moe_layers", "attn_layer_indices", "fullatt_block_indexes", "global_attn_indexes",
    "cross_attention_layers",
)  # fmt: skip
OF_NO_LAYER = ("architectures",)
KEEP_KINDS = "choose slices that leave each kind of layer at places where the config has it."


def set_depth(lead: Model, config: dict[str, Any], stack: Restacked) -> None:
    """Say how many layers a stack has now, wherever it was said how many it had, and what is said of each layer.

    Args:
        lead: the model that lends its config, with the layers that it had.
        config: to be changed.
        stack: the layers that there are now.

    Raises:
        GtrTurboError: nothing says it.
    """
    before = lead.depths[stack.stack]
    vision = bool(VISION.search(f"{stack.stack}."))
    places = _places(config, vision=vision)
    names = [name for name in DEPTHS if any(place.get(name) == before for place in places)]
    coder = next((side for side in ("encoder", "decoder") if f"{side}." in f"{stack.stack}."), None)
    if coder and len(names) > 1:
        names = [name for name in names if ("decoder" in name) == (coder == "decoder")]
    if not names:
        raise GtrTurboError(
            f"{MODEL_CONFIG} does not say that {stack.stack} has {before} layers.", "slice a model whose config does."
        )
    for place, whole in zip(places, _places(_whole(lead), vision=vision), strict=False):
        if max(stack.layers) < before and any(place.get(name) == before for name in names):
            _follow(place, whole, stack.layers, before)
        for name in names:
            if place.get(name) == before:
                place[name] = len(stack.layers)


def _places(config: dict[str, Any], *, vision: bool) -> list[dict[str, Any]]:
    """The parts of a config that may speak of a stack."""
    own = config.get("vision_config") if vision else config.get("text_config", config)
    places = [own] if isinstance(own, dict) else [config]
    return places if vision or places[0] is config else [*places, config]


def _whole(lead: Model) -> dict[str, Any]:
    """The lead's config with what transformers fills in; as it is where transformers does not know the model."""
    from gtrturbo.models.layer_kinds import whole_config  # Takes seconds to import, and is rarely needed.

    try:
        return whole_config(lead.layout.folder)
    except (OSError, ValueError):
        return lead.config


def _follow(place: dict[str, Any], whole: dict[str, Any], layers: tuple[int, ...], before: int) -> None:
    """Let lists follow the layers; those that only follow from numbers are written where layers differ by them."""
    for name, values in whole.items():
        if not isinstance(values, list) or name in OF_NO_LAYER or name.endswith("_token_id"):
            continue
        if name in LISTED_LAYERS and (name in place or values):
            place[name] = [number for number, layer in enumerate(layers) if layer in values]
        elif len(values) == before and (name in place or any(value != values[0] for value in values)):
            place[name] = [values[layer] for layer in layers]


def require_kinds(config: dict[str, Any], lead: Model, models: Mapping[ModelRef, Model], stack: Restacked) -> str | None:
    """Refuse a config by which a layer would be of another kind than the one that it is made of, or a tensor of another shape.

    Args:
        config: that comes out.
        lead: the model that lends its files.
        models: by name in the recipe.
        stack: the layers that there are now.

    Returns: what a user has to be told, where transformers does not know the model.

    Raises:
        GtrTurboError: names the first layer or tensor, or says why transformers makes no model of the config.
    """
    from gtrturbo.models.layer_kinds import model_shape, telling  # As above.

    own = _in_memory(lead, stack.stack)
    try:
        before = model_shape(lead.layout.folder, own)
        kinds = {ref: model_shape(models[ref].layout.folder, own).layers for ref in set(stack.sources)}
    except (OSError, ValueError):
        return (
            f"transformers does not know the model: whether its {MODEL_CONFIG} fits the layers in their new places is not known."
        )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / MODEL_CONFIG).write_text(json.dumps(config), encoding="utf-8")
        try:
            after = model_shape(Path(folder), own)
        except (OSError, ValueError) as error:
            raise GtrTurboError(
                f"the {MODEL_CONFIG} of {lead.given} says of its layers what cannot follow these slices: {error}", KEEP_KINDS
            ) from None
    for name, shape in before.tensors.items():
        if not place_of(name).stack and after.tensors.get(name, shape) != shape:
            raise GtrTurboError(
                f"{name} has a part for each layer: {list(shape)}, and {list(after.tensors[name])} after these slices.",
                f"choose slices of {len(before.layers)} layers.",
            )
    told = {ref: telling(each) | telling(after.layers) for ref, each in kinds.items()}
    for number, (ref, layer) in enumerate(zip(stack.sources, stack.layers, strict=True)):
        for name in sorted(told[ref]):
            was, now = kinds[ref][layer].get(name), after.layers[number].get(name)
            if was != now and (was, now) != (len(kinds[ref]), len(after.layers)):  # A layer may know how many there are.
                raise GtrTurboError(
                    f"layer {number} would be of another kind by its {MODEL_CONFIG} than layer {layer} of {models[ref].given}, "
                    f"which it is made of: {name.strip('.') or 'its class'} is {now} instead of {was}.",
                    KEEP_KINDS,
                )
    return None


def _in_memory(lead: Model, stack: str) -> str:
    """The name that transformers gives to a stack; as it is stored where transformers does not know the model."""
    known = names_in_memory(lead.layout.folder)
    names = known.in_memory.items() if known else ()
    return next((place_of(there).stack for name, there in names if place_of(name).stack == stack), stack)
