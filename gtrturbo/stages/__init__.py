"""The stages, by name. Nothing heavy is imported here: a stage's module is imported when the stage is run."""

import importlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gtrturbo.config import DistillConfig, EvalConfig, InitConfig, MergeConfig, PpoStepConfig, RolloutConfig, SftConfig
from gtrturbo.config.fields import input_paths, knobs
from gtrturbo.distributed.processes import Alone, group, working_in, world
from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.state import read_state
from gtrturbo.play.teachers import find_mode
from gtrturbo.plugins import is_outside, load, names_code
from gtrturbo.stages.resolve import with_base
from gtrturbo.store.artifacts import Draft, Provenance, Result, artifact_id, finished, pruned_files, remake_command
from gtrturbo.store.hashes import remembering_hashes

STAGES = {
    "init": (InitConfig, "gtrturbo.stages.init"),
    "sft": (SftConfig, "gtrturbo.stages.sft"),
    "rollout": (RolloutConfig, "gtrturbo.stages.rollout"),
    "distill": (DistillConfig, "gtrturbo.stages.distill"),
    "ppo-step": (PpoStepConfig, "gtrturbo.stages.ppo_step"),
    "merge": (MergeConfig, "gtrturbo.stages.merge"),
    "eval": (EvalConfig, "gtrturbo.stages.eval"),
}

OPTIMIZER = "optimizer"
HASHES = "hashes.json"
KINDS = {"rollout": "turns", "eval": "evaluation"}
# Options that may name code of the user's own, and what it is.
OUTSIDE = {"credit": "credit", "kl_estimator": "KL estimator"}
# Stages that several processes do together; of the others the first does all, and the rest wait for what comes out.
TOGETHER = {"sft", "ppo-step", "rollout", "eval", "distill"}


def execute(config: Any) -> Result:
    """Run the stage that a config belongs to, unless its artifact is there already.

    Under torchrun all processes call this with the same config and get the same result; an error in one ends all.
    """
    if isinstance(config, MergeConfig):
        with remembering_hashes(config.cache / HASHES if config.cache else None):
            return _execute(with_base(config))
    return _execute(config)


def _execute(config: Any) -> Result:
    if world().size == 1:
        return _existing(config) or _run(config)
    with importlib.import_module("gtrturbo.distributed.collectives").together():
        if result := _by_the_first(_existing, config):
            return result
        done = _run(config) if stage_of(config) in TOGETHER else _by_the_first(_run, config)
        assert done is not None
        return done


def preview(config: MergeConfig) -> str:
    """Say what a merge would read and write, without doing it."""
    return importlib.import_module(STAGES["merge"][1]).preview(with_base(config))


def _run(config: Any) -> Result:
    _require_unpruned(config)
    return importlib.import_module(STAGES[stage_of(config)][1]).run(config)


def _existing(config: Any) -> Result | None:
    if config.overwrite or (isinstance(config, MergeConfig) and not config.out.exists()):
        return None  # Files of others that a merge reads are hashed beside the work.
    return finished(config.out, provenance(config))


def _by_the_first(work: Callable[[Any], Result | None], config: Any) -> Result | None:
    """Let the first process of the group do it alone, and tell the others what came of it."""
    told = None
    if group().world.first:
        with working_in(Alone()):
            result = work(config)
        told = [result.id, result.metrics] if result else None
    told = group().broadcast(told)
    return Result(out=config.out, id=told[0], metrics=told[1]) if told else None


def _require_unpruned(config: Any) -> None:
    """Refuse to work on files that a run threw away. Only ppo-step goes on from an optimiser's state."""
    stage = stage_of(config)
    for path in read_by(config):
        gone = [name for name in pruned_files(path) if stage == "ppo-step" or not name.startswith(OPTIMIZER)]
        if gone:
            raise GtrTurboError(
                f"{', '.join(gone)} of {path} was pruned, and {stage} reads it.", f"make it again with: {remake_command(path)}"
            )


def read_by(config: Any) -> list[Path]:
    """List the artifacts that a stage reads, the folder of another model that init starts from among them."""
    listed = [value if isinstance(value, tuple) else (value,) for value in input_paths(config).values()]
    model = [Path(config.model)] if isinstance(config, InitConfig) else []
    return [*(path for paths in listed for path in paths), *model]


def stage_of(config: Any) -> str:
    """Name the stage that a config belongs to."""
    return next(name for name, (kind, _) in STAGES.items() if kind is type(config))


def provenance(config: Any, identify: Callable[[Path], str] = artifact_id) -> Provenance:
    """Take the ids of a stage's inputs and its knobs, before the work starts.

    Args:
        identify: gives the id of an input; of several it is called by several threads.
    """
    stage = stage_of(config)
    chosen = _with_sources(knobs(config))
    artifacts = {name: value for name, value in input_paths(config).items() if isinstance(value, tuple) or not names_code(value)}
    inputs = {name: _ids(value, identify) for name, value in artifacts.items()}
    if isinstance(config, MergeConfig) and config.state:
        # Checkpoints whose sums are in the state count as merged, also where they are gone.
        held = read_state(config.state)
        known = held.checkpoints if held else []
        inputs["checkpoints"] = [*known, *(identity for identity in inputs.get("checkpoints", []) if identity not in known)]
    if isinstance(config, InitConfig) and Path(config.model).is_dir():
        # A folder counts by its content: its path must not decide the id.
        inputs["model"], chosen["model"] = artifact_id(Path(config.model)), "folder"
    return Provenance(stage=stage, kind=_kind(config, stage), config=chosen, inputs=inputs)


def _with_sources(chosen: dict[str, Any]) -> dict[str, Any]:
    """Name the user's own code by its file and the sha256 of its text, not by where it lies."""
    outside = {option: load(kind, chosen[option]) for option, kind in OUTSIDE.items() if is_outside(str(chosen.get(option)))}
    return chosen | {option: f"{plugin.name} sha256:{plugin.sha256}" for option, plugin in outside.items()}


def _kind(config: Any, stage: str) -> str:
    if isinstance(config, DistillConfig):
        return find_mode(config.mode).writes
    return KINDS.get(stage, "checkpoint")


def _ids(value: Path | tuple[Path, ...], identify: Callable[[Path], str]) -> Any:
    if not isinstance(value, tuple):
        return identify(value)
    with ThreadPoolExecutor() as pool:
        return list(pool.map(identify, value))


def done(draft: Draft) -> Result:
    """Return what a finished draft became."""
    if draft.result is None:
        raise ValueError("the artifact is not finished.")
    return draft.result
