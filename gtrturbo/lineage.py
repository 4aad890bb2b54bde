"""Where checkpoints come from: follow the chain of input ids back to the one that they were all trained from."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from gtrturbo.artifacts import MANIFEST, artifact_id, read_manifest, same_artifact
from gtrturbo.config import RELEASE, MergeConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.folders import base_of, is_adapter
from gtrturbo.recipe import read_recipe

TRAINED_BY = "ppo-step"
# Methods that need no base: where none is known, a checkpoint lends its layout.
BASELESS = ("linear", "slerp", "nuslerp", "multislerp")


def with_base(config: MergeConfig) -> MergeConfig:
    """Read the recipe, fill in the base that a merge was not given, and take it out of the list (`ckpts/*` contains it).

    With `--compat release` the first of the list is all that counts: the published code's teacher is never merged again.
    The list stays as it is where it means just what it says: in a recipe, for SLERP, which goes from one listed checkpoint to
    another, and where no base is known and the first only lends its layout.

    Raises:
        GtrTurboError: the chain leads to a checkpoint that lies neither in the list nor beside it.
    """
    if config.recipe:
        named = _unless_given(config, read_recipe(config.recipe))
        config = replace(config, recipe=None, **named)
        config = replace(config, checkpoints=tuple(map(on_disk, config.checkpoints)))
        return replace(config, base=on_disk(config.base) if config.base else _base_of(config))
    base = on_disk(config.base) if config.base else _base_of(config)
    if config.method == "slerp" or (config.base is None and not _has_base(config)):
        return replace(config, base=base)
    kept = tuple(path for path in config.checkpoints if not same_artifact(path, base))
    return replace(config, base=base, checkpoints=kept[:1] if config.compat == RELEASE else kept)


def borrows_layout(config: MergeConfig) -> bool:
    """Tell whether the base only lends its layout: it is one of the checkpoints that are merged."""
    return config.base in config.checkpoints


def state_settings(config: MergeConfig) -> dict[str, str]:
    """What the running sums of --state depend on.

    Raises:
        GtrTurboError: the merge is one that running sums do not stand for.
    """
    kept = config.weights == "sma" or config.weights.startswith("ema:")
    if config.method != "ties" or not kept or config.sign != "total" or config.normalize is False or "," in str(config.density):
        raise GtrTurboError(
            "--state keeps running sums of ties with weights sma or ema:ALPHA, sign total and one density.", "leave out --state."
        )
    if config.rank or config.adapter_space == "factors":
        raise GtrTurboError("--state writes full weights.", "leave out --rank and --adapter-space, or --state.")
    chosen = {"weights": config.weights, "density": str(config.density)}
    return chosen | {"only": ",".join(config.only), "exclude": ",".join(config.exclude)}


def _unless_given(config: MergeConfig, recipe: dict[str, Any]) -> dict[str, Any]:
    """Refuse an option that is given beside a recipe which sets it."""
    for field in fields(config):
        if field.name in recipe and getattr(config, field.name) != field.default:
            name = "checkpoints" if field.name == "checkpoints" else f"--{field.name}"
            raise GtrTurboError(f"the recipe sets {name}, and so does the command line.", f"leave out {name}.")
    return recipe


def _base_of(config: MergeConfig) -> Path:
    full = [path for path in config.checkpoints if not is_adapter(path)]
    if config.method in BASELESS and full and not _has_base(config):
        return full[0]
    return find_base(config.checkpoints)


def _has_base(config: MergeConfig) -> bool:
    return all((path / MANIFEST).is_file() for path in config.checkpoints)


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
