"""An adapter with some of it switched off: what the model says without its visual half, or without all of it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from gtrturbo.errors import GtrTurboError
from gtrturbo.models.families import Family

PARTS = ("language", "projector", "vision")


def adapter_layers(model: Any, family: Family, *, visual: bool) -> list[BaseTunerLayer]:
    """Return the layers that an adapter changes: all, or those of the vision tower and of what leads from it to the text."""
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    return [module for name, module in layers if not visual or part_of(name, family) != "language"]


def part_of(name: str, family: Family) -> str:
    """Tell in which part of a model a module is, by its name: projector, vision or language."""
    steps = name.split(".")
    if any(step in family.projectors for step in steps):
        return "projector"
    return "vision" if any(step in family.towers for step in steps) else "language"


def modules_of(model: Any, family: Family, targets: Sequence[str]) -> list[str]:
    """Name the modules that an adapter goes on: names as they are, and of a part of the model all its linear layers.

    Raises:
        GtrTurboError: a part has none.
    """
    head = model.get_output_embeddings()
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head]
    found: list[str] = []
    for target in targets:
        own = [name for name in linear if part_of(name, family) == target] if target in PARTS else [target]
        if not own:
            raise GtrTurboError(
                f"the model has no linear layer in its {target} part.",
                f"leave {target} out of --lora-target, or name modules: gtrturbo show CHECKPOINT",
            )
        found += own
    return found


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
