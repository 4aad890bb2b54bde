"""ppo-step: one PPO update from a checkpoint's own turns, guided by a teacher.

One ratio and one value per turn (RL4VLM, Zhai et al. 2024); the teacher enters as a reverse KL on thought tokens, a penalty or
a loss beside PPO, or as an imitation loss beside PPO (GTR-Turbo, arXiv 2512.13043).
"""

import json
import math
from typing import Any, TextIO

import torch
from torch import Tensor

from gtrturbo.algorithms.advantages import normalized_credit
from gtrturbo.algorithms.credit import guided_credit
from gtrturbo.algorithms.importance import SamplerTrainerGap, sampler_trainer_gap, truncated_importance_weights
from gtrturbo.algorithms.kl import Estimator, require_loss
from gtrturbo.algorithms.ppo import (
    cosine_learning_rate,
    explained_variance,
    ratio_statistics,
)
from gtrturbo.algorithms.tokens import masked_mean, weighted_turn_logprobs
from gtrturbo.config import PpoStepConfig
from gtrturbo.console import progress_bar
from gtrturbo.distributed.processes import group
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.batches import micro_batches, token_budget
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.models.policy import Policy
from gtrturbo.models.scoring import pad, score_all
from gtrturbo.models.value_head import ValueHead
from gtrturbo.play.recording import Transcript, read_transcript
from gtrturbo.stages import done, provenance
from gtrturbo.store.artifacts import SCORES, Result, artifact_id, read_manifest, seed_for, short, writing
from gtrturbo.train.bootstrap import bootstrap_values
from gtrturbo.train.credit import earned_by, find_credit
from gtrturbo.train.demos import Example, Shuffle, imitation_loss, read_examples
from gtrturbo.train.guidance import Guidance, StudentView, find_estimator, read_guidance
from gtrturbo.train.optimizer import Optimizer
from gtrturbo.train.ppo_batch import Importance, Losses, Samples, losses
from gtrturbo.train.sharding import save_trained, shard

METRICS = "metrics.jsonl"
RELEASE = "examples/reproduce/release.py"
SUMMARIZED = ("policy_loss", "value_loss", "kl_loss", "demo_loss", "clip_fraction", "approx_kl", "grad_norm")
# Nats per token. Engines of one model differ by hundredths, in bfloat16 by tenths at most.
OTHER_POLICY = 0.5
# On a CPU they are 1 to the last bit; a GPU may choose another kernel where gradients are kept.
UNIT_RATIO_TOLERANCE = 1e-2


def run(config: PpoStepConfig) -> Result:
    """Recompute old log-probs and values, take the steps, write the next checkpoint. NaN stops it and nothing is written."""
    _check_inputs(config)
    with writing(config.out, provenance(config), overwrite=config.overwrite) as draft:
        torch.manual_seed(config.seed)
        policy = load_policy(config.checkpoint, device=config.device, dtype=config.dtype, trainable=True)
        idle_head = _give_head(policy, config)
        transcript = read_transcript(config.rollouts, policy.renderer)
        # There may be none: a corrector has nothing to say where the student was right every time.
        demos = read_examples(config.demos, policy.renderer)
        if config.gradient_checkpointing:
            policy.recompute_activations()
        if config.fsdp:
            shard(policy)
        # Before any forward pass, after which split weights may lie whole in memory.
        optimizer = resume_optimizer(config, policy)
        samples, metrics = prepare(config, policy, transcript)
        with (draft.folder / METRICS).open("w") as log:
            metrics |= train(config, policy, optimizer, transcript, samples, demos, log)
        optimizer.updates += 1
        policy.value_head = idle_head or policy.value_head
        draft.renderer = save_trained(policy, config.checkpoint, draft.folder, config.out)
        optimizer.save(draft.folder)
        draft.metrics, draft.timing = metrics, policy.machine()
    return done(draft)


def _give_head(policy: Policy, config: PpoStepConfig) -> ValueHead | None:
    """Make a value head where there is none and the credit needs values; return one that has no part in this update."""
    if not find_credit(config.credit).needs_values:
        head, policy.value_head = policy.value_head, None
        return head
    if policy.value_head is None:
        width = policy.model.config.get_text_config().hidden_size
        policy.value_head = ValueHead.new(width, seed=seed_for(config.seed, "value head")).to(policy.device)
    return None


def _check_inputs(config: PpoStepConfig) -> None:
    if config.kl_placement == "return" and not find_credit(config.credit).needs_values:
        raise GtrTurboError(
            f"--kl-placement return enters the value targets, and credit {config.credit} has none.",
            "use --kl-placement reward or advantage.",
        )
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
        estimator = find_estimator(config.kl_estimator)
        if config.kl_placement == "loss":
            require_loss(config.kl_estimator, estimator)
        full = isinstance(estimator, Estimator) and estimator.distributions
        if full and not read_manifest(config.scores).config.get("top_logprobs"):
            raise GtrTurboError(
                f"--kl-estimator {config.kl_estimator} needs the teacher's most likely tokens, and {config.scores} has none.",
                f"run: gtrturbo distill --rollouts {config.rollouts} --mode kl --top-logprobs 64 …",
            )
        if read_manifest(config.scores).config.get("compat") == "release":
            raise GtrTurboError(
                f"{config.scores} was made with --compat release, which earlier versions had.",
                f"distill again with --mode {RELEASE}:BLIND, and give --kl-estimator {RELEASE}:BLIND_KL.",
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
    budget = token_budget(config.micro_batch_tokens, policy, recomputes=config.gradient_checkpointing)
    credit = find_credit(config.credit)
    guidance = _read_guidance(config, policy, thought, action) if config.scores else None
    scored = score_all(
        policy,
        transcript.prompts,
        tokens.response_ids,
        temperature=_temperature(config),
        tokens=budget,
        parts=minibatches(config, len(turns))[0],
        reader=guidance.reader if guidance else None,
    )
    logprobs, values = pad(scored.logprobs, longest), scored.values if credit.needs_values else None
    _require_finite(config, logprobs, values)
    kl, metrics = torch.zeros(len(turns)), {}
    if guidance:
        view = StudentView(
            policy, transcript, logprobs, guidance.teacher_logprobs, guidance.counted, _temperature(config), budget
        )
        kl, metrics = guidance.measure(view, pad(scored.read[0], longest) if scored.read else None)
    # As a loss the KL stands beside PPO, and nothing of it is in the rewards.
    is_loss = config.kl_placement == "loss"
    beta = 0.0 if is_loss else config.kl_coef
    # The random action that stands in for an illegal reply says nothing about its text.
    random_action = ~legal & torch.tensor([turn.executed is not None for turn in turns])
    game = config.environment_coef * torch.tensor([turn.reward for turn in turns])
    text = torch.where(legal, config.format_valid, config.format_invalid)
    earned = earned_by(
        turns,
        game + text,
        values=values,
        bootstrap_values=bootstrap_values(policy, config.rollouts, transcript, tokens=budget) if credit.needs_values else None,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
    )
    placed = guided_credit(
        earned,
        kl,
        assign=credit.assign,
        beta=beta,
        placement="reward" if config.kl_placement == "loss" else config.kl_placement,
    )
    sampled = pad(tokens.sample_logprobs, longest)
    apart = sampler_trainer_gap(logprobs, sampled, thought | action)
    _require_one_policy(config, apart)
    difference = (logprobs - sampled).abs()
    samples = Samples(
        thought_mask=thought,
        action_mask=action,
        old_logprobs=weighted_turn_logprobs(logprobs, thought, action, thought_coef=config.thought_coef),
        old_values=values,
        advantages=normalized_credit(placed.advantages, text_rewards=text - beta * kl, random_action_mask=random_action),
        value_targets=placed.value_targets,
        sampler_trainer_gap=masked_mean(difference, thought | action),
        tokens=budget,
        importance=Importance(logprobs, truncated_importance_weights(logprobs, sampled)) if _engine(config) else None,
        guidance=guidance if is_loss else None,
    )
    metrics |= {
        "turns": len(turns),
        "reward_mean": game.mean().item(),
        "format_reward_mean": text.mean().item(),
        "illegal_rate": (~legal).float().mean().item(),
        "advantage_std": placed.advantages[legal].std(correction=0).item(),
        **_of_the_critic(values, placed.value_targets),
        # 0 up to rounding where sampler and trainer are one model.
        "sampler_trainer_gap_mean": apart.mean,
        "sampler_trainer_gap_max": apart.largest,
        "sampler_trainer_gap_kl": apart.kl,
        "importance_truncated": apart.truncated,
        "effective_sample_size": apart.effective,
    }
    return samples, metrics


def _of_the_critic(values: Tensor | None, targets: Tensor | None) -> dict[str, float]:
    if values is None or targets is None:
        return {}
    error = (values - targets).square().mean().sqrt().item()
    return {"explained_variance": explained_variance(values, targets), "value_error": error}


def _require_finite(config: PpoStepConfig, logprobs: Tensor, values: Tensor | None) -> None:
    bad = ~logprobs.isfinite().all(dim=1)
    if values is not None:
        bad |= ~values.isfinite()
    if bad.any():
        row = int(bad.nonzero()[0])
        raise GtrTurboError(
            f"{config.checkpoint} gives log-probs or values that are not finite (first: turn {row}).",
            f"nothing was written; inspect with: gtrturbo show {config.rollouts} --turn {row}",
        )


def _read_guidance(config: PpoStepConfig, policy: Policy, thought: Tensor, action: Tensor) -> Guidance:
    assert config.scores is not None
    return read_guidance(
        config.scores / SCORES,
        thought=thought,
        action=action,
        tokens=config.kl_tokens,
        estimator=find_estimator(config.kl_estimator),
        vocabulary=policy.model.config.get_text_config().vocab_size,
    )


def _engine(config: PpoStepConfig) -> str | None:
    """Name the server that sampled the turns; None where this toolkit's own engine did, whose log-probs are the trainer's."""
    played = read_manifest(config.rollouts).config
    return played["server"] if played.get("engine", "hf") != "hf" else None


def _require_one_policy(config: PpoStepConfig, apart: SamplerTrainerGap) -> None:
    if (server := _engine(config)) and apart.mean > OTHER_POLICY:
        raise GtrTurboError(
            f"the {server} server's log-probs are {apart.mean:.2f} nats per token from the trainer's: it played another model, "
            "or returned log-probs before temperature.",
            "serve the model under the checkpoint; start vLLM with --logprobs-mode processed_logprobs.",
        )


def _temperature(config: PpoStepConfig) -> float:
    return read_manifest(config.rollouts).config["temperature"]


def resume_optimizer(config: PpoStepConfig, policy: Policy) -> Optimizer:
    """Go on with the checkpoint's optimiser at the learning rate of this update."""
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


def train(
    config: PpoStepConfig,
    policy: Policy,
    optimizer: Optimizer,
    transcript: Transcript,
    samples: Samples,
    demos: list[Example],
    log: TextIO,
) -> dict[str, float]:
    """Pass `epochs` times over the turns; pair every minibatch with as many demos (1:1) where there are any."""
    demo_order = Shuffle(len(demos), seed=seed_for(config.seed, "demos"))
    epochs = minibatches(config, len(transcript.turns))
    rows: list[dict[str, Any]] = []
    with progress_bar("ppo-step", sum(map(len, epochs))) as bar:
        for epoch, chosen in enumerate(epochs):
            for number, turns in enumerate(chosen):
                paired = [demos[i] for i in demo_order.draw(len(turns))] if demos else []
                losses = _add_gradients(config, policy, optimizer, transcript, samples, turns, paired)
                row = {"epoch": epoch, "minibatch": number} | losses
                row["grad_norm"] = optimizer.step(max_grad_norm=config.max_grad_norm)
                _refuse_nan(row, turns, config)
                if not rows:
                    _require_unit_ratio(row)
                log.write(json.dumps(row, allow_nan=False) + "\n")
                rows.append(row)
                bar.advance(note=f"ratio {row['ratio_min']:.2f}–{row['ratio_max']:.2f}")
    return _summary(rows) | {"learning_rate": optimizer.learning_rate}


def minibatches(config: PpoStepConfig, count: int) -> list[list[list[int]]]:
    """Draw the turns of each minibatch of each epoch: every epoch passes over all turns in another order."""
    order = Shuffle(count, seed=seed_for(config.seed, "ppo"))
    size = config.minibatch_size
    epochs = [order.draw(count) for _ in range(config.epochs)]
    return [[chosen[start : start + size] for start in range(0, count, size)] for chosen in epochs]


def _add_gradients(
    config: PpoStepConfig,
    policy: Policy,
    optimizer: Optimizer,
    transcript: Transcript,
    samples: Samples,
    turns: list[int],
    demos: list[Example],
) -> dict[str, float]:
    """Add up the gradients of one minibatch, of which each process does its share; return its losses and ratios."""
    critic = ("value_loss",) if samples.value_targets is not None else ()
    sums: dict[str, float] = dict.fromkeys(("policy_loss", *critic, "demo_loss"), 0.0)
    if samples.guidance:
        sums["kl_loss"] = 0.0
    ratios: list[float] = []
    clipped: list[bool] = []
    shared = {"tokens": samples.tokens, "world": group().world}
    for part in micro_batches(turns, transcript.prompts, transcript.tokens.response_ids, **shared):
        found = _losses(config, policy, transcript, samples, part.rows)
        policy_loss = found.surrogate.loss.sum() / len(turns)
        value_loss = found.values.sum() / len(turns) if found.values is not None else torch.zeros(())
        kl_loss = found.kl.sum() / len(turns) if found.kl is not None else torch.zeros(())
        optimizer.backward(part.counted * (policy_loss + config.value_coef * value_loss + config.kl_coef * kl_loss))
        if part.counted:
            sums["policy_loss"] += policy_loss.item()
            if critic:
                sums["value_loss"] += value_loss.item()
            if samples.guidance:
                sums["kl_loss"] += kl_loss.item()
            ratios += found.surrogate.ratio.tolist()
            clipped += found.surrogate.clipped.tolist()
    learned = sum(int(demo.learned.sum()) for demo in demos)
    prompts, responses = [demo.prompt for demo in demos], [demo.response_ids for demo in demos]
    for part in micro_batches(range(len(demos)), prompts, responses, **shared):
        demo_loss = part.counted * imitation_loss(policy, [demos[row] for row in part.rows]) / learned
        optimizer.backward(config.demo_coef * demo_loss)
        sums["demo_loss"] += demo_loss.item()
    shares = group().gather([sums, ratios, clipped])
    statistics = ratio_statistics(*(torch.tensor([x for share in shares for x in share[which]]) for which in (1, 2)))
    means: dict[str, float] = {name: sum(share[0][name] for share in shares) for name in sums}
    return means | {
        "ratio_mean": statistics.mean,
        "ratio_min": statistics.minimum,
        "ratio_max": statistics.maximum,
        "ratio_p05": statistics.low,
        "ratio_p50": statistics.median,
        "ratio_p95": statistics.high,
        "clip_fraction": statistics.clipped_share,
        "approx_kl": statistics.approximate_kl,
        "sampler_trainer_gap": samples.sampler_trainer_gap[turns].mean().item(),
    }


def _losses(config: PpoStepConfig, policy: Policy, transcript: Transcript, samples: Samples, part: list[int]) -> Losses:
    return losses(
        policy,
        transcript,
        samples,
        part,
        temperature=_temperature(config),
        thought_coef=config.thought_coef,
        clip_range=config.clip_range,
        value_clip_range=config.value_clip_range or config.clip_range,
        detach_value=config.detach_value,
    )


def _refuse_nan(row: dict[str, Any], turns: list[int], config: PpoStepConfig) -> None:
    bad = next((name for name, value in row.items() if not math.isfinite(value)), None)
    if bad:
        raise GtrTurboError(
            f"{bad} is {row[bad]} at epoch {row['epoch']}, minibatch {row['minibatch']} (turns {min(turns)}-{max(turns)}).",
            f"nothing was written; inspect with: gtrturbo show {config.rollouts} --turn {turns[0]}",
        )


def _require_unit_ratio(row: dict[str, Any]) -> None:
    """Refuse an update whose first ratios are not 1: nothing has been learned yet, and the passes were the same."""
    if max(abs(row["ratio_min"] - 1), abs(row["ratio_max"] - 1)) > UNIT_RATIO_TOLERANCE:
        raise GtrTurboError(
            f"the first ratios are {row['ratio_min']:.4f} to {row['ratio_max']:.4f}, not 1: this model gives other log-probs "
            "with gradients than without.",
            "nothing was written; try: --dtype float32, or leave out --gradient-checkpointing",
        )


def _summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Average over minibatches; the first one, before any step, has all ratios at 1 up to rounding."""
    first = rows[0]
    names = [name for name in SUMMARIZED if name in first]
    return {name: sum(row[name] for row in rows) / len(rows) for name in names} | {
        "first_ratio_error": max(abs(first["ratio_min"] - 1), abs(first["ratio_max"] - 1)),
        "ratio_min": min(row["ratio_min"] for row in rows),
        "ratio_max": max(row["ratio_max"] for row in rows),
    }
