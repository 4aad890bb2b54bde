"""Where checkpoints come from: follow the chain of input ids back to the one that they were all trained from."""

from collections.abc import Sequence
from pathlib import Path

from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint_files import base_of, is_adapter
from gtrturbo.store.ids import artifact_id
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.names import MANIFEST

TRAINED_BY = "ppo-step"


def on_disk(model: Path) -> Path:
    """Return a checkpoint folder as it is, and fetch a Hugging Face id into the local cache.

    Raises:
        GtrTurboError: there is no such folder, and no such model.
    """
    if model.exists() or len(model.parts) != 2 or model.is_absolute() or "." in model.parts[0]:
        return model
    from huggingface_hub import snapshot_download  # Takes half a second to import.

    try:
        return Path(
            snapshot_download(model.as_posix(), allow_patterns=["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"])
        )
    except (OSError, ValueError) as error:
        raise GtrTurboError(f"{model} is no folder, and cannot be fetched: {error}") from None


def find_base(checkpoints: Sequence[Path]) -> Path:
    """Return the checkpoint that PPO started from: the first in the chain of inputs that no ppo-step made.

    An adapter that gtrturbo did not train names the model under it.
    """
    if not checkpoints:
        raise GtrTurboError("there is nothing to merge: no checkpoints and no --base.", "name checkpoints, or --base CHECKPOINT.")
    known = {artifact_id(path): path for path in _nearby(checkpoints)}
    path = checkpoints[0]
    while True:
        if not (path / MANIFEST).is_file() and is_adapter(path):
            return on_disk(Path(base_of(path)))
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
