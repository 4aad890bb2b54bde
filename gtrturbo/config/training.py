"""Configs of the stages that make and train a checkpoint: init, sft, ppo-step."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from gtrturbo.config.bounds import ANY, AT_LEAST_ONE, CLIP, COUNT, FRACTION, NOT_NEGATIVE, POSITIVE, RANK
from gtrturbo.config.choices import ADAM_EPSILON, GAE, K1_CLIP, NO_GUARD, AnyPlacement, KlTokens
from gtrturbo.config.common import (
    Checkpointing,
    Device,
    Dtype,
    EnvOptions,
    Fsdp,
    MicroBatchTokens,
    Seed,
    StageConfig,
)
from gtrturbo.config.fields import Absent, Role, Seam
from gtrturbo.errors import GtrTurboError


@dataclass(frozen=True, kw_only=True)
class InitConfig(StageConfig):
    """Make the first checkpoint: a built-in VLM, or a Hugging Face image-text-to-text model."""

    model: Annotated[str, "tiny or small (built in, offline), a Hugging Face id, or a local folder."] = "tiny"
    revision: Annotated[str | None, "Branch, tag or commit on the Hugging Face hub."] = None
    task: Annotated[
        str | None,
        "Task whose texts a built-in model's tokenizer is made of; those of the four games if not given.",
        Seam("task"),
    ] = None
    env: EnvOptions = ()
    family: Annotated[
        str | None,
        "What the model needs beyond transformers' interface: a family by its model type, or a record of your own, "
        "path/to/file.py:NAME; found by the model's config if not given.",
        Seam("model family"),
    ] = None
    chat_template: Annotated[
        Path | None,
        "File in Jinja that writes turns as the model is to read them, for one that brings no chat template, or in its place.",
        Role.RUNTIME,  # Its hash is in the manifest.
    ] = None
    lora_rank: Annotated[int, "Rank of the LoRA adapter to train; 0 trains the full weights. The paper: 128.", RANK] = 0
    lora_alpha: Annotated[float | None, "LoRA scale times rank; twice the rank if not given, as in the paper.", POSITIVE] = None
    lora_target: Annotated[
        tuple[str, ...],
        "What gets an adapter: language, projector or vision, for all linear layers of that part, or names of modules; "
        "repeatable. All linear layers except the output head if not given.",
    ] = ()
    dtype: Dtype = "auto"
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.env and not self.task:
            raise GtrTurboError(f"--env {self.env[0]} is of no task.", "add --task, or leave --env out.")


@dataclass(frozen=True, kw_only=True)
class SftConfig(StageConfig):
    """Supervised steps on turns or demos: warm start, or imitation of a teacher."""

    data: Annotated[tuple[Path, ...], "Turns or demos to learn from.", Role.POSITIONAL]
    checkpoint: Annotated[Path, "Checkpoint to start from.", Role.INPUT]
    steps: Annotated[int, "Most optimiser steps to take.", AT_LEAST_ONE] = 200
    stop_loss: Annotated[
        float, "Stop when the running loss (decay 0.8, nats per token) falls below this; 0 never.", NOT_NEGATIVE
    ] = 0.0
    learning_rate: Annotated[float, "Peak learning rate of AdamW.", POSITIVE] = 1e-5
    warmup_steps: Annotated[int, "Steps of linear warm-up; a cosine to 0 at --steps follows.", COUNT] = 0
    batch_size: Annotated[int, "Samples per optimiser step.", AT_LEAST_ONE] = 32
    micro_batch_tokens: MicroBatchTokens = "auto"
    gradient_checkpointing: Checkpointing = False
    fsdp: Fsdp = False
    weight_decay: Annotated[float, "AdamW weight decay.", NOT_NEGATIVE] = 0.0
    max_grad_norm: Annotated[float, "Gradients are scaled down to this norm.", POSITIVE] = 1.0
    seed: Seed = 0
    device: Device = "auto"
    dtype: Dtype = "auto"


@dataclass(frozen=True, kw_only=True)
class PpoStepConfig(StageConfig):
    """One PPO update of a checkpoint from its own turns, guided by a teacher's scores or demos."""

    checkpoint: Annotated[Path, "Checkpoint that played the turns.", Role.INPUT]
    rollouts: Annotated[Path, "Turns that this checkpoint played.", Role.INPUT]
    scores: Annotated[Path | None, "Teacher log-probs of these turns (distill --mode kl).", Role.INPUT] = None
    demos: Annotated[
        tuple[Path, ...], "Teacher thoughts to imitate beside PPO (distill --mode thoughts); repeatable.", Role.INPUT
    ] = ()
    epochs: Annotated[int, "Passes over the turns; 4 as in the paper.", AT_LEAST_ONE] = 4
    minibatch_size: Annotated[int, "Turns per optimiser step; 128 as in the paper.", AT_LEAST_ONE] = 128
    micro_batch_tokens: MicroBatchTokens = "auto"
    gradient_checkpointing: Checkpointing = False
    fsdp: Fsdp = False
    learning_rate: Annotated[float, "AdamW learning rate of the model at the first update; 1e-5 as in the paper.", POSITIVE] = (
        1e-5
    )
    final_learning_rate: Annotated[
        float, "Learning rate after --schedule-updates updates; 1e-9 as in the paper.", NOT_NEGATIVE
    ] = 1e-9
    schedule_updates: Annotated[
        int,
        "Updates (ppo-steps) of the cosine from first to final learning rate; 25 in the paper. 0, ours, keeps it constant.",
        COUNT,
    ] = 0
    schedule_start: Annotated[
        int,
        "Updates behind the checkpoint when the cosine begins: those of an earlier run. With 0, ours, all count.",
        COUNT,
        Absent(0, silent=True),
    ] = 0
    value_learning_rate: Annotated[
        float | None, "Learning rate of the value head; the model's, as in the paper, if not given.", POSITIVE
    ] = None
    clip_range: Annotated[float, "ε: the turn's probability ratio counts within 1 ± this; 0.1 as in the paper.", CLIP] = 0.1
    guard: Annotated[
        str,
        "What else keeps large ratios out. none, as in the paper. dual-clip: up to 3 where the advantage is negative (arXiv "
        "1912.09729). clipped-only: in a minibatch with a ratio above 10 the clipped loss alone, as in the published code. "
        "log-ratio: log-ratios within 20 nats, as in verl. Or one of your own, package.module:NAME or path/to/file.py:NAME.",
        Seam("guard"),
        Absent(NO_GUARD, silent=True),
    ] = NO_GUARD
    target_kl: Annotated[
        float | None,
        "End the update before a step whose minibatch has a larger approx_kl, in nats per turn from the policy that played. "
        "Never if not given, as in the paper. Spinning Up's early stopping, which has 0.01 to 0.05.",
        POSITIVE,
        Absent(None, silent=True),
    ] = None
    value_clip_range: Annotated[
        float | None,
        "The value's change counts within ± this, in units of reward; --clip-range, as in the paper, if not given.",
        POSITIVE,
    ] = None
    gamma: Annotated[float, "Discount per turn; 0.9 as in the paper. group and group-mean make no use of it.", FRACTION] = 0.9
    credit: Annotated[
        str,
        "What each turn is credited with: gae, generalised advantage estimation over turns, as in the paper; token and bi-level, "
        "over the tokens of replies, which have values and ratios of their own (VAGEN); group, the reward of its episode against "
        "those of the same deal, in standard deviations (GRPO); step-group, also what followed it against the turns in the same "
        "state (GiGPO); group-mean and step-group-mean, less the mean alone (Dr. GRPO); or one of your own, package.module:NAME "
        "or path/to/file.py:NAME.",
        Seam("credit"),
    ] = GAE
    gae_lambda: Annotated[
        float,
        "λ of generalised advantage estimation; 0.95 as in the paper. Per turn; with token and bi-level, for which VAGEN has 1, "
        "per token.",
        FRACTION,
    ] = 0.95
    thought_coef: Annotated[
        float,
        "λ: weight of thought tokens in a turn's log-prob; 0.5 as in the paper's card games, 0.2 in its ALFWorld.",
        FRACTION,
    ] = 0.5
    value_coef: Annotated[float, "Weight of the value loss; 0.5 as in the paper.", NOT_NEGATIVE] = 0.5
    detach_value: Annotated[bool, "Let the value loss train the value head only, not the model; in the paper both."] = False
    environment_coef: Annotated[
        float, "Weight of the environment's reward; 1 as in the paper, 0 leaves pure on-policy distillation.", NOT_NEGATIVE
    ] = 1.0
    format_valid: Annotated[float, "Reward term of a reply that parses; 3 in the paper's Points24. 0 is ours.", ANY] = 0.0
    format_invalid: Annotated[
        float | None,
        "Reward term of a reply that does not parse; -2 in the paper's Points24. If not given, the task's worst reward of a turn "
        "less its best, so that it costs no less than a wrong move (documentation: tasks); -1 where these are not known.",
        ANY,
    ] = None
    kl_coef: Annotated[float, "β: weight of the teacher's reverse KL; 1 as in the paper.", NOT_NEGATIVE] = 1.0
    kl_estimator: Annotated[
        str,
        "Per-token estimate of KL(student, teacher): k1-clip, k1, abs, k2, k3 or full; or one of your own, package.module:NAME "
        "or path/to/file.py:NAME. k1-clip is max(0, k1) as in the paper. On the tiny model full was measured to be worse as a "
        "reward and better as a loss, no other better (documentation: results-stable). full: summed over the tokens that distill "
        "--top-logprobs kept, and the rest as one.",
        Seam("KL estimator"),
    ] = K1_CLIP
    kl_placement: Annotated[
        AnyPlacement,
        "reward: through GAE (paper's algorithm). advantage: this turn only (its equation). return: value target too (its code). "
        "loss: differentiable, beside PPO; takes --kl-estimator k2 or full.",
    ] = "reward"
    kl_tokens: Annotated[
        KlTokens,
        "Tokens that the KL is the mean over: thought, as in the paper, or reply, thought and action alike.",
    ] = "thought"
    demo_coef: Annotated[float, "Weight of the imitation loss on --demos; 1 as in the paper.", NOT_NEGATIVE] = 1.0
    weight_decay: Annotated[float, "AdamW weight decay; 0 as in the paper.", NOT_NEGATIVE] = 0.0
    adam_epsilon: Annotated[
        float,
        "AdamW's ε, added to the root of the second moment. PyTorch's 1e-8 is ours; the paper's code has 1e-7.",
        POSITIVE,
        Absent(ADAM_EPSILON, silent=True),
    ] = ADAM_EPSILON
    max_grad_norm: Annotated[
        float, "Gradients are scaled down to this norm; 1 is what the paper's runs used in effect.", POSITIVE
    ] = 1.0
    seed: Seed = 0
    device: Device = "auto"
    dtype: Dtype = "auto"
