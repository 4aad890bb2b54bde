"""An adapter with some of it switched off: what the model says without its visual half, or without all of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer

from gtrturbo.models.families import Family


def adapter_layers(model: Any, family: Family, *, visual: bool) -> list[BaseTunerLayer]:
    """Return the layers that an adapter changes: all, or those of the vision tower and of what leads from it to the text."""
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    ends = (*family.towers, *family.projectors)
    return [module for name, module in layers if not visual or any(part in ends for part in name.split("."))]


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
