"""Disk that a run fills, estimated step by step."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gtrturbo.config import DistillConfig, EvalConfig, InitConfig, MergeConfig, PpoStepConfig, RolloutConfig, RunConfig, SftConfig
from gtrturbo.models.memory import FLOAT32, Shape
from gtrturbo.play.teachers import find_mode
from gtrturbo.runs.peaks import batch_of, head_size, stage_has_model
from gtrturbo.runs.plan import Step, episodes_by_rollout
from gtrturbo.runs.presets import PRESETS
from gtrturbo.runs.pruning import keeping, schedule
from gtrturbo.runs.sample import Play

# Bytes of a reply's token in tokens.safetensors: id, span, two masks, log-prob.
REPLY_TOKEN = 18
SCORED_TOKEN = 4
# Of each of the teacher's most likely tokens id and log-prob, and the log-prob of the rest.
TOP_TOKEN, REST = 8, 4


@dataclass(frozen=True)
class Disk:
    """Bytes of a run: `parts` by what they are in the end, and the most there is on the way there."""

    parts: dict[str, int]
    most: int

    @property
    def end(self) -> int:
        return sum(self.parts.values())


def disk_of(config: RunConfig, steps: list[Step], shape: Shape, play: Play) -> Disk:
    """Estimate what a run leaves on disk, step by step, and what pruning takes away again."""
    configs = [step.config for step in steps]
    due = schedule(configs, **keeping(config))
    episodes = episodes_by_rollout(steps)
    sizes = {id(step.config): dict(_files(config, step, shape, play, episodes)) for step in steps}
    parts: dict[str, int] = defaultdict(int)
    most = 0
    for position, stage in enumerate(configs):
        for part, size in sizes[id(stage)].items():
            parts[part] += size
        most = max(most, sum(parts.values()))
        for old in due.get(position, []):
            part = _pruned(old)
            parts[part] -= sizes[id(old)][part]
    return Disk({part: size for part, size in parts.items() if size}, most)


def _pruned(old: Any) -> str:
    """Say what pruning takes of a step."""
    if isinstance(old, DistillConfig):
        return "guidance"
    return "teachers" if isinstance(old, MergeConfig) else "optimizers"


def _files(config: RunConfig, step: Step, shape: Shape, play: Play, episodes: Mapping[Path, int]) -> Iterator[tuple[str, int]]:
    """Yield what a step writes by what it is, in bytes."""
    stage, checkpoint = step.config, shape.adapter_bytes or shape.weights
    if isinstance(stage, InitConfig):
        # The base of an adapter lies where it is, but for a built-in one, and one in another type than its own.
        inside = shape.weights if stage.model in PRESETS or shape.holds_base else 0
        yield "checkpoints", checkpoint + inside if stage.lora_rank else shape.weights
    if isinstance(stage, SftConfig):
        # A built-in model learns to read before it gets its adapter.
        yield "checkpoints", shape.weights if config.model in PRESETS else checkpoint
    if isinstance(stage, PpoStepConfig):
        head = head_size(shape.hidden) * FLOAT32
        yield "checkpoints", checkpoint + head
        yield "optimizers", shape.optimizer_bytes + 2 * head
    if isinstance(stage, MergeConfig):
        yield "teachers", shape.weights if stage.checkpoints else checkpoint
    if isinstance(stage, RolloutConfig | EvalConfig):
        token = REPLY_TOKEN * play.reply + FLOAT32 * batch_of(shape, play, 1, 0).prompt if stage_has_model(stage) else 0
        yield "turns", round(stage.episodes * play.turns * (play.row + play.png + token))
    if isinstance(stage, DistillConfig):
        scored = SCORED_TOKEN + (TOP_TOKEN * stage.top_logprobs + REST if stage.top_logprobs else 0)
        row = play.row + play.png if find_mode(stage.mode).writes == "demos" else scored * play.reply
        yield "guidance", round(episodes[stage.rollouts] * play.turns * row)
