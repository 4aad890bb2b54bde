"""Which layers an adapter changes, and what the model says without its visual half, or without all of it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from gtrturbo.errors import GtrTurboError
from gtrturbo.models.families import Family
from gtrturbo.models.parts import LANGUAGE, PARTS, UNTOLD, heads_of, parts_of

SHOWN = 6  # names of layers in an error


def adapter_layers(model: Any, family: Family, *, visual: bool) -> list[BaseTunerLayer]:
    """Return the layers that an adapter changes: all, or those outside the text decoder, none where that cannot be told."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    layers = [(name, module) for name, module in base.named_modules() if isinstance(module, BaseTunerLayer)]
    if not visual or not layers:
        return [module for _, module in layers]
    parts = parts_of(base, family)
    return [module for name, module in layers if parts is not None and parts[name] != LANGUAGE]


def modules_of(model: Any, family: Family, targets: Sequence[str]) -> list[str]:
    """Name the modules that an adapter goes on: names as they are, and of a part of the model all its linear layers.

    Raises:
        GtrTurboError: a part has none, or what belongs to it cannot be told.
    """
    if not any(target in PARTS for target in targets):
        return list(targets)
    linear, parts = _linear(model), parts_of(model, family)
    if parts is None:
        [word, *_] = [target for target in targets if target in PARTS]
        raise GtrTurboError(
            f"it cannot be told which modules of a {model.config.model_type} are its text decoder, so that --lora-target {word} "
            "is not known.",
            f"name linear layers instead, such as {layers_of(model)}.",
        )
    found: list[str] = []
    for target in targets:
        found += _linear_of(model, target, parts, linear) if target in PARTS else [target]
    return found


def _linear_of(model: Any, part: str, parts: dict[str, str], linear: Sequence[str]) -> list[str]:
    """Name the linear layers of a part."""
    untold = [name for name in linear if parts[name] == UNTOLD]
    if part != LANGUAGE and untold:
        raise GtrTurboError(
            f"it cannot be told whether {_root(untold[0], parts)} of a {model.config.model_type} is in its {part} part.",
            f"leave {part} out of --lora-target, or name linear layers instead, such as {layers_of(model)}.",
        )
    own = [name for name in linear if parts[name] == part]
    if own:
        return own
    bare = [name for name, value in model.named_parameters() if value.ndim == 2 and parts.get(name.rpartition(".")[0]) == part]
    if bare:
        raise GtrTurboError(
            f"the {part} part of a {model.config.model_type} is a parameter, {bare[0]}, and no linear layer, so that no adapter "
            "goes on it.",
            f"leave {part} out of --lora-target, or train all weights: --lora-rank 0.",
        )
    raise GtrTurboError(
        f"a {model.config.model_type} has no linear layer in its {part} part.",
        f"leave {part} out of --lora-target, or name linear layers instead, such as {layers_of(model)}.",
    )


def _root(name: str, parts: dict[str, str]) -> str:
    """Name the outermost module around one that is told no better."""
    steps = name.split(".")
    around = [".".join(steps[:count]) for count in range(1, len(steps) + 1)]
    return next(each for each in around if parts.get(each) == UNTOLD)


def layers_of(model: Any) -> str:
    """Show what the linear layers of a model are called: by the ends of their names, a few."""
    ends = list(dict.fromkeys(name.rpartition(".")[2] for name in reversed(_linear(model))))
    return ", ".join(ends[:SHOWN])


def _linear(model: Any) -> list[str]:
    """Name the linear layers of a model without its output head."""
    heads = {id(head) for head in heads_of(model)}
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and id(module) not in heads]


@contextmanager
def switched_off(layers: list[BaseTunerLayer]) -> Iterator[None]:
    """Let these layers compute as if they had no adapter for as long as the block runs."""
    before = [layer._disable_adapters for layer in layers]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer._disable_adapters = was
