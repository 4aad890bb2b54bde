"""How the config of a merge resolves: its recipe is read, and the base that it was not given is found."""

from contextlib import AbstractContextManager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from gtrturbo.config import RELEASE, MergeConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.lineage import find_base, on_disk
from gtrturbo.merging.recipes import read_recipe
from gtrturbo.merging.state import read_state
from gtrturbo.models.checkpoint_files import is_adapter
from gtrturbo.store.artifacts import MANIFEST, same_artifact
from gtrturbo.store.hashes import remembering_hashes

# Methods that need no base: where none is known, a checkpoint lends its layout.
HASHES = "hashes.json"
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


def remembered_hashes(config: MergeConfig) -> AbstractContextManager[None]:
    """Keep the hashes of the files of others in the merge's cache, if it has one."""
    return remembering_hashes(config.cache / HASHES if config.cache else None)


def held_checkpoints(config: MergeConfig) -> dict[str, list[str]]:
    """Name the checkpoints whose sums are in the merge's state: they count as merged, also where they are gone."""
    held = read_state(config.state) if config.state else None
    return {"checkpoints": held.checkpoints} if held else {}
