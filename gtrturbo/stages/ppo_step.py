"""ppo-step: one PPO update from a checkpoint's own turns, guided by a teacher.

One ratio and one value per turn (RL4VLM, Zhai et al. 2024); the teacher enters as a reverse KL on thought tokens, a penalty or
a loss beside PPO, or as an imitation loss beside PPO (GTR-Turbo, arXiv 2512.13043).
"""

from collections.abc import Sequence
from functools import partial

import torch

from gtrturbo.config import PpoStepConfig
from gtrturbo.console import stderr
from gtrturbo.models.batches import token_budget
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.models.policy import Policy
from gtrturbo.models.scoring import require_usable
from gtrturbo.play.recording import Transcript, read_transcript
from gtrturbo.stages import done, provenance
from gtrturbo.stages.resolve import with_penalty
from gtrturbo.store.draft import Result
from gtrturbo.store.ids import seed_for
from gtrturbo.store.trackers import tracking
from gtrturbo.store.writing import writing
from gtrturbo.train.credit import find_credit
from gtrturbo.train.critic import give_value_head
from gtrturbo.train.demos import Example, read_examples, require_fit
from gtrturbo.train.guards import find_guard
from gtrturbo.train.guidance import Guidance, find_estimator, read_guidance
from gtrturbo.train.inputs import Rollout, read_rollout, require_groups, require_scores
from gtrturbo.train.optimizer import Optimizer, require_known_head, resume_optimizer
from gtrturbo.train.own_turns import require_own_logprobs, require_sampled
from gtrturbo.train.ppo_batch import LossSettings, PpoBatch
from gtrturbo.train.prepare import Crediting, prepare, token_masks
from gtrturbo.train.sharding import prepare_split, save_trained
from gtrturbo.train.steps import Log, Student, minibatches, take_steps

NAME = "ppo-step"


def run(config: PpoStepConfig) -> Result:
    """Recompute old log-probs and values, take the steps, write the next checkpoint. NaN stops it and nothing is written."""
    rollout = check_inputs(config)
    with writing(config.out, provenance(config), overwrite=config.overwrite) as draft:
        torch.manual_seed(config.seed)
        policy = load_policy(config.checkpoint, device=config.device, dtype=config.dtype, trainable=True, split=config.fsdp)
        require_known_head(policy, config.checkpoint)
        valued = find_credit(config.credit).needs_values
        idle_head = give_value_head(policy, needed=valued, seed=seed_for(config.seed, "value head"))
        transcript = read_transcript(config.rollouts, policy.renderer)
        # There may be none: a corrector has nothing to say where the student was right every time.
        demos = read_examples(config.demos, policy.renderer)
        require_fit(policy, demos)
        if config.demos and not demos:
            _warn_of_nothing(config)
        if config.gradient_checkpointing:
            policy.recompute_activations()
        if config.fsdp:
            prepare_split(policy)
        # Before any forward pass, after which split weights may lie whole in memory.
        optimizer = optimizer_of(config, policy)
        batch, metrics = prepared(config, policy, transcript, rollout)
        whole = policy.model.dtype == torch.float32
        require_own_logprobs(rollout, batch, metrics, whole=whole)
        require_sampled(rollout, transcript, metrics)
        with tracking(config.log, draft.folder) as track:
            metrics |= learn(
                config, Student(policy, optimizer, transcript, batch), rollout, demos, partial(track, NAME, config.out)
            )
        require_usable(policy, transcript.prompts[0], transcript.tokens.response_ids[0])
        optimizer.updates += 1
        policy.value_head = idle_head or policy.value_head
        draft.renderer = save_trained(policy, config.checkpoint, draft, config.out)
        optimizer.save(draft.folder)
        draft.metrics, draft.timing = metrics, policy.machine()
    return done(draft)


def _warn_of_nothing(config: PpoStepConfig) -> None:
    named = str(config.demos[-1]) if len(config.demos) == 1 else f"{len(config.demos)} --demos folders up to {config.demos[-1]}"
    guided = "the teacher's scores alone guide it" if config.scores else "this update is plain PPO"
    stderr.print(f"there is no demo in {named}: {guided}.", style="yellow", soft_wrap=True)


def check_inputs(config: PpoStepConfig) -> Rollout:
    """Refuse what does not fit together before anything is loaded; return how the turns were played."""
    credit, _ = find_credit(config.credit), find_guard(config.guard)
    rollout = read_rollout(config.rollouts, dtype=config.dtype)
    if credit.needs_groups:
        require_groups(rollout, config.credit)
    if config.scores:
        as_loss, estimator = config.kl_placement == "loss", find_estimator(config.kl_estimator)
        require_scores(config.scores, rollout, name=config.kl_estimator, estimator=estimator, as_loss=as_loss)
    return rollout


def optimizer_of(config: PpoStepConfig, policy: Policy) -> Optimizer:
    """Go on with the checkpoint's optimiser."""
    return resume_optimizer(
        policy,
        config.checkpoint,
        learning_rate=config.learning_rate,
        final_learning_rate=config.final_learning_rate,
        value_learning_rate=config.value_learning_rate,
        schedule_updates=config.schedule_updates,
        schedule_start=config.schedule_start,
        weight_decay=config.weight_decay,
        epsilon=config.adam_epsilon,
    )


def _present(penalty: float | None) -> float:
    assert penalty is not None  # A config that resolved has one.
    return penalty


def prepared(
    config: PpoStepConfig, policy: Policy, transcript: Transcript, rollout: Rollout
) -> tuple[PpoBatch, dict[str, float]]:
    """Return what the update holds fixed, and what is told of the turns before it."""
    crediting = Crediting(
        credit=find_credit(config.credit),
        placement=None if config.kl_placement == "loss" else config.kl_placement,
        environment_coef=config.environment_coef,
        format_valid=config.format_valid,
        format_invalid=_present(with_penalty(config).format_invalid),
        kl_coef=config.kl_coef,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
    )
    return prepare(
        policy,
        transcript,
        rollout,
        crediting=crediting,
        guidance=_guidance(config, policy, transcript),
        thought_coef=config.thought_coef,
        tokens=token_budget(config.micro_batch_tokens, policy, recomputes=config.gradient_checkpointing),
        parts=epochs_of(config, len(transcript.turns))[0],
    )


def _guidance(config: PpoStepConfig, policy: Policy, transcript: Transcript) -> Guidance | None:
    if not config.scores:
        return None
    thought, action = token_masks(transcript)
    what = {"tokens": config.kl_tokens, "estimator": find_estimator(config.kl_estimator)}
    vocabulary = policy.model.config.get_text_config().vocab_size
    lengths = [len(ids) for ids in transcript.tokens.response_ids]
    return read_guidance(config.scores, lengths=lengths, thought=thought, action=action, vocabulary=vocabulary, **what)


def epochs_of(config: PpoStepConfig, count: int) -> list[list[list[int]]]:
    """Draw the turns of each minibatch of each epoch."""
    return minibatches(count, epochs=config.epochs, size=config.minibatch_size, seed=seed_for(config.seed, "ppo"))


def loss_settings(config: PpoStepConfig, rollout: Rollout) -> LossSettings:
    """Return the numbers of the losses."""
    return LossSettings(
        temperature=rollout.temperature,
        thought_coef=config.thought_coef,
        clip_range=config.clip_range,
        value_clip_range=config.value_clip_range or config.clip_range,
        detach_value=config.detach_value,
        value_coef=config.value_coef,
        kl_coef=config.kl_coef,
        demo_coef=config.demo_coef,
        guard=find_guard(config.guard),
    )


def learn(config: PpoStepConfig, student: Student, rollout: Rollout, demos: Sequence[Example], log: Log) -> dict[str, float]:
    """Pass `epochs` times over the turns."""
    epochs, settings = epochs_of(config, len(student.transcript.turns)), loss_settings(config, rollout)
    paired = {"demos": demos, "demo_seed": seed_for(config.seed, "demos")}
    limits = {"max_grad_norm": config.max_grad_norm, "target_kl": config.target_kl, "rollouts": rollout.path}
    return take_steps(student, epochs, log, settings=settings, **paired, **limits)
