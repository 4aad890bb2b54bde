"""The stages, by name. Nothing heavy is imported here: a stage's module is imported when the stage is run."""

import importlib
from pathlib import Path
from typing import Any

from gtrturbo.artifacts import Draft, Provenance, Result, artifact_id, finished
from gtrturbo.config import DistillConfig, EvalConfig, InitConfig, MergeConfig, PpoStepConfig, RolloutConfig, SftConfig
from gtrturbo.lineage import with_base
from gtrturbo.settings import input_paths, knobs

STAGES = {
    "init": (InitConfig, "gtrturbo.stages.init"),
    "sft": (SftConfig, "gtrturbo.stages.sft"),
    "rollout": (RolloutConfig, "gtrturbo.stages.rollout"),
    "distill": (DistillConfig, "gtrturbo.stages.distill"),
    "ppo-step": (PpoStepConfig, "gtrturbo.stages.ppo_step"),
    "merge": (MergeConfig, "gtrturbo.stages.merge"),
    "eval": (EvalConfig, "gtrturbo.stages.eval"),
}

KINDS = {"rollout": "turns", "eval": "evaluation"}


def execute(config: Any) -> Result:
    """Run the stage that a config belongs to, unless its artifact is there already."""
    if isinstance(config, MergeConfig):
        config = with_base(config)
    stage = stage_of(config)
    if not config.overwrite and (result := finished(config.out, provenance(config))):
        return result
    return importlib.import_module(STAGES[stage][1]).run(config)


def stage_of(config: Any) -> str:
    """Name the stage that a config belongs to."""
    return next(name for name, (kind, _) in STAGES.items() if kind is type(config))


def provenance(config: Any) -> Provenance:
    """Take the ids of a stage's inputs and its knobs, before the work starts."""
    stage = stage_of(config)
    chosen = knobs(config)
    inputs = {name: _ids(value) for name, value in input_paths(config).items()}
    if isinstance(config, InitConfig) and Path(config.model).is_dir():
        # A folder counts by its content: its path must not decide the id.
        inputs["model"], chosen["model"] = artifact_id(Path(config.model)), "folder"
    return Provenance(stage=stage, kind=_kind(config, stage), config=chosen, inputs=inputs)


def _kind(config: Any, stage: str) -> str:
    if isinstance(config, DistillConfig):
        return "scores" if config.mode == "kl" else "demos"
    return KINDS.get(stage, "checkpoint")


def _ids(value: Path | tuple[Path, ...]) -> Any:
    return [artifact_id(path) for path in value] if isinstance(value, tuple) else artifact_id(value)


def done(draft: Draft) -> Result:
    """Return what a finished draft became."""
    if draft.result is None:
        raise ValueError("the artifact is not finished.")
    return draft.result
