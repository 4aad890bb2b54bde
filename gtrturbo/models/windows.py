"""Attention of a vision tower over many short sequences, those of one length at once.

Qwen2.5-VL's tower attends within windows of 8 × 8 patches (Bai et al., arXiv 2502.13923, section 2.1.1) and within pictures.
Without a flash attention package, transformers calls attention once per window: thousands of small calls in one forward pass,
which keep a GPU waiting.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

# Towers hand their sequences over in one call to whatever has "flash" in its name.
NAME = "gtrturbo_flash_windows"
TOWERS = ("qwen2_vl_vision", "qwen2_5_vl_vision")


def attend_at_once(model: nn.Module) -> None:
    """Let the vision tower of a Qwen2-VL or Qwen2.5-VL take all sequences of one length in one call; leave other models alone."""
    for module in model.modules():
        config: Any = getattr(module, "config", None)
        if getattr(config, "model_type", None) in TOWERS:
            config._attn_implementation = NAME


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    scaling: float,
    cu_seq_lens_q: Tensor,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within sequences that lie one after another, as transformers asks for it.

    Args:
        query, key, value: [1, H, S, D]
        cu_seq_lens_q: where each sequence begins, and the end. [n + 1]

    Returns: [1, S, H, D]
    """
    starts, lengths = cu_seq_lens_q[:-1], cu_seq_lens_q.diff()
    parts, places = [], []
    for length in sorted(set(lengths.tolist()) - {0}):
        place = (starts[lengths == length, None] + torch.arange(length, device=starts.device)).flatten()
        rows = (tensor[0, :, place].unflatten(1, (-1, length)).transpose(0, 1) for tensor in (query, key, value))
        parts.append(scaled_dot_product_attention(*rows, scale=scaling).transpose(1, 2).flatten(0, 1))
        places.append(place)
    return torch.cat(parts)[torch.cat(places).argsort()][None], None


AttentionInterface.register(NAME, _attention)
