"""Everything a user can set: one frozen dataclass per stage.

A field is `name: Annotated[type, "help sentence", markers…] = default`. The command line, the YAML file and the manifest
are all made from these classes. Defaults are the paper's unless the sentence says otherwise.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from gtrturbo.errors import GtrTurboError
from gtrturbo.settings import Between, EachBetween, Role, WordOrWhole, check, fields

FRACTION = Between(0, 1)
POSITIVE = Between(0, low_open=True)
NOT_NEGATIVE = Between(0)
AT_LEAST_ONE = Between(1)
CLIP = Between(0, 0.99, low_open=True)

Device = Annotated[str, "Where to compute: auto takes cuda if there is one, else cpu.", Role.RUNTIME]
Dtype = Annotated[Literal["auto", "float32", "bfloat16"], "Type of the weights in memory; auto is the type on disk."]
Overwrite = Annotated[bool, "Replace --out if it exists.", Role.RUNTIME]
Seed = Annotated[int, "Everything random in this stage follows from it.", NOT_NEGATIVE]
Out = Annotated[Path, "Folder to write; it appears when the stage is done.", Role.RUNTIME]
TaskName = Annotated[str, "numberline, ezpoints, blackjack or points24."]
EnvOptions = Annotated[tuple[str, ...], "KEY=VALUE for the environment, such as image=tiny or horizon=5; repeatable."]
Illegal = Annotated[
    Literal["random", "noop", "end"],
    "What a reply that does not parse does: a random action (as in the paper), nothing, or end the episode.",
]
MaxNewTokens = Annotated[int, "Longest reply in tokens; 256 as in the paper.", AT_LEAST_ONE]
NumEnvs = Annotated[int, "Episodes played side by side, and replies generated in one batch.", AT_LEAST_ONE]
Engine = Annotated[
    Literal["hf", "openai"], "Who generates: hf is this process, with transformers; openai is a server, see --base-url."
]
ServerKind = Annotated[
    Literal["vllm", "sglang", "generic"],
    "What the server is; a generic one is sent standard fields only, returns no token ids, and so can serve eval alone.",
]
BaseUrl = Annotated[str | None, "Where the server is, such as http://localhost:8000 (--engine openai).", Role.RUNTIME]
ServedModel = Annotated[str | None, "Model that the server is asked for; the first that it lists if not given."]
MaxConcurrency = Annotated[int, "Most requests at once to the server.", AT_LEAST_ONE, Role.RUNTIME]
MicroBatchTokens = Annotated[
    str,
    "Tokens per forward pass, padding included: a number, or auto (8192 on a CPU, what fits on a GPU). Results change by "
    "rounding only.",
    WordOrWhole("auto"),
]
Checkpointing = Annotated[
    bool, "Compute activations again in the backward pass: far less memory, about a third more time, the same result."
]
Fsdp = Annotated[
    bool, "Under torchrun: split full weights, gradients and optimiser over the processes, not only the work.", Role.RUNTIME
]
MicroBatch = Annotated[int, "Samples per forward pass; memory grows with it, results change by rounding only.", AT_LEAST_ONE]


RELEASE = "release"


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """What every stage has; checks bounds and choices of all fields when it is made."""

    out: Out
    overwrite: Overwrite = False

    def __post_init__(self) -> None:
        for field in fields(type(self)):
            check(field, getattr(self, field.name))


@dataclass(frozen=True, kw_only=True)
class InitConfig(StageConfig):
    """Make the first checkpoint: the built-in tiny VLM, or a Hugging Face image-text-to-text model."""

    model: Annotated[str, "tiny (built in, offline), a Hugging Face id, or a local folder."] = "tiny"
    revision: Annotated[str | None, "Branch, tag or commit on the Hugging Face hub."] = None
    lora_rank: Annotated[int, "Rank of the LoRA adapter to train; 0 trains the full weights. The paper: 128.", NOT_NEGATIVE] = 0
    lora_alpha: Annotated[float | None, "LoRA scale times rank; twice the rank if not given, as in the paper.", POSITIVE] = None
    lora_target: Annotated[
        tuple[str, ...], "Module names that get an adapter; repeatable. All linear layers except the output head if not given."
    ] = ()
    dtype: Dtype = "auto"
    seed: Seed = 0


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
    warmup_steps: Annotated[int, "Steps of linear warm-up; a cosine to 0 at --steps follows.", NOT_NEGATIVE] = 0
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
class RolloutConfig(StageConfig):
    """Play episodes and write every turn: image, prompt, sampled token ids, log-probs, reward."""

    checkpoint: Annotated[Path | None, "Checkpoint that plays; leave out with --expert.", Role.INPUT] = None
    task: TaskName
    env: EnvOptions = ()
    expert: Annotated[bool, "Let the task's scripted expert play and write true thoughts: data for sft."] = False
    novice: Annotated[
        float,
        "--expert: share of the episodes that a novice plays, who reads truly and keeps to the rules, but acts at random among "
        "what they allow.",
        FRACTION,
    ] = 0.0
    episodes: Annotated[int, "Whole episodes to play.", AT_LEAST_ONE] = 64
    first_episode: Annotated[int, "Index of the first episode: two halves played apart equal one whole.", NOT_NEGATIVE] = 0
    temperature: Annotated[float, "Sampling temperature; 0.2 as in the paper. Training uses the same.", POSITIVE] = 0.2
    max_new_tokens: MaxNewTokens = 256
    illegal: Illegal = "random"
    num_envs: NumEnvs = 32
    engine: Engine = "hf"
    server: ServerKind = "vllm"
    base_url: BaseUrl = None
    served_model: ServedModel = None
    max_concurrency: MaxConcurrency = 64
    seed: Seed = 0
    device: Device = "auto"
    dtype: Dtype = "auto"


@dataclass(frozen=True, kw_only=True)
class DistillConfig(StageConfig):
    """Let a teacher annotate turns: log-probs of the student's tokens (kl), or thoughts of its own (sft)."""

    rollouts: Annotated[Path, "Turns to annotate.", Role.INPUT]
    teacher: Annotated[Path | None, "Checkpoint that teaches; leave out with --expert.", Role.INPUT] = None
    expert: Annotated[bool, "The task's scripted expert teaches (--mode sft only): GTR with a correct corrector."] = False
    mode: Annotated[Literal["kl", "sft"], "kl writes scores, sft writes demos."] = "kl"
    top_logprobs: Annotated[
        int,
        "kl: also keep the teacher's N most likely tokens at each token, 8 N + 4 bytes, for ppo-step --kl-estimator full; more "
        "than the vocabulary is all of it. 0, as in the paper, keeps none.",
        NOT_NEGATIVE,
    ] = 0
    compat: Annotated[
        Literal["none", "release"],
        "release: kl as the paper's published code measures it, defects and all, to see what they cost: without the picture, at "
        "temperature 1, and one token off (the probability that a token comes once more). ppo-step then does so to the student. "
        "none, the default, is the paper's text.",
    ] = "none"
    temperature: Annotated[float, "sft: first sampling temperature of the teacher; 0.2 as in the paper.", POSITIVE] = 0.2
    retries: Annotated[
        int, "sft: more tries for a reply that does not parse, each 1.1 times hotter, up to 0.9.", NOT_NEGATIVE
    ] = 3
    max_new_tokens: MaxNewTokens = 256
    micro_batch_tokens: MicroBatchTokens = "auto"
    micro_batch_size: MicroBatch = 32
    engine: Engine = "hf"
    server: ServerKind = "vllm"
    base_url: BaseUrl = None
    served_model: ServedModel = None
    max_concurrency: MaxConcurrency = 64
    student: Annotated[
        Path | None, "Go on to the weights: update this checkpoint with the guidance and write it to --out.", Role.INPUT
    ] = None
    update: Annotated[
        tuple[str, ...], "KEY=VALUE for that update, an option of sft (--mode sft) or ppo-step (--mode kl); repeatable."
    ] = ()
    seed: Seed = 0
    device: Device = "auto"
    dtype: Dtype = "auto"


# With r = log p − log q, ∇ of an estimator k(r) is on average E[k'(r) ∇log p]; of the KL it is E[r ∇log p].
NO_LOSS = {
    "k1": "its expected gradient is 0",
    "k1-clip": "its gradient is 0 where the teacher likes a token better and elsewhere the same however far apart the two are",
    "abs": "its gradient is the same however far apart the two are",
    "k3": "its expected gradient is that of the forward KL, from teacher to student",
}


@dataclass(frozen=True, kw_only=True)
class PpoStepConfig(StageConfig):
    """One PPO update of a checkpoint from its own turns, guided by a teacher's scores or demos."""

    checkpoint: Annotated[Path, "Checkpoint that played the turns.", Role.INPUT]
    rollouts: Annotated[Path, "Turns that this checkpoint played.", Role.INPUT]
    scores: Annotated[Path | None, "Teacher log-probs of these turns (distill --mode kl).", Role.INPUT] = None
    demos: Annotated[
        tuple[Path, ...], "Teacher thoughts to imitate beside PPO (distill --mode sft); repeatable.", Role.INPUT
    ] = ()
    epochs: Annotated[int, "Passes over the turns.", AT_LEAST_ONE] = 4
    minibatch_size: Annotated[int, "Turns per optimiser step; 128 as in the paper.", AT_LEAST_ONE] = 128
    micro_batch_tokens: MicroBatchTokens = "auto"
    gradient_checkpointing: Checkpointing = False
    fsdp: Fsdp = False
    learning_rate: Annotated[float, "AdamW learning rate of the model at the first update.", POSITIVE] = 1e-5
    final_learning_rate: Annotated[float, "Learning rate after --schedule-updates updates.", NOT_NEGATIVE] = 1e-9
    schedule_updates: Annotated[
        int, "Updates (ppo-steps) of the cosine from first to final learning rate; 0 keeps it constant.", NOT_NEGATIVE
    ] = 0
    value_learning_rate: Annotated[float | None, "Learning rate of the value head; the model's if not given.", POSITIVE] = None
    clip_range: Annotated[float, "ε: the turn's probability ratio counts within 1 ± this.", CLIP] = 0.1
    value_clip_range: Annotated[
        float | None, "The value's change counts within ± this, in units of reward; --clip-range if not given.", POSITIVE
    ] = None
    gamma: Annotated[float, "Discount per turn.", FRACTION] = 0.9
    gae_lambda: Annotated[float, "λ of generalised advantage estimation.", FRACTION] = 0.95
    thought_coef: Annotated[
        float, "λ: weight of thought tokens in a turn's log-prob; 0.5 for card games, 0.2 ALFWorld.", FRACTION
    ] = 0.5
    value_coef: Annotated[float, "Weight of the value loss.", NOT_NEGATIVE] = 0.5
    detach_value: Annotated[bool, "Let the value loss train the value head only, not the model."] = False
    environment_coef: Annotated[
        float, "Weight of the environment's reward; 0 leaves pure on-policy distillation.", NOT_NEGATIVE
    ] = 1.0
    format_valid: Annotated[float, "Reward term of a reply that parses; 3 in the paper's Points24, 0 here."] = 0.0
    format_invalid: Annotated[float, "Reward term of a reply that does not parse; -2 in the paper's Points24, -1 here."] = -1.0
    kl_coef: Annotated[float, "β: weight of the teacher's reverse KL; 1 as in the paper.", NOT_NEGATIVE] = 1.0
    kl_estimator: Annotated[
        Literal["k1-clip", "k1", "abs", "k2", "k3", "full"],
        "Per-token estimate of KL(student, teacher); k1-clip is max(0, k1) as in the paper. full: summed over the tokens that "
        "distill --top-logprobs kept, and the rest as one.",
    ] = "k1-clip"
    kl_placement: Annotated[
        Literal["reward", "advantage", "return", "loss"],
        "reward: through GAE (paper's algorithm). advantage: this turn only (its equation). return: value target too (its code). "
        "loss: differentiable, beside PPO; takes --kl-estimator k2 or full.",
    ] = "reward"
    kl_tokens: Annotated[
        Literal["thought", "reply"],
        "Tokens that the KL is the mean over: thought, as in the paper, or reply, thought and action alike.",
    ] = "thought"
    demo_coef: Annotated[float, "Weight of the imitation loss on --demos; 1 as in the paper.", NOT_NEGATIVE] = 1.0
    weight_decay: Annotated[float, "AdamW weight decay.", NOT_NEGATIVE] = 0.0
    max_grad_norm: Annotated[
        float, "Gradients are scaled down to this norm; 1 is what the paper's runs used in effect.", POSITIVE
    ] = 1.0
    seed: Seed = 0
    device: Device = "auto"
    dtype: Dtype = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kl_placement == "loss" and self.kl_estimator in NO_LOSS:
            raise GtrTurboError(
                f"{self.kl_estimator} is no loss: {NO_LOSS[self.kl_estimator]}.",
                "with --kl-placement loss give: --kl-estimator k2, or full",
            )


MergeMethod = Literal[
    "ties", "linear", "task-arithmetic", "dare-linear", "dare-ties", "breadcrumbs", "slerp", "nuslerp", "multislerp",
    "model-stock", "sce",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MergeConfig(StageConfig):
    """Merge checkpoints around their base into a teacher. No checkpoints give the base."""

    checkpoints: Annotated[
        tuple[Path, ...], "Checkpoints to merge, oldest first: full weights in safetensors, or LoRA adapters.", Role.POSITIONAL
    ] = ()
    base: Annotated[
        Path | None,
        "Checkpoint that task vectors are measured from, a folder or a Hugging Face id; the one that the checkpoints were "
        "trained from if not given.",
        Role.INPUT,
    ] = None
    method: Annotated[
        MergeMethod,
        "ties (the paper's): trim, elect signs, average. linear: weighted mean. task-arithmetic: weighted sum. dare-linear, "
        "dare-ties: drop entries at random first. breadcrumbs: drop the smallest and the largest. slerp, nuslerp (two), "
        "multislerp: along spheres. model-stock: towards the centre. sce: entries that vary most.",
    ] = "ties"
    weights: Annotated[str, "sma (equal), ema:ALPHA (newest counts most; the paper's best is ema:0.5), or numbers: 0.2,0.8."] = (
        "sma"
    )
    density: Annotated[
        str,
        "Share of each task vector that is kept, in (0, 1], or one per checkpoint: 0.8,0.5; 0.8 as in the paper.",
        EachBetween(0, 1, low_open=True),
    ] = "0.8"
    gamma: Annotated[float, "breadcrumbs: share of largest entries to drop.", FRACTION] = 0.01
    scale: Annotated[float, "λ: the merged task vector is multiplied by it; 1 as in the paper.", POSITIVE] = 1.0
    normalize: Annotated[
        bool | None, "Divide by the weights; if not given, ties, linear and sce do, and sums do not (as in mergekit)."
    ] = None
    sign: Annotated[
        Literal["total", "count"], "How a sign is elected: by the weighted sum (as in the paper), or by the number of votes."
    ] = "total"
    only: Annotated[
        tuple[str, ...], "Merge only tensors whose name fits, such as model.layers.*; repeatable. Others: the base's."
    ] = ()
    exclude: Annotated[tuple[str, ...], "Leave tensors whose name fits as they are in the base; repeatable."] = ()
    adapter_space: Annotated[
        Literal["delta", "factors"],
        "LoRA adapters: delta merges what they stand for, scale·B·A, exactly. factors merges A and B apart, as PEFT does: "
        "approximate.",
    ] = "delta"
    rank: Annotated[
        int, "LoRA adapters: write an adapter of this rank (truncated SVD; its error is printed), not full weights.", NOT_NEGATIVE
    ] = 0
    recursive: Annotated[
        bool, "Merge one checkpoint after another into the last teacher: the paper's recursion, an approximation of their merge."
    ] = False
    compat: Annotated[
        Literal["none", "release"],
        "release: the teacher of the paper's published code, defects and all, to see what they cost: the first checkpoint alone "
        "(it is never merged again), with a quarter of its trimmed change; with --adapter-space factors half of A and half of B. "
        "none, the default, is the paper's text.",
    ] = "none"
    seed: Annotated[int, "dare: decides which entries are dropped.", NOT_NEGATIVE] = 0
    recipe: Annotated[Path | None, "mergekit's YAML in place of checkpoints, method and weights.", Role.RUNTIME] = None
    cache: Annotated[
        Path | None, "Folder for what was measured of each checkpoint: merging it again is one pass over the files.", Role.RUNTIME
    ] = None
    state: Annotated[
        Path | None, "Folder of running sums (ties): only checkpoints that are not in it are read, and old ones may be gone.",
        Role.RUNTIME,
    ] = None  # fmt: skip
    verify: Annotated[
        int, "Recompute so many tensors, chosen at random, by the slow reference and compare.", NOT_NEGATIVE, Role.RUNTIME
    ] = 0
    dry_run: Annotated[bool, "Say what would be read and written, and do nothing.", Role.RUNTIME] = False
    threads: Annotated[int | None, "Threads; all cores if not given. The result is the same.", AT_LEAST_ONE, Role.RUNTIME] = None
    device: Annotated[
        str, "cpu, or cuda for the arithmetic on a GPU; the result is the same.", Role.RUNTIME
    ] = "cpu"  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        fixed = {"method": "ties", "weights": "sma", "scale": 1.0, "normalize": None, "sign": "total", "recursive": False}
        fixed |= {"state": None, "rank": 0}
        changed = [name for name, value in fixed.items() if getattr(self, name) != value]
        if self.compat == RELEASE and changed:
            raise GtrTurboError(
                f"--compat release is one merge, whose {changed[0]} is fixed.", f"leave out --{changed[0]}, or --compat."
            )


@dataclass(frozen=True, kw_only=True)
class EvalConfig(StageConfig):
    """Play fixed, paired episodes and report success with its interval, thought accuracy and chance."""

    checkpoint: Annotated[Path, "Checkpoint that plays.", Role.INPUT]
    task: TaskName
    env: EnvOptions = ()
    episodes: Annotated[int, "Episodes; the same deals for every checkpoint.", AT_LEAST_ONE] = 200
    temperature: Annotated[float, "Sampling temperature; 0 takes the most likely token.", NOT_NEGATIVE] = 0.0
    max_new_tokens: MaxNewTokens = 256
    illegal: Illegal = "random"
    num_envs: NumEnvs = 32
    engine: Engine = "hf"
    server: ServerKind = "vllm"
    base_url: BaseUrl = None
    served_model: ServedModel = None
    max_concurrency: MaxConcurrency = 64
    seed: Annotated[int, "Chooses the deals; keep it to compare checkpoints pair by pair.", NOT_NEGATIVE] = 1_000_000
    device: Device = "auto"
    dtype: Dtype = "auto"


Method = Literal["ppo", "turbo-kl", "turbo-sft", "gtr", "opd", "static-kl"]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Train from nothing to a table: init, sft, then merge, rollout, distill, ppo-step in a loop, and eval."""

    out: Annotated[Path, "Folder of the run; started again, it goes on where it was."]
    method: Annotated[
        Method,
        "ppo: no teacher. turbo-kl, turbo-sft: the merged teacher. gtr: an external teacher (--teacher, else the expert). "
        "opd: on-policy distillation of --teacher, without the environment's reward. static-kl: KL to one teacher throughout, "
        "--teacher or else the first checkpoint.",
    ] = "turbo-kl"
    model: Annotated[str, "tiny (built in), a Hugging Face id, or a folder. Any but tiny takes the paper's settings."] = "tiny"
    start: Annotated[Path | None, "Start from this checkpoint: no init and no sft. --model still chooses the settings."] = None
    teacher: Annotated[Path | None, "External teacher: opd needs one, gtr and static-kl take one."] = None
    task: TaskName = "numberline"
    env: EnvOptions = ()
    eval_env: Annotated[
        tuple[str, ...], "KEY=VALUE for the evaluations alone, over --env, such as deals=held-out; repeatable."
    ] = ()
    iterations: Annotated[int, "Updates after the warm start.", NOT_NEGATIVE] = 20
    episodes: Annotated[int, "Episodes per iteration.", AT_LEAST_ONE] = 64
    eval_episodes: Annotated[int, "Episodes per evaluation.", AT_LEAST_ONE] = 200
    eval_every: Annotated[int, "Evaluate every so many iterations, besides start and end; 0 only those two.", NOT_NEGATIVE] = 0
    merge_every: Annotated[
        int,
        "Merge a teacher every so many updates, of the checkpoints whose number is a multiple; it serves until the next. "
        "1 as in the paper.",
        AT_LEAST_ONE,
    ] = 1
    eval_teachers: Annotated[
        bool, "Wherever a student is evaluated, evaluate on the same deals the teacher that is then merged of it too."
    ] = False
    lora_rank: Annotated[int, "Rank of the LoRA adapter to train; 0 trains the full weights.", NOT_NEGATIVE] = 0
    seed: Seed = 0
    label: Annotated[
        str | None, "What compare and report call this run; the method and the settings in which it differs if not given."
    ] = None
    set: Annotated[
        tuple[str, ...], "STAGE.OPTION=VALUE for any stage, such as ppo-step.clip-range=0.2 or merge.weights=ema:0.5; repeatable."
    ] = ()
    keep_teachers: Annotated[
        int | None, "Keep the weights of the newest N merged teachers; all if not given. The manifests stay.", AT_LEAST_ONE
    ] = None
    keep_optimizers: Annotated[
        int | None, "Keep the optimiser's state of the newest N checkpoints; all if not given. The weights stay.", AT_LEAST_ONE
    ] = None
    isolate: Annotated[bool, "Run each stage as a process of its own, so that nothing of it stays in memory."] = False
    dry_run: Annotated[bool, "Print the run as a shell script with estimates of memory and disk, and do nothing."] = False
    device: Device = "auto"
    overwrite: Annotated[bool, "Replace what exists and differs."] = False

    def __post_init__(self) -> None:
        for field in fields(type(self)):
            check(field, getattr(self, field.name))


@dataclass(frozen=True, kw_only=True)
class ShowConfig:
    """Print any artifact: its manifest, an episode turn by turn, tokens coloured by the teacher's KL."""

    artifact: Annotated[Path, "Folder to look at.", Role.POSITIONAL]
    episode: Annotated[int | None, "Print this episode turn by turn.", NOT_NEGATIVE] = None
    turn: Annotated[int | None, "Print this row of turns.jsonl (counted from 0), as error messages name them.", NOT_NEGATIVE] = (
        None
    )
    scores: Annotated[Path | None, "Colour the reply's tokens by the teacher's KL from these scores."] = None
    check: Annotated[bool, "Hash every file again and compare with the manifest."] = False


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Compare runs by method: means over seeds with intervals, differences paired by seed, cost."""

    runs: Annotated[tuple[Path, ...], "Folders that gtrturbo run wrote.", Role.POSITIONAL]
    baseline: Annotated[
        str | None, "Method that the others are compared to, as the table names it; ppo if there, else the first."
    ] = None
    out: Annotated[Path | None, "Folder for compare.json and compare.csv, with every iteration.", Role.RUNTIME] = None


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write one HTML page about runs: curves with intervals, collapse, teacher, time and cost, sample episodes."""

    runs: Annotated[tuple[Path, ...], "Folders that gtrturbo run wrote.", Role.POSITIONAL]
    out: Annotated[Path, "File to write; it needs nothing else, no network either.", Role.RUNTIME] = Path("report.html")
    baseline: Annotated[
        str | None, "Method that the others are compared to, as the table names it; ppo if there, else the first."
    ] = None
    samples: Annotated[int, "Episodes to show of each run.", NOT_NEGATIVE] = 2
    price_per_call: Annotated[float | None, "What an API teacher would cost per answered turn.", NOT_NEGATIVE] = None
    price_per_million_tokens: Annotated[
        float | None, "What an API teacher would cost per million tokens, read and written alike.", NOT_NEGATIVE
    ] = None
    price_per_hour: Annotated[
        float | None, "What an hour of this machine costs, for the merged teacher's seconds.", NOT_NEGATIVE
    ] = None
    currency: Annotated[str, "Of the prices."] = "USD"

    def __post_init__(self) -> None:
        for field in fields(type(self)):
            check(field, getattr(self, field.name))
