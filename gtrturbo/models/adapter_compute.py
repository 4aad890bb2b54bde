"""In which type a LoRA adapter computes on a GPU: its weights stay float32, its products have the type of the model.

PEFT would otherwise compute B·A·x in float32, outside of a GPU's tensor cores: with rank 128 on every layer of a 7 B shape more
than half of a forward pass. What is added to a layer's output is rounded to the model's type anyway, so a product that is rounded
to it before costs less than that rounding does as long as the adapter's part is the smaller one. Gradients and updates are those
of the float32 weights.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer


def adapter_precision(model: Any, *, device: str = "cuda") -> Callable[[], AbstractContextManager[Any]]:
    """Return what every forward pass of the model runs in; nothing changes but for an adapter on a bfloat16 model.

    Args:
        model: a transformers model, possibly with adapter layers in it.
        device: the kind of device on which products are made so; on a CPU float32 is as fast, and keeps the bits that it has.
    """
    layers: list[Any] = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    if model.device.type != device or model.dtype != torch.bfloat16 or not layers:
        return nullcontext
    for layer in layers:
        layer.cast_input_dtype_enabled = False  # The input stays as it is, and the context rounds the adapter's weights.
    return lambda: torch.autocast(device, dtype=torch.bfloat16)
