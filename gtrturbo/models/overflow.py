"""Weights so large that what comes of them is no number, told as such wherever they are met."""

from collections.abc import Iterable

import numpy as np
import torch

from gtrturbo.errors import Collapse

TOO_LARGE = "its weights are too large: train it again at a lower learning rate"


def train_again(dtype: torch.dtype) -> str:
    """Say what mends weights that are too large for the type that they are in."""
    return f"{TOO_LARGE}." if dtype == torch.float32 else f"{TOO_LARGE}, or try --dtype float32."


def require_finite(name: str, logprobs: Iterable[np.ndarray], *, temperature: float, dtype: torch.dtype) -> None:
    """Refuse log-probs that are not finite, with what makes them so.

    Args:
        name: of the model, as an error names it.
        logprobs: of tokens, in nats.
        temperature: of the softmax that gave them.
        dtype: of the weights.

    Raises:
        Collapse: one is NaN or infinite.
    """
    if not all(np.isfinite(row).all() for row in logprobs):
        raise Collapse(f"the logits of {name} are not finite at temperature {temperature:g}.", train_again(dtype))
