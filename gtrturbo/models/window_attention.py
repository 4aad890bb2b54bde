"""Attention of a vision tower over many short sequences, those of one length at once.

Qwen2.5-VL's tower attends within windows of 8 × 8 patches (Bai et al., arXiv 2502.13923, section 2.1.1) and within pictures.
Without a flash attention package, transformers calls attention once per window: at the depth of 7 B more than four thousand
small calls in one forward pass over 16 pictures of 300 × 300 pixels.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.weak import WeakIdKeyDictionary
from transformers import AttentionInterface

from gtrturbo.models.families import FAMILIES

# Towers hand their sequences over in one call to whatever has "flash" in its name.
NAME = "gtrturbo_flash_windows"


def attend_at_once(model: nn.Module) -> None:
    """Let the vision tower of a Qwen2-VL or Qwen2.5-VL take all sequences of one length in one call; leave other models alone."""
    towers = {tower for family in FAMILIES.values() for tower in family.window_towers}
    AttentionInterface.register(NAME, _attention)
    for module in model.modules():
        config: Any = getattr(module, "config", None)
        if getattr(config, "model_type", None) in towers and config._attn_implementation == "sdpa":
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
    if cu_seq_lens_q not in _PLACES:
        _PLACES[cu_seq_lens_q] = _Places.of(cu_seq_lens_q)
    places = _PLACES[cu_seq_lens_q]
    parts = []
    for length, place in places.by_length.items():
        q, k, v = (tensor[0, :, place].unflatten(1, (-1, length)).transpose(0, 1) for tensor in (query, key, value))
        parts.append(scaled_dot_product_attention(q, k, v, scale=scaling).transpose(1, 2).flatten(0, 1))
    return torch.cat(parts)[places.back][None], None


@dataclass(frozen=True)
class _Places:
    """Where the sequences of each length lie, and what brings them back in order once they lie by length. [S]"""

    by_length: dict[int, Tensor]
    back: Tensor

    @classmethod
    def of(cls, bounds: Tensor) -> "_Places":
        """Work it out where it costs no wait for the device; all layers of a forward pass share it."""
        starts: dict[int, list[int]] = {}
        for start, stop in pairwise(bounds.tolist()):
            starts.setdefault(stop - start, []).append(start)
        found = {n: (torch.tensor(each)[:, None] + torch.arange(n)).flatten() for n, each in starts.items() if n}
        back = torch.cat(list(found.values())).argsort()
        return cls({length: place.to(bounds.device) for length, place in found.items()}, back.to(bounds.device))


_PLACES = WeakIdKeyDictionary()  # By the tensor of bounds, which lives as long as its forward pass and the backward pass.
