"""What a server is asked about to prove what it serves, and whether two replies of its are the same."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gtrturbo.models.renderer import Prompt
from gtrturbo.play.episodes import Response
from gtrturbo.store.records import Message


@dataclass(frozen=True)
class ShownState:
    """A state that is asked about: its prompt as it is rendered here, messages, and pictures, each [H, W, 3] uint8."""

    prompt: Prompt
    messages: Sequence[Message]
    pictures: Sequence[np.ndarray]


@dataclass(frozen=True)
class Told:
    """What was asked about, at which temperature and with which seed, and what came back."""

    state: ShownState
    temperature: float
    seed: int
    response: Response


def logprob_of(response: Response) -> float:
    """Return log p of a whole reply, in nats; 0 where it is not told."""
    return float(response.logprobs.sum(dtype=np.float64)) if response.logprobs is not None else 0.0


def identity_of(response: Response) -> bytes | str:
    """Return what two replies share that are the same."""
    return response.text if response.response_ids is None else response.response_ids.tobytes()


def is_same(one: Response, other: Response, limit: float) -> bool:
    """Tell whether two replies are the same, their log-probs within a limit of the mean of |p − s|, in nats."""
    if one.text != other.text or one.has_tokens != other.has_tokens:
        return False
    if one.response_ids is None or one.logprobs is None or other.response_ids is None or other.logprobs is None:
        return True
    same = np.array_equal(one.response_ids, other.response_ids)
    return same and float(np.abs(one.logprobs - other.logprobs).mean()) <= limit
