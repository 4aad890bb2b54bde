"""What an update holds fixed of the turns that it learns from."""

from dataclasses import dataclass

from torch import Tensor

from gtrturbo.models.guidance import Guidance


@dataclass(frozen=True)
class Importance:
    """Where another engine sampled the turns: the trainer's old log-probs and the truncated weight of each token. [N, R]"""

    old_logprobs: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Samples:
    """N turns on the device, with what the update holds fixed.

    thought_mask, action_mask: [N, R] bool   old_logprobs: λ-weighted, per turn [N]   old_values: [N]
    advantages: credited to the text, normalised [N]   returns: value targets [N]
    mismatch: mean |trainer's − sampler's log-prob| over each turn's tokens, in nats [N]
    tokens: per forward pass, the same for old and new log-probs
    guidance: where the teacher's KL is a loss
    """

    thought_mask: Tensor
    action_mask: Tensor
    old_logprobs: Tensor
    old_values: Tensor
    advantages: Tensor
    returns: Tensor
    mismatch: Tensor
    tokens: int
    importance: Importance | None = None
    guidance: Guidance | None = None
