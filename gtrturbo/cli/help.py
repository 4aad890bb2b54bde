"""How --help is laid out: what most people set first, the rest in groups, then names with a sentence each, and examples."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from gtrturbo.config.fields import Field, Role

FIRST = "Options"  # What typer puts first, beside --help.
OTHERS = "Output and machine"
# What most people set, besides what must be given and the artifacts that a command reads.
OFTEN = {
    "run": ("method", "model", "task", "env", "iterations", "episodes", "seed", "start", "teacher", "set", "dry_run"),
    "init": ("model", "task", "env", "lora_rank", "seed"),
    "sft": ("steps", "stop_loss", "learning_rate", "batch_size", "seed"),
    "rollout": ("task", "env", "episodes", "expert", "temperature", "engine", "seed"),
    "distill": ("mode", "expert", "engine"),
    "ppo-step": ("learning_rate", "epochs", "minibatch_size", "clip_range", "gamma", "kl_coef", "kl_placement", "seed"),
    "merge": ("method", "weights", "density", "dry_run"),
    "eval": ("task", "env", "episodes", "panel", "temperature", "engine", "seed"),
}
ENGINE = ("engine", "served_model", "vllm_python", "probe", "probe_turns")
GROUPS = {
    "Teacher": (
        *("teacher_weights", "mode", "address", "hints", "hinted_share", "reply_format", "retries", "top_logprobs"),
        *("merge_every", "eval_teachers", "max_calls", "max_cost", "prices", "answers", "ledger", "at_once", "answer_timeout"),
        *("prompt", "repair_prompt", "demo_coef", "kl_coef", "kl_estimator", "kl_placement", "kl_tokens"),
    ),
    "Episodes": (
        *("task", "episodes", "first_episode", "group_size", "random_expert_share", "num_envs", "on_invalid_reply"),
        *("expert", "temperature", "max_new_tokens", "eval_env", "eval_episodes", "eval_every", "panel", "chance_episodes"),
    ),
    "Engine": ENGINE,
    "Model": ("model", "revision", "family", "chat_template", "lora_rank", "lora_alpha", "lora_target", "dtype"),
    "Optimiser": (
        *("warmup_steps", "micro_batch_tokens", "gradient_checkpointing", "final_learning_rate", "schedule_updates"),
        *("schedule_start", "value_learning_rate", "weight_decay", "adam_epsilon", "max_grad_norm", "fsdp"),
    ),
    "Loss": (
        *("guard", "target_kl", "value_clip_range", "credit", "gae_lambda", "thought_coef", "value_coef", "detach_value"),
        *("environment_coef", "format_valid", "format_invalid"),
    ),
    "Merge": (
        *("gamma", "parameters", "trim", "scale", "normalize", "task_vectors", "include", "exclude", "saturate", "missing"),
        *("rank", "seed", "recipe"),
    ),
    OTHERS: ("label", "overwrite", "keep_teachers", "keep_guidance", "keep_optimizers", "subprocess"),
}
EXAMPLES = {
    "init": ("--task numberline --out init", "--model Qwen/Qwen2.5-VL-7B-Instruct --lora-rank 16 --out init"),
    "sft": ("--checkpoint init --out sft expert --steps 200",),
    "rollout": (
        "--task numberline --expert --episodes 200 --out expert",
        "--task numberline --checkpoint sft --episodes 64 --temperature 0.9 --out turns",
        "--task numberline --checkpoint sft --engine vllm:http://localhost:8000 --out turns",
    ),
    "distill": (
        "--rollouts turns --teacher merged --out scores",
        "--rollouts turns --teacher merged --mode thoughts --out demos",
    ),
    "ppo-step": ("--checkpoint sft --rollouts turns --out new", "--checkpoint sft --rollouts turns --scores scores --out new"),
    "merge": (
        "--base init --out merged ckpts/*",
        "--method linear --weights ema:0.5 --out merged ckpts/*",
        "--recipe merge.yaml --out merged",
    ),
    "eval": ("--task numberline --checkpoint new --panel held-out --out eval",),
    "run": (
        "--out runs/a",
        "--task my_task.py:TASK --method turbo-gated --seed 1 --out runs/a",
        "--method ppo --set ppo-step.learning-rate=1e-3 --out runs/b",
        "--model Qwen/Qwen2.5-VL-7B-Instruct --lora-rank 16 --task gym:CartPole-v1 --dry-run --out runs/c",
    ),
    "check-task": ("numberline", "my_task.py:TASK"),
    "play": ("--task numberline", "--task my_task.py:TASK --expert"),
    "show": ("runs/a", "runs/a/rollouts/0000 --episode 0", "merged --check"),
    "compare": ("runs/*", "runs/* --baseline ppo --out table"),
    "report": ("runs/* --out report.html", "runs/a --watch 30"),
    "export": ("runs/a/rollouts/0000 --to trl --out turns-trl",),
    "push": ("runs/a/checkpoints/0020 ORG/NAME --dry-run",),
}


@dataclass(frozen=True)
class HelpLayout:
    """How the help of one command is laid out.

    Attributes:
        name: of the command.
        tables: by field, the names that its table holds, each with a sentence.
    """

    name: str
    tables: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def place(self, setting: Field) -> tuple[int, str]:
        """Return where a setting stands: the number of its group, and that group's title."""
        often, runtime = OFTEN.get(self.name), Role.RUNTIME in setting.roles
        if setting.required or setting.name in (often or ()) or (Role.INPUT in setting.roles and setting.name not in ENGINE):
            return 0, FIRST
        if often is None:
            return (len(GROUPS), OTHERS) if runtime else (0, FIRST)
        titles = [title for title, names in GROUPS.items() if setting.name in names]
        title = "Merge" if self.name == "merge" and "Merge" in titles else [*titles, OTHERS][0]
        return 1 + [*GROUPS].index(title), title

    @property
    def epilog(self) -> str:
        """What stands below the options: the names of tables, and examples."""
        told = [
            line
            for name, table in self.tables.items()
            for line in (f"Names for --{name}:", *(f"{each}: {sentence}" for each, sentence in table.items()))
        ]
        return "\n\n".join([*told, "Examples:", *(f"gtrturbo {self.name} {words}" for words in EXAMPLES[self.name])])
