"""The turns that an update learns from: what it holds fixed of them, and their losses."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gtrturbo.algorithms.guards import Guard
from gtrturbo.algorithms.importance import weighted_logprobs
from gtrturbo.algorithms.ppo import PolicyLoss, clipped_policy_loss, clipped_value_loss, token_policy_loss
from gtrturbo.algorithms.tokens import masked_mean, weighted_turn_logprobs
from gtrturbo.models.policy import Policy
from gtrturbo.play.recording import Transcript
from gtrturbo.train.guidance import Guidance


@dataclass(frozen=True)
class Importance:
    """Where another engine sampled the turns: the trainer's old log-probs and the truncated weight of each token. [N, R]"""

    old_logprobs: Tensor
    weights: Tensor


@dataclass(frozen=True)
class PpoBatch:
    """N turns on the device, with what the update holds fixed.

    thought_mask, action_mask: [N, R] bool   old_logprobs: λ-weighted, per turn [N]; of tokens where credit is per token [N, R]
    advantages: credited to the text, normalised [N]; or to its tokens [N, R]
    old_values, value_targets: as the advantages, None where the credit needs no values
    sampler_trainer_gap: mean |trainer's − sampler's log-prob| over each turn's tokens, in nats [N]
    tokens: per forward pass, the same for old and new log-probs
    guidance: where the teacher's KL is a loss
    """

    thought_mask: Tensor
    action_mask: Tensor
    old_logprobs: Tensor
    old_values: Tensor | None
    advantages: Tensor
    value_targets: Tensor | None
    sampler_trainer_gap: Tensor
    tokens: int
    importance: Importance | None = None
    guidance: Guidance | None = None

    @property
    def per_token(self) -> bool:
        return self.advantages.ndim == 2


@dataclass(frozen=True)
class LossSettings:
    """Numbers of the losses, as `PpoStepConfig` has them.

    Attributes:
        temperature: that the turns were sampled at.
        thought_coef: λ, weight of thought tokens in a turn's log-prob.
        clip_range, value_clip_range: of the ratio, and of the value in units of reward.
        detach_value: keep the value's gradient out of the model.
        value_coef, kl_coef, demo_coef: weights of the losses beside PPO's surrogate.
        guard: bounds ratios further than `clip_range`.
    """

    temperature: float
    thought_coef: float
    clip_range: float
    value_clip_range: float
    detach_value: bool
    value_coef: float
    kl_coef: float
    demo_coef: float
    guard: Guard


@dataclass(frozen=True)
class Losses:
    """Of B turns, one number each: PPO's surrogate, the value loss where there is a critic, the KL where it is a loss. [B]

    Where credit is per token, the surrogate's ratios and what was clipped are of the B turns' tokens. [M]
    """

    surrogate: PolicyLoss
    values: Tensor | None
    kl: Tensor | None


def losses(
    policy: Policy,
    transcript: Transcript,
    batch: PpoBatch,
    rows: Sequence[int],
    *,
    settings: LossSettings,
) -> Losses:
    """Run the policy on some turns once more, with gradients.

    Args:
        policy: what is trained.
        transcript, batch: of all turns.
        rows: the turns.
        settings: of the losses.
    """
    part, guidance = list(rows), batch.guidance
    scored = policy.score(
        [transcript.prompts[row] for row in part],
        [transcript.tokens.response_ids[row] for row in part],
        temperature=settings.temperature,
        token_values=batch.per_token,
        detach_value=settings.detach_value,
        read=guidance.reader(part) if guidance else None,
    )
    replies, device = scored.mask.shape[1], policy.device
    logprobs = scored.logprobs
    if other := batch.importance:
        old, weights = (tensor[part, :replies].to(device) for tensor in (other.old_logprobs, other.weights))
        logprobs = weighted_logprobs(logprobs, old, weights)
    thought, action = (mask[part, :replies].to(device) for mask in (batch.thought_mask, batch.action_mask))
    # Of tokens, what is fixed is as wide as the longest reply of all.
    fixed = {
        name: tensor[part, :replies].to(device) if batch.per_token else tensor[part].to(device)
        for name in ("old_logprobs", "advantages", "old_values", "value_targets")
        if (tensor := getattr(batch, name)) is not None
    }
    bounds = {"clip_range": settings.clip_range, "guard": settings.guard}
    coef = settings.thought_coef
    if batch.per_token:
        surrogate = token_policy_loss(
            logprobs, fixed["old_logprobs"], fixed["advantages"], thought, action, thought_coef=coef, **bounds
        )
    else:
        turns = weighted_turn_logprobs(logprobs, thought, action, thought_coef=coef)
        surrogate = clipped_policy_loss(turns, fixed["old_logprobs"], fixed["advantages"], **bounds)
    value_loss = None
    if scored.values is not None and "value_targets" in fixed:
        width = settings.value_clip_range
        value_loss = clipped_value_loss(scored.values, fixed["old_values"], fixed["value_targets"], clip_range=width)
        if batch.per_token:
            value_loss = masked_mean(value_loss, scored.mask)
    if guidance is None:
        return Losses(surrogate, value_loss, None)
    read = torch.zeros_like(scored.logprobs).masked_scatter(scored.mask, scored.read[0]) if scored.read else None
    return Losses(surrogate, value_loss, guidance.part(part).kl(scored.logprobs, read))
