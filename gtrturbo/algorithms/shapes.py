"""Checks at the entry of a formula."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def require_same_shape(**tensors: Tensor) -> None:
    """Raise ValueError, naming each shape, unless all tensors have one shape."""
    if len({tensor.shape for tensor in tensors.values()}) > 1:
        found = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"shapes differ: {found}.")


def require_finite(**tensors: Tensor) -> None:
    """Raise ValueError, naming the tensor and its first bad index, if an entry is nan or infinite."""
    for name, tensor in tensors.items():
        bad = (~tensor.isfinite()).flatten().nonzero()
        if len(bad):
            index = int(bad[0])
            raise ValueError(f"{name} is {tensor.flatten()[index].item()} at index {index}.")
