"""What the built-in models were measured to learn with; every other model takes the stages' defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gtrturbo.config.games import game_name

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Preset:
    """Settings of a built-in model, which starts from random weights.

    env: options of every environment that the user does not set. stages: options by stage, and by the names that --set knows
    besides. tasks: what differs for one task, by its canonical name.
    """

    env: tuple[str, ...] = ()
    stages: Mapping[str, Settings] = field(default_factory=dict)
    tasks: Mapping[str, Mapping[str, Settings]] = field(default_factory=dict)

    def settings(self, stage: str, task: str) -> dict[str, Any]:
        """Return the settings of a stage for the task that is played."""
        return {**self.stages.get(stage, {}), **self.tasks.get(game_name(task), {}).get(stage, {})}

    def env_with(self, chosen: tuple[str, ...]) -> tuple[str, ...]:
        """Return the options of an environment: the preset's that the user did not choose otherwise, then the user's."""
        names = {_name(option) for option in chosen}
        return (*(option for option in self.env if _name(option) not in names), *chosen)


def _name(option: str) -> str:
    return option.partition("=")[0]


TINY = Preset(
    env=("image=tiny",),
    stages={
        "expert": {"episodes": 400},
        "sft": {"steps": 160, "stop_loss": 0.06, "learning_rate": 3e-3},
        "rollout": {"temperature": 0.6, "max_new_tokens": 64},
        "distill": {"temperature": 0.6, "max_new_tokens": 64},
        "eval": {"max_new_tokens": 64},
        "ppo-step": {
            "learning_rate": 2e-4,
            "value_learning_rate": 2e-3,
            "epochs": 3,
            "minibatch_size": 64,
            "clip_range": 0.2,
            "value_clip_range": 10.0,
            "max_grad_norm": 0.5,
        },
    },
    # What an unreadable reply costs follows from a task's rewards, but where a game was measured with another number. A won
    # EZPoints hand pays 10, not 1: the value loss would drown the policy's gradient.
    tasks={
        # Its rewards say -2: the demo then ended at 0.845, with 58 % of the replies that were sampled illegal.
        "numberline": {"ppo-step": {"format_invalid": -1.0}},
        "blackjack": {
            "expert": {"random_expert_share": 0.7, "episodes": 4000},  # To add up a hand takes many examples.
            "sft": {"stop_loss": 0.0, "steps": 1200},
            "rollout": {"num_envs": 128},
            "eval": {"num_envs": 250, "temperature": 0.6},  # Greedily a start plays one action alone, or nearly the best.
            "ppo-step": {
                "learning_rate": 3e-4,
                "value_learning_rate": 1e-2,
                "epochs": 1,
                "gamma": 1.0,
                "format_invalid": -3.0,
            },
        },
        "ezpoints": {
            "expert": {"random_expert_share": 1.0},  # Its demos leave the right sign to be learned, and the replies well formed.
            "sft": {"stop_loss": 0.0},
            "rollout": {"num_envs": 64},
            "eval": {"num_envs": 64},
            "ppo-step": {
                "learning_rate": 1e-4,
                "value_learning_rate": 1e-2,
                "epochs": 2,
                "gamma": 1.0,
                "format_invalid": -10.0,
                "detach_value": True,
                "value_coef": 0.02,
            },
        },
    },
)

# Measured on FrozenLake's frames (docs/your-own-task.md). Without the warm-up of its learning rate it may not begin to read.
# Where every episode of a batch is won, all that is left of the advantages is what the value head gets wrong, and an update
# follows it however small it is: so the head learns fast, nothing is discounted, and minibatches are large.
SMALL = Preset(
    env=("image=tiny",),
    stages={
        **TINY.stages,
        "expert": {"episodes": 400, "random_expert_share": 0.8},
        "sft": {"steps": 1400, "learning_rate": 2e-3, "warmup_steps": 100, "batch_size": 16},
        "eval": {"max_new_tokens": 64, "temperature": 0.6},  # Where episodes begin alike, greedy ones would all be the same one.
        "ppo-step": {
            **TINY.stages["ppo-step"],
            "gamma": 1.0,
            "value_learning_rate": 1e-2,
            "minibatch_size": 256,
            "detach_value": True,
        },
    },
)

PRESETS: dict[str, Preset] = {"tiny": TINY, "small": SMALL}
