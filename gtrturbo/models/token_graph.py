"""Token steps on a GPU as one CUDA graph: a step's some thousand kernels are started at once, not one by one from Python.

At the 7 B shape with 64 rows a GPU otherwise waits for Python through most of a step (examples/benchmarks/one_gpu.py).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache

# Given what makes the logits, makes them once, and returns them and what makes them anew in the same place.
Record = Callable[[Callable[[], Tensor]], tuple[Tensor, Callable[[], None]]]
# Graphs of lengths within one multiple are the same graph: slots that hold nothing are masked, and cost their reading.
SLOTS = 64


class TokenGraph:
    """One token step of B rows over a cache with a fixed number of slots.

    Args:
        model: the bare transformers model.
        cache: keys and values of the prompts. B rows
        positions: of the newest token. [..., B, 1]
        slots: room for prompts and replies.
        precision: what a forward pass runs in.
        record: how a step becomes one that can be repeated, `capture` on a GPU.
    """

    def __init__(
        self,
        model: Any,
        cache: DynamicCache,
        positions: Tensor,
        *,
        slots: int,
        precision: Callable[[], AbstractContextManager[Any]],
        record: Record,
    ) -> None:
        self._model, self._slots, self._precision = model, slots, precision
        self._cache = StaticCache(config=model.config.get_text_config(), max_cache_len=slots)
        self._layers: list[Any] = list(self._cache.layers)  # all static ones
        rows, device = positions.shape[-2], positions.device
        self._ids = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self._positions = positions.clone()
        self._seen = torch.ones(rows, slots, dtype=torch.bool, device=device)
        self._place = torch.arange(slots, device=device)
        self._length = torch.zeros((), dtype=torch.long, device=device)
        for layer, dynamic in zip(self._layers, _plain(cache), strict=True):
            layer.lazy_initialization(dynamic.keys, dynamic.values)
        for _ in range(2):  # Libraries take their memory at first use, which they may not do while a step is recorded.
            self._set_length(0)
            self._step()
        self._logits, self._replay = record(self._step)

    def fits(self, positions: Tensor, slots: int) -> bool:
        """Say whether such rows can be loaded."""
        return positions.shape == self._positions.shape and slots == self._slots

    def load(self, cache: DynamicCache, mask: Tensor | None, positions: Tensor, *, length: int) -> None:
        """Take over what the prompts left: their keys and values, `length` tokens of each, and which of them are no padding."""
        for layer, dynamic in zip(self._layers, _plain(cache), strict=True):
            layer.keys[:, :, :length].copy_(dynamic.keys)
            layer.values[:, :, :length].copy_(dynamic.values)
        self._seen.fill_(True)
        if mask is not None:
            self._seen[:, :length].copy_(mask[:, :length])
        self._positions.copy_(positions)
        self._set_length(length)

    def step(self, chosen: Tensor) -> Tensor:
        """Feed each row its chosen token, [B, 1]; return the logits of its next one, which the next step overwrites. [B, V]"""
        self._ids.copy_(chosen)
        self._replay()
        return self._logits

    def _step(self) -> Tensor:
        self._positions += 1
        self._length += 1
        seen = self._seen & (self._place < self._length)
        inputs = {"input_ids": self._ids, "attention_mask": seen[:, None, None], "position_ids": self._positions}
        with self._precision():
            return self._model(**inputs, past_key_values=self._cache, use_cache=True, logits_to_keep=1).logits[:, -1]

    def _set_length(self, length: int) -> None:
        self._length.fill_(length)
        for layer in self._layers:
            layer.cumulative_length.fill_(length)


def _plain(cache: DynamicCache) -> list[Any]:
    """The layers of a cache whose layers all hold keys and values."""
    return list(cache.layers)


def capture(step: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
    """Record a step as a CUDA graph."""
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = step()
    return logits, graph.replay
