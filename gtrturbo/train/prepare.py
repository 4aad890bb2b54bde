"""Before the first step: score the turns with the forward pass that trains, measure the KL, and credit each text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from gtrturbo.algorithms.advantages import normalized_credit, raw_credit
from gtrturbo.algorithms.credit import Credit, Credited, guided_credit
from gtrturbo.algorithms.importance import SamplerTrainerGap, sampler_trainer_gap, truncated_importance_weights
from gtrturbo.algorithms.repeats import Repeats
from gtrturbo.algorithms.sampled import Drawn, drawn, draws_reader
from gtrturbo.algorithms.tokens import masked_mean, weighted_turn_logprobs
from gtrturbo.algorithms.vocabulary import LogitsReader
from gtrturbo.config.choices import Placement
from gtrturbo.errors import Collapse
from gtrturbo.models.policy import Policy
from gtrturbo.models.scoring import pad, score_all
from gtrturbo.play.draws import repeats_of
from gtrturbo.play.limits import limits_of
from gtrturbo.play.recording import Transcript
from gtrturbo.store.records import Turn
from gtrturbo.train.credit import earned_by
from gtrturbo.train.critic import bootstrap_values, critic_metrics
from gtrturbo.train.guidance import Guidance, StudentView
from gtrturbo.train.inputs import Rollout
from gtrturbo.train.own_turns import require_one_policy
from gtrturbo.train.ppo_batch import Importance, PpoBatch


@dataclass(frozen=True)
class Crediting:
    """How turns are credited; numbers as `PpoStepConfig` has them.

    Attributes:
        credit: gives each turn its advantage.
        placement: where the KL enters; None where it stands beside PPO as a loss, and nothing of it is in the rewards.
        environment_coef, format_valid, format_invalid, kl_coef: what counts how much in the reward of a turn.
        gamma, gae_lambda: see `Earned`.
    """

    credit: Credit
    placement: Placement | None
    environment_coef: float
    format_valid: float
    format_invalid: float
    kl_coef: float
    gamma: float
    gae_lambda: float


@dataclass(frozen=True)
class _Rewards:
    """Of N turns: what the environment and the text itself earned, which texts parsed, and which had a random action. [N]"""

    environment: Tensor
    text: Tensor
    legal: Tensor
    random_action: Tensor


@dataclass(frozen=True)
class _Before:
    """What the student says before the first step: log-probs [N, R], values and what the guidance's reader saw.

    values: of each turn's state [N], before each token where the credit is per token [N, R], or None
    drawn: how the tokens compare with samples of the student
    repeats: how the replies compare with samples that are independent of one another
    """

    logprobs: Tensor
    values: Tensor | None
    read: Tensor | None
    drawn: Drawn
    repeats: Repeats


def token_masks(transcript: Transcript) -> tuple[Tensor, Tensor]:
    """Return which tokens are thought and which are action, padded to the longest reply. [N, R] bool each"""
    tokens = transcript.tokens
    longest = max(len(ids) for ids in tokens.response_ids)
    return pad(tokens.thought_mask, longest).bool(), pad(tokens.action_mask, longest).bool()


def prepare(
    policy: Policy,
    transcript: Transcript,
    rollout: Rollout,
    *,
    crediting: Crediting,
    guidance: Guidance | None,
    thought_coef: float,
    tokens: int,
    parts: Sequence[Sequence[int]],
) -> tuple[PpoBatch, dict[str, float]]:
    """Return what an update holds fixed, and what is told of the turns before it.

    Args:
        policy: the student, as it played.
        transcript, rollout: its turns, and how they were played.
        crediting: how they are credited.
        guidance: what the teacher says of them.
        thought_coef: λ, weight of thought tokens in a turn's log-prob.
        tokens: per forward pass.
        parts: the minibatches of the first epoch, see `score_all`.

    Raises:
        Collapse: no reply parsed, or a number is not finite.
        GtrTurboError: another model played.
    """
    thought, action = token_masks(transcript)
    rewards, replies = _rewards(transcript.turns, rollout, crediting), thought | action
    before = _score(policy, transcript, rollout, guidance, credit=crediting.credit, tokens=tokens, parts=parts)
    kl, metrics = _kl(policy, transcript, rollout, guidance, before, tokens=tokens)
    valued = {
        "values": before.values,
        "bootstrap_values": bootstrap_values(policy, rollout, transcript, tokens=tokens) if before.values is not None else None,
        "replies": replies if crediting.credit.per_token else None,
    }
    credited, advantages = _credit(transcript.turns, rewards, valued, kl, crediting)
    sampled = pad(transcript.tokens.sample_logprobs, thought.shape[1])
    gap = sampler_trainer_gap(before.logprobs, sampled, replies)
    limits = limits_of("float32" if policy.model.dtype == torch.float32 and rollout.same_type else "bfloat16")
    require_one_policy(rollout, gap, limits)
    batch = PpoBatch(
        thought_mask=thought,
        action_mask=action,
        old_logprobs=before.logprobs
        if crediting.credit.per_token
        else weighted_turn_logprobs(before.logprobs, thought, action, thought_coef=thought_coef),
        old_values=before.values,
        advantages=advantages,
        value_targets=credited.value_targets,
        sampler_trainer_gap=masked_mean((before.logprobs - sampled).abs(), replies),
        tokens=tokens,
        importance=_importance(before.logprobs, sampled) if rollout.sampler else None,
        guidance=None if crediting.placement else guidance,
    )
    told = limits.told("sampler_trainer_gap") if rollout.sampler else {}
    return batch, metrics | _metrics(rewards, before, credited, replies, gap) | told


def _importance(logprobs: Tensor, sampled: Tensor) -> Importance:
    return Importance(logprobs, truncated_importance_weights(logprobs, sampled))


def _kl(
    policy: Policy, transcript: Transcript, rollout: Rollout, guidance: Guidance | None, before: _Before, *, tokens: int
) -> tuple[Tensor, dict[str, float]]:
    if guidance is None:
        return torch.zeros(len(transcript.turns)), {}
    teacher, counted = guidance.teacher_logprobs, guidance.counted
    view = StudentView(policy, transcript, before.logprobs, teacher, counted, rollout.temperature, tokens)
    return guidance.measure(view, before.read)


def _credit(
    turns: Sequence[Turn], rewards: _Rewards, valued: Mapping[str, Tensor | None], kl: Tensor, crediting: Crediting
) -> tuple[Credited, Tensor]:
    """Return what the turns are credited with, and the advantages to learn from: each text with what it earned itself, and all
    normalised where the credit asks for it. [N], or per token [N, R]"""
    gamma, gae_lambda = crediting.gamma, crediting.gae_lambda
    earned = earned_by(turns, rewards.environment + rewards.text, **valued, gamma=gamma, gae_lambda=gae_lambda)
    beta = crediting.kl_coef if crediting.placement else 0.0
    placement = crediting.placement or "reward"
    credited = guided_credit(earned, kl, assign=crediting.credit.assign, beta=beta, placement=placement)
    columns = {"text": rewards.text - beta * kl, "legal": rewards.legal, "random": rewards.random_action}
    if earned.replies is None:
        return credited, _by_text(credited.advantages, columns, normalizes=crediting.credit.normalizes)
    replies = earned.replies  # Each token counts as a turn does elsewhere.
    spread = {name: column[:, None].expand_as(replies)[replies] for name, column in columns.items()}
    tokens = _by_text(credited.advantages[replies], spread, normalizes=crediting.credit.normalizes)
    return credited, torch.zeros(replies.shape).masked_scatter(replies, tokens)


def _by_text(advantages: Tensor, columns: Mapping[str, Tensor], *, normalizes: bool) -> Tensor:
    text = {"text_rewards": columns["text"], "random_action_mask": columns["random"]}
    return normalized_credit(advantages, legal_mask=columns["legal"], **text) if normalizes else raw_credit(advantages, **text)


def _rewards(turns: Sequence[Turn], rollout: Rollout, crediting: Crediting) -> _Rewards:
    legal = torch.tensor([turn.legal for turn in turns])
    if not legal.any():
        raise Collapse(
            f"every turn of {rollout.path} is illegal ({len(turns)} of {len(turns)}): the policy does not follow the format.",
            "warm it up with: gtrturbo sft …",
        )
    return _Rewards(
        environment=crediting.environment_coef * torch.tensor([turn.reward for turn in turns]),
        text=torch.where(legal, crediting.format_valid, crediting.format_invalid),
        legal=legal,
        # The random action that stands in for an illegal reply says nothing about its text.
        random_action=~legal & torch.tensor([turn.executed is not None for turn in turns]),
    )


def _score(
    policy: Policy,
    transcript: Transcript,
    rollout: Rollout,
    guidance: Guidance | None,
    *,
    credit: Credit,
    tokens: int,
    parts: Sequence[Sequence[int]],
) -> _Before:
    replies = transcript.tokens.response_ids
    longest = max(map(len, replies))
    scored = score_all(
        policy,
        transcript.prompts,
        replies,
        temperature=rollout.temperature,
        tokens=tokens,
        token_values=credit.per_token,
        parts=parts,
        reader=partial(_reader, replies, guidance),
    )
    *read, draws = scored.read
    padded, values = pad(scored.logprobs, longest), scored.values if credit.needs_values else None
    _require_finite(padded, values, rollout)
    logprobs = (scored.logprobs, transcript.tokens.sample_logprobs)
    return _Before(
        logprobs=padded,
        values=values,
        read=pad(read[0], longest) if read else None,
        drawn=drawn(torch.cat(draws), *map(_flat, logprobs)),
        repeats=repeats_of(transcript.turns, transcript.tokens, *logprobs),
    )


def _reader(replies: Sequence[np.ndarray], guidance: Guidance | None, rows: Sequence[int]) -> LogitsReader:
    """Read off the distributions of some turns what the guidance wants of them, and whether their tokens were sampled."""
    draws = draws_reader(torch.from_numpy(np.concatenate([replies[row] for row in rows])))
    guiding = guidance.reader(rows) if guidance else None
    return lambda logits, part: (*(guiding(logits, part) if guiding else ()), *draws(logits, part))


def _flat(rows: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(rows))


def _require_finite(logprobs: Tensor, values: Tensor | None, rollout: Rollout) -> None:
    bad = ~logprobs.isfinite().all(dim=1)
    if values is not None:
        bad |= ~values.isfinite().reshape(len(bad), -1).all(dim=1)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise Collapse(
            f"--checkpoint gives log-probs or values that are not finite (first: turn {row} of {rollout.path}).",
            f"nothing was written; inspect with: gtrturbo show {rollout.path} --turn {row}",
        )


def _metrics(rewards: _Rewards, before: _Before, credited: Credited, replies: Tensor, gap: SamplerTrainerGap) -> dict[str, float]:
    legal = rewards.legal
    counted = legal if credited.advantages.ndim == 1 else replies & legal[:, None]
    return {
        "turns": len(legal),
        "reward_mean": rewards.environment.mean().item(),
        "format_reward_mean": rewards.text.mean().item(),
        "illegal_rate": (~legal).float().mean().item(),
        "advantage_std": credited.advantages[counted].std(correction=0).item(),
        **critic_metrics(before.values, credited.value_targets, replies),
        # 0 up to rounding where sampler and trainer are one model.
        "sampler_trainer_gap_mean": gap.mean,
        "sampler_trainer_gap_max": gap.largest,
        "sampler_trainer_gap_kl": gap.kl,
        "importance_truncated": gap.truncated,
        "effective_sample_size": gap.effective,
        "sampling_z": before.drawn.z,
        "sampling_evidence": before.drawn.evidence,
        **before.repeats.metrics(),
    }
