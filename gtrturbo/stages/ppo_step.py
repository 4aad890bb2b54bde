"""ppo-step: one PPO update from a checkpoint's own turns, guided by a teacher.

One ratio and one value per turn (RL4VLM, Zhai et al. 2024); the teacher enters as a reverse-KL penalty on thought tokens or
as an imitation loss beside PPO (GTR-Turbo, arXiv 2512.13043).
"""

import json
import math
from dataclasses import dataclass
from typing import Any, TextIO

import torch
from torch import Tensor

from gtrturbo.algorithms.advantages import credit, turn_advantages
from gtrturbo.algorithms.kl import kl_k1, thought_kl
from gtrturbo.algorithms.ppo import (
    clipped_policy_loss,
    clipped_value_loss,
    cosine_learning_rate,
    explained_variance,
    ratio_statistics,
)
from gtrturbo.algorithms.tokens import masked_mean, weighted_turn_logprobs
from gtrturbo.artifacts import SCORES, Result, artifact_id, read_manifest, seed_for, short, writing
from gtrturbo.config import PpoStepConfig
from gtrturbo.console import progress_bar
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import load_policy, save_successor
from gtrturbo.models.demos import Example, Shuffle, imitation_loss, read_examples
from gtrturbo.models.optimizer import Optimizer
from gtrturbo.models.policy import Policy
from gtrturbo.models.scoring import bootstrap_values, pad, score_all
from gtrturbo.models.transcript import Transcript, read_transcript
from gtrturbo.models.value_head import ValueHead
from gtrturbo.stages import done, provenance
from gtrturbo.tensors import load_scores

METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Samples:
    """N turns on the device, with what the update holds fixed.

    thought_mask, action_mask: [N, R] bool   old_logprobs: λ-weighted, per turn [N]   old_values: [N]
    advantages: credited to the text, normalised [N]   returns: value targets [N]
    mismatch: mean |trainer's − sampler's log-prob| over each turn's tokens, in nats [N]
    """

    thought_mask: Tensor
    action_mask: Tensor
    old_logprobs: Tensor
    old_values: Tensor
    advantages: Tensor
    returns: Tensor
    mismatch: Tensor


def run(config: PpoStepConfig) -> Result:
    """Recompute old log-probs and values, take the steps, write the next checkpoint. NaN stops it and nothing is written."""
    _check_inputs(config)
    with writing(config.out, provenance(config), overwrite=config.overwrite) as draft:
        torch.manual_seed(config.seed)
        policy = load_policy(config.checkpoint, device=config.device, dtype=config.dtype, trainable=True)
        if policy.value_head is None:
            width = policy.model.config.get_text_config().hidden_size
            policy.value_head = ValueHead.new(width, seed=seed_for(config.seed, "value head")).to(policy.device)
        transcript = read_transcript(config.rollouts, policy.renderer)
        # There may be none: a corrector has nothing to say where the student was right every time.
        demos = read_examples(config.demos, policy.renderer)
        samples, metrics = prepare(config, policy, transcript)
        optimizer = _optimizer(config, policy)
        with (draft.folder / METRICS).open("w") as log:
            metrics |= _train(config, policy, optimizer, transcript, samples, demos, log)
        optimizer.updates += 1
        draft.renderer = save_successor(policy, config.checkpoint, draft.folder, config.out)
        optimizer.save(draft.folder)
        draft.metrics, draft.timing = metrics, policy.machine()
    return done(draft)


def _check_inputs(config: PpoStepConfig) -> None:
    turns = read_manifest(config.rollouts, "turns")
    player, given = turns.inputs.get("checkpoint"), artifact_id(config.checkpoint)
    if player != given:
        raise GtrTurboError(
            f"the turns in {config.rollouts} were played by {short(player)}, but --checkpoint is {short(given)}.",
            f"run: gtrturbo rollout --checkpoint {config.checkpoint} …",
        )
    if config.scores:
        scored, given = read_manifest(config.scores, "scores").inputs["rollouts"], artifact_id(config.rollouts)
        if scored != given:
            raise GtrTurboError(
                f"scores were made for turns {short(scored)}, but --rollouts is {short(given)}.",
                f"run: gtrturbo distill --rollouts {config.rollouts} --mode kl …",
            )


def prepare(config: PpoStepConfig, policy: Policy, transcript: Transcript) -> tuple[Samples, dict[str, float]]:
    """Score the turns with the forward that trains, place the guidance, and credit each text with its advantage."""
    turns, tokens = transcript.turns, transcript.tokens
    legal = torch.tensor([turn.legal for turn in turns])
    if not legal.any():
        raise GtrTurboError(
            f"every turn of {config.rollouts} is illegal ({len(turns)} of {len(turns)}): the policy does not follow the format.",
            "warm it up with: gtrturbo sft …",
        )
    longest = max(len(ids) for ids in tokens.response_ids)
    thought, action = pad(tokens.thought_mask, longest).bool(), pad(tokens.action_mask, longest).bool()
    rows, values = score_all(
        policy,
        transcript.prompts,
        tokens.response_ids,
        temperature=_temperature(config),
        micro_batch_size=config.micro_batch_size,
    )
    logprobs = pad(rows, longest)
    _require_finite(config, logprobs, values)
    kl, metrics = _guidance(config, logprobs, thought, len(turns))
    # The random action that stands in for an illegal reply says nothing about its text.
    random_action = ~legal & torch.tensor([turn.executed is not None for turn in turns])
    game = config.environment_coef * torch.tensor([turn.reward for turn in turns])
    text = torch.where(legal, config.format_valid, config.format_invalid)
    placed = turn_advantages(
        game + text,
        values,
        kl,
        beta=config.kl_coef,
        placement=config.kl_placement,
        terminated=torch.tensor([turn.terminated for turn in turns]),
        truncated=torch.tensor([turn.truncated for turn in turns]),
        bootstrap_values=bootstrap_values(policy, config.rollouts, transcript, micro_batch_size=config.micro_batch_size),
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
    )
    difference = (logprobs - pad(tokens.sample_logprobs, longest)).abs()
    samples = Samples(
        thought_mask=thought,
        action_mask=action,
        old_logprobs=weighted_turn_logprobs(logprobs, thought, action, thought_coef=config.thought_coef),
        old_values=values,
        advantages=credit(placed.advantages, text_rewards=text - config.kl_coef * kl, random_action_mask=random_action),
        returns=placed.returns,
        mismatch=masked_mean(difference, thought | action),
    )
    metrics |= {
        "turns": len(turns),
        "reward_mean": game.mean().item(),
        "format_reward_mean": text.mean().item(),
        "illegal_rate": (~legal).float().mean().item(),
        "advantage_std": placed.advantages[legal].std(correction=0).item(),
        "explained_variance": explained_variance(values, placed.returns),
        # 0 up to rounding where sampler and trainer are one model.
        "mismatch_mean": difference[thought | action].mean().item(),
        "mismatch_max": difference.max().item(),
    }
    return samples, metrics


def _require_finite(config: PpoStepConfig, logprobs: Tensor, values: Tensor) -> None:
    bad = ~(logprobs.isfinite().all(dim=1) & values.isfinite())
    if bad.any():
        row = int(bad.nonzero()[0])
        raise GtrTurboError(
            f"{config.checkpoint} gives log-probs or values that are not finite (first: turn {row}).",
            f"nothing was written; inspect with: gtrturbo show {config.rollouts} --turn {row}",
        )


def _temperature(config: PpoStepConfig) -> float:
    return read_manifest(config.rollouts).config["temperature"]


def _guidance(config: PpoStepConfig, logprobs: Tensor, thought: Tensor, turns: int) -> tuple[Tensor, dict[str, float]]:
    """Return the teacher's reverse KL per turn [N], 0 without scores, and its raw mean beside the one that counts."""
    if not config.scores:
        return torch.zeros(turns), {}
    teacher = pad(load_scores(config.scores / SCORES), logprobs.shape[1])
    kl = thought_kl(logprobs, teacher, thought, estimator=config.kl_estimator)
    raw = kl_k1(logprobs, teacher)[thought].mean().item()
    return kl, {"kl_mean": kl.mean().item(), "kl_k1_mean": raw}


def _optimizer(config: PpoStepConfig, policy: Policy) -> Optimizer:
    head_rate = config.value_learning_rate or config.learning_rate
    optimizer = Optimizer(
        policy, learning_rate=config.learning_rate, value_learning_rate=head_rate, weight_decay=config.weight_decay
    )
    optimizer.load(config.checkpoint)
    share = 1.0
    if config.schedule_updates:
        rate = cosine_learning_rate(
            optimizer.updates, initial=config.learning_rate, final=config.final_learning_rate, total=config.schedule_updates
        )
        share = rate / config.learning_rate
    optimizer.set_learning_rate(share * config.learning_rate, share * head_rate)
    return optimizer


def _train(
    config: PpoStepConfig,
    policy: Policy,
    optimizer: Optimizer,
    transcript: Transcript,
    samples: Samples,
    demos: list[Example],
    log: TextIO,
) -> dict[str, float]:
    """Pass `epochs` times over the turns; pair every minibatch with as many demos (1:1) where there are any."""
    count = len(transcript.turns)
    order = Shuffle(count, seed=seed_for(config.seed, "ppo"))
    demo_order = Shuffle(len(demos), seed=seed_for(config.seed, "demos"))
    rows: list[dict[str, Any]] = []
    with progress_bar("ppo-step", config.epochs * math.ceil(count / config.minibatch_size)) as bar:
        for epoch in range(config.epochs):
            chosen = order.draw(count)
            for number, start in enumerate(range(0, count, config.minibatch_size)):
                turns = chosen[start : start + config.minibatch_size]
                paired = [demos[i] for i in demo_order.draw(len(turns))] if demos else []
                row = {"epoch": epoch, "minibatch": number} | _minibatch(config, policy, transcript, samples, turns, paired)
                row["grad_norm"] = optimizer.step(max_grad_norm=config.max_grad_norm)
                _refuse_nan(row, turns, config)
                log.write(json.dumps(row, allow_nan=False) + "\n")
                rows.append(row)
                bar.advance(note=f"ratio {row['ratio_min']:.2f}–{row['ratio_max']:.2f}")
    return _summary(rows) | {"learning_rate": optimizer.learning_rate}


def _minibatch(
    config: PpoStepConfig,
    policy: Policy,
    transcript: Transcript,
    samples: Samples,
    turns: list[int],
    demos: list[Example],
) -> dict[str, float]:
    """Add up the gradients of one minibatch; return its losses and ratios."""
    sums = {"policy_loss": 0.0, "value_loss": 0.0, "demo_loss": 0.0}
    ratios, clipped = [], []
    for start in range(0, len(turns), config.micro_batch_size):
        part = turns[start : start + config.micro_batch_size]
        surrogate, values = _losses(config, policy, transcript, samples, part)
        loss = (surrogate.loss.sum() + config.value_coef * values.sum()) / len(turns)
        loss.backward()
        sums["policy_loss"] += surrogate.loss.sum().item() / len(turns)
        sums["value_loss"] += values.sum().item() / len(turns)
        ratios.append(surrogate.ratio)
        clipped.append(surrogate.clipped)
    learned = sum(int(demo.learned.sum()) for demo in demos)
    for start in range(0, len(demos), config.micro_batch_size):
        loss, _ = imitation_loss(policy, demos[start : start + config.micro_batch_size])
        (config.demo_coef * loss / learned).backward()
        sums["demo_loss"] += loss.item() / learned
    statistics = ratio_statistics(torch.cat(ratios), torch.cat(clipped))
    return sums | {
        "ratio_mean": statistics.mean,
        "ratio_min": statistics.minimum,
        "ratio_max": statistics.maximum,
        "clip_fraction": statistics.clipped_share,
        "approx_kl": statistics.approximate_kl,
        "mismatch": samples.mismatch[turns].mean().item(),
    }


def _losses(config: PpoStepConfig, policy: Policy, transcript: Transcript, samples: Samples, part: list[int]) -> Any:
    """Return the policy's surrogate and the value loss of some turns, each per turn."""
    responses = [transcript.tokens.response_ids[row] for row in part]
    scored = policy.score(
        [transcript.prompts[row] for row in part],
        responses,
        temperature=_temperature(config),
        detach_value=config.detach_value,
    )
    assert scored.values is not None
    replies, device = scored.mask.shape[1], policy.device
    new_logprobs = weighted_turn_logprobs(
        scored.logprobs,
        samples.thought_mask[part, :replies].to(device),
        samples.action_mask[part, :replies].to(device),
        thought_coef=config.thought_coef,
    )
    surrogate = clipped_policy_loss(
        new_logprobs,
        samples.old_logprobs[part].to(device),
        samples.advantages[part].to(device),
        clip_range=config.clip_range,
    )
    value_loss = clipped_value_loss(
        scored.values,
        samples.old_values[part].to(device),
        samples.returns[part].to(device),
        clip_range=config.value_clip_range or config.clip_range,
    )
    return surrogate, value_loss


def _refuse_nan(row: dict[str, Any], turns: list[int], config: PpoStepConfig) -> None:
    bad = next((name for name, value in row.items() if not math.isfinite(value)), None)
    if bad:
        raise GtrTurboError(
            f"{bad} is {row[bad]} at epoch {row['epoch']}, minibatch {row['minibatch']} (turns {min(turns)}-{max(turns)}).",
            f"nothing was written; inspect with: gtrturbo show {config.rollouts} --turn {turns[0]}",
        )


def _summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Average over minibatches; the first one, before any step, has all ratios at 1 up to rounding."""
    names = ("policy_loss", "value_loss", "demo_loss", "clip_fraction", "approx_kl", "grad_norm")
    first = rows[0]
    return {name: sum(row[name] for row in rows) / len(rows) for name in names} | {
        "first_ratio_error": max(abs(first["ratio_min"] - 1), abs(first["ratio_max"] - 1)),
        "ratio_min": min(row["ratio_min"] for row in rows),
        "ratio_max": max(row["ratio_max"] for row in rows),
    }
