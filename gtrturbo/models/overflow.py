"""Weights so large that what comes of them is no number, told as such wherever they are met."""

from collections.abc import Iterable

import numpy as np

from gtrturbo.errors import Collapse

TRAIN_AGAIN = "its weights are too large: train it again at a lower learning rate, or try --dtype float32."


def require_finite(name: str, logprobs: Iterable[np.ndarray], *, temperature: float) -> None:
    """Refuse log-probs that are not finite, with what makes them so.

    Args:
        name: of the model, as an error names it.
        logprobs: of tokens, in nats.
        temperature: of the softmax that gave them.

    Raises:
        Collapse: one is NaN or infinite.
    """
    if not all(np.isfinite(row).all() for row in logprobs):
        raise Collapse(f"the logits of {name} are not finite at temperature {temperature:g}.", TRAIN_AGAIN)
