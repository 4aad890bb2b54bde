"""Configs of the stages in which a model plays, or comments on play: rollout, distill, eval."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from gtrturbo.config.bounds import AT_LEAST_ONE, COUNT, FRACTION, SEED, TEMPERATURE, TEMPERATURE_OR_ZERO, TRIES
from gtrturbo.config.choices import HF
from gtrturbo.config.common import (
    Device,
    Dtype,
    Engine,
    EnvOptions,
    MaxNewTokens,
    MicroBatchTokens,
    NumEnvs,
    OnInvalidReply,
    Probe,
    ProbeTurns,
    Seed,
    ServedModel,
    StageConfig,
    TaskName,
    VllmPython,
)
from gtrturbo.config.fields import Absent, Checked, More, Role, Seam
from gtrturbo.config.teaching import (
    Address,
    Answers,
    AnswerTimeout,
    AtOnce,
    Hints,
    Ledger,
    MaxCalls,
    MaxCost,
    MoreTeachers,
    Prices,
    PromptFile,
    RepairFile,
    ReplyFormat,
    TeacherWeights,
    check_hints,
)
from gtrturbo.errors import GtrTurboError

HALF = 0.5  # of the turns, where nothing else is said


@dataclass(frozen=True, kw_only=True)
class RolloutConfig(StageConfig):
    """Play episodes and write every turn: image, prompt, sampled token ids, log-probs, reward."""

    checkpoint: Annotated[Path | None, "Checkpoint that plays; leave out with --expert.", Role.INPUT] = None
    task: TaskName
    env: EnvOptions = ()
    expert: Annotated[bool, "Let the task's scripted expert play and write true thoughts: data for sft."] = False
    random_expert_share: Annotated[
        float,
        "--expert: share of the episodes in which the expert reads truly and keeps to the rules, but acts at random "
        "among what they allow.",
        FRACTION,
    ] = 0.0
    hints: Annotated[
        tuple[str, ...],
        "--expert: what the prompts of a share of the turns hold besides, as a teacher is told it (see distill --hints), so that "
        "a small model learns to read it; repeatable.",
        Checked(check_hints),
        Absent((), silent=True),
    ] = ()
    hinted_share: Annotated[
        float,
        "--hints: share of the turns whose prompt holds a hint, drawn for each hint alone; the others learn to do without.",
        FRACTION,
        Absent(HALF, silent=True),
    ] = HALF
    episodes: Annotated[int, "Whole episodes to play. 64 is ours; the paper plays 1,024 turns per update.", AT_LEAST_ONE] = 64
    first_episode: Annotated[int, "Index of the first episode: two halves played apart equal one whole.", COUNT] = 0
    group_size: Annotated[
        int,
        "Episodes that share a deal, and nothing else that is random: for ppo-step --credit group or step-group. 1: each has its "
        "own.",
        AT_LEAST_ONE,
        Absent(1, silent=True),
    ] = 1
    temperature: Annotated[float, "Sampling temperature; 0.2 as in the paper. Training uses the same.", TEMPERATURE] = 0.2
    max_new_tokens: MaxNewTokens = 256
    on_invalid_reply: OnInvalidReply = "random"
    num_envs: NumEnvs = 32
    engine: Engine = HF
    served_model: ServedModel = None
    vllm_python: VllmPython = "python3"
    probe: Probe = True
    probe_turns: ProbeTurns = None
    seed: Seed = 0
    device: Device = "auto"
    dtype: Dtype = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        for option, count in (("--episodes", self.episodes), ("--first-episode", self.first_episode)):
            if count % self.group_size:
                raise GtrTurboError(
                    f"{option} {count} is no multiple of --group-size {self.group_size}, and so cuts a group.",
                    f"give: {option} {-(-count // self.group_size) * self.group_size}",
                )


@dataclass(frozen=True, kw_only=True)
class DistillConfig(StageConfig):
    """Let a teacher annotate turns: log-probs of the student's tokens (kl), thoughts of its own (thoughts), or corrections of the
    student's (correct)."""

    rollouts: Annotated[Path, "Turns to annotate.", Role.INPUT]
    teacher: Annotated[
        Path | None,
        "Checkpoint or any Hugging Face model's folder that teaches; openai:MODEL on a server, see --address; or a teacher of "
        "your own, path/to/file.py:NAME. Repeatable, see --teacher-weights; not with --expert.",
        Role.INPUT,
        Seam("teacher"),
        More("more_teachers"),
    ] = None
    more_teachers: MoreTeachers = ()
    teacher_weights: TeacherWeights = None
    expert: Annotated[bool, "The task's scripted expert teaches, no --mode kl: GTR with a correct corrector."] = False
    mode: Annotated[
        str,
        "kl writes scores; thoughts writes demos of what the teacher itself thinks; correct writes demos of the student's "
        "thoughts as the teacher corrects them, where they are wrong; or a mode of your own, path/to/file.py:NAME.",
        Seam("mode"),
    ] = "kl"
    address: Address = None
    hints: Hints = ()
    prompt: PromptFile = None
    repair_prompt: RepairFile = None
    reply_format: ReplyFormat = "auto"
    prices: Prices = None
    max_calls: MaxCalls = None
    max_cost: MaxCost = None
    answers: Answers = None
    ledger: Ledger = None
    at_once: AtOnce = 16
    answer_timeout: AnswerTimeout = 120.0
    task: Annotated[
        str | None,
        "Task of the turns, where it is one of your own: code is loaded only because you name it.",
        Seam("task"),
    ] = None
    top_logprobs: Annotated[
        int,
        "kl: also keep the teacher's N most likely tokens at each token, 8 N + 4 bytes, for ppo-step --kl-estimator full; more "
        "than the vocabulary is all of it. 0, as in the paper, keeps none.",
        COUNT,
    ] = 0
    temperature: Annotated[float, "thoughts: first sampling temperature of the teacher; 0.2 as in the paper.", TEMPERATURE] = 0.2
    retries: Annotated[
        int,
        "thoughts: more tries for a reply that does not parse, each 1.1 times hotter, up to 0.9. 3 is ours; the paper's code "
        "tries for ever.",
        TRIES,
    ] = 3
    max_new_tokens: MaxNewTokens = 256
    micro_batch_tokens: MicroBatchTokens = "auto"
    engine: Engine = HF
    served_model: ServedModel = None
    vllm_python: VllmPython = "python3"
    probe: Probe = True
    probe_turns: ProbeTurns = None
    seed: Seed = 0
    device: Device = "auto"
    dtype: Dtype = "auto"


@dataclass(frozen=True, kw_only=True)
class EvalConfig(StageConfig):
    """Play fixed, paired episodes and report success with its interval, thought accuracy and chance."""

    checkpoint: Annotated[Path, "Checkpoint that plays.", Role.INPUT]
    task: TaskName
    env: EnvOptions = ()
    episodes: Annotated[int, "Episodes; the same deals for every checkpoint.", AT_LEAST_ONE] = 200
    panel: Annotated[
        str | None, "A fixed panel of the task's, played whole: the same episodes on every machine, in place of --episodes deals."
    ] = None
    chance_episodes: Annotated[
        int,
        "Episodes of each policy that sees nothing, up to 1,000; fewer where they would be 400,000 turns in all. Played once, "
        "without pictures, and kept in the cache. 0 leaves chance out.",
        COUNT,
        Absent(1000, silent=True),
    ] = 1000
    hints: Annotated[
        tuple[str, ...],
        "Tell the checkpoint truth, or a good reply of the expert's, as a teacher is told by distill --hints: how good is it as "
        "such? Repeatable.",
        Checked(check_hints),
        Absent((), silent=True),
    ] = ()
    temperature: Annotated[float, "Sampling temperature; 0 takes the most likely token.", TEMPERATURE_OR_ZERO] = 0.0
    max_new_tokens: MaxNewTokens = 256
    on_invalid_reply: OnInvalidReply = "random"
    num_envs: NumEnvs = 32
    engine: Engine = HF
    served_model: ServedModel = None
    vllm_python: VllmPython = "python3"
    probe: Probe = True
    probe_turns: ProbeTurns = None
    seed: Annotated[int, "Chooses the deals; keep it to compare checkpoints pair by pair.", SEED] = 1_000_000
    device: Device = "auto"
    dtype: Dtype = "auto"
