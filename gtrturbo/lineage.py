"""Where checkpoints come from: follow the chain of input ids back to the one that they were all trained from."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gtrturbo.artifacts import MANIFEST, artifact_id, read_manifest
from gtrturbo.config import MergeConfig
from gtrturbo.errors import GtrTurboError

TRAINED_BY = "ppo-step"


def with_base(config: MergeConfig) -> MergeConfig:
    """Fill in the base that a merge was not given, and take it out of the list of checkpoints (`ckpts/*` contains it).

    Raises:
        GtrTurboError: the chain leads to a checkpoint that lies neither in the list nor beside it.
    """
    base = config.base or find_base(config.checkpoints)
    identity = artifact_id(base)
    others = tuple(path for path in config.checkpoints if artifact_id(path) != identity)
    return replace(config, base=base, checkpoints=others)


def find_base(checkpoints: Sequence[Path]) -> Path:
    """Return the checkpoint that PPO started from: the first in the chain of inputs that no ppo-step made."""
    if not checkpoints:
        raise GtrTurboError("there is nothing to merge: no checkpoints and no --base.", "name checkpoints, or --base CHECKPOINT.")
    known = {artifact_id(path): path for path in _nearby(checkpoints)}
    path = checkpoints[0]
    while True:
        if not (path / MANIFEST).is_file():
            raise GtrTurboError(f"{path} does not name the checkpoint that it was trained from.", "give it with --base.")
        manifest = read_manifest(path, "checkpoint")
        if manifest.stage != TRAINED_BY:
            return path
        parent = known.get(manifest.inputs["checkpoint"])
        if parent is None:
            raise GtrTurboError(
                f"{path} was trained from checkpoint {manifest.inputs['checkpoint'][:6]}, which is not beside it.",
                "give the checkpoint that PPO started from with --base.",
            )
        path = parent


def _nearby(checkpoints: Sequence[Path]) -> list[Path]:
    folders = {path.parent for path in checkpoints}
    beside = [path for folder in sorted(folders) for path in sorted(folder.iterdir()) if (path / MANIFEST).is_file()]
    return [*checkpoints, *beside]
