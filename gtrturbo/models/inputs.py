"""What a model is given beside tokens: position ids, made once per prompt, and everything on its device."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from gtrturbo.models.renderer import Prompt


def to_device(model: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Move a batch to the model's device, and pixels to the type of its weights."""
    dtype = model.dtype
    return {name: value.to(model.device, dtype if value.is_floating_point() else None) for name, value in batch.items()}


class Positions:
    """Position ids of prompts, kept as long as the prompts: for pictures they are made by a slow loop in Python."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._taken = "position_ids" in inspect.signature(model.forward).parameters
        self._kept: WeakKeyDictionary[Prompt, Tensor] = WeakKeyDictionary()

    def collated(self, prompts: Sequence[Prompt], width: int) -> Tensor | None:
        """Position ids of prompts that are padded on the left to `width`, [..., B, width]; None if the model takes none."""
        if not self._taken:
            return None
        rows = [self._of(prompt) for prompt in prompts]
        padded = [torch.nn.functional.pad(row, (width - row.shape[-1], 0)) for row in rows]
        return torch.cat(padded, dim=-2).to(self._model.device)

    def _of(self, prompt: Prompt) -> Tensor:
        if prompt not in self._kept:
            inputs = dict(prompt.tensors)
            ids = inputs.pop("input_ids")
            self._kept[prompt] = self._model._prepare_position_ids_for_generation(ids, inputs)
        return self._kept[prompt]


def following(positions: Tensor | None, count: int) -> Tensor | None:
    """Position ids of the `count` tokens after the last one. [..., B, P] -> [..., B, count]"""
    if positions is None:
        return None
    return positions[..., -1:] + torch.arange(1, count + 1, device=positions.device)
