"""The model under an adapter: what the adapter names, and where that lies on this machine, whatever the working directory."""

from pathlib import Path

from gtrturbo.distributed.escapes import shell_word
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint_files import adapter_config, is_adapter, path_from
from gtrturbo.models.hub_names import cached_folder, could_be_id, snapshots_of
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.names import ADAPTER_CONFIG, ADAPTER_WEIGHTS, BASE_FOLDER, GENERATION_CONFIG, MANIFEST, MODEL_CONFIG
from gtrturbo.store.verification import hashes_of
from gtrturbo.store.weight_files import WEIGHTS_IN_PICKLES, WeightFiles, weights_of


def named_base(path: Path) -> str | None:
    """Name the model under an adapter: a folder as seen from here, or a hub id.

    A relative folder is counted from the adapter's own; what could be an id is a folder only where one is there.

    Returns: None where the adapter says nothing, as PEFT does of models made in memory.
    """
    named = _named(path)
    folder = None if named is None else _folder(path, named)
    return str(folder) if folder else named


def base_of(path: Path) -> str:
    """Name the folder that the model under an adapter is loaded from.

    Raises:
        GtrTurboError: the adapter names none, or it is not on this machine.
    """
    require_named(path)
    here = base_here(path)
    if here is None:
        raise _absent(path)
    return str(here)


def base_here(path: Path) -> Path | None:
    """Find the folder of the model under an adapter; None where it, or its weights, are not on this machine.

    Of an id it is the revision that the adapter names; where several are here, the one that its manifest recorded.
    """
    named = _named(path)
    if named is None:
        return None
    if folder := _folder(path, named):
        return folder if folder.is_dir() else None
    asked = cached_folder(named, revision_of(path))
    asked = asked if asked and _has_weights(asked) else None
    others = [each for each in snapshots_of(named) if each != asked]
    recorded = recorded_base(path)
    if recorded and others:
        return next((each for each in (asked, *others) if each and _is_recorded(each, recorded)), asked)
    return asked


def base_to_fetch(path: Path) -> str:
    """Name the model under an adapter for who may fetch it: its folder, else its id, with its revision as ID@REVISION.

    Raises:
        GtrTurboError: the adapter names none, or a folder that is not there.
    """
    named, here, revision = require_named(path), base_here(path), revision_of(path)
    if here is not None:
        return str(here)
    if not is_of_hub(path) or Path(named).exists():  # A folder here of an id's name is another model.
        raise _absent(path)
    return f"{named}@{revision}" if revision else named


def require_named(path: Path) -> str:
    """Name the model under an adapter as `named_base`.

    Raises:
        GtrTurboError: the adapter names none.
    """
    named = named_base(path)
    if named is None:
        raise GtrTurboError(
            f"{path / ADAPTER_CONFIG} does not name the model that it adapts.",
            "write it there as base_model_name_or_path: a folder or a Hugging Face id.",
        )
    return named


def is_of_hub(path: Path) -> bool:
    """Tell whether the model under an adapter is named by an id of the hub, and by no folder."""
    named = _named(path)
    return named is not None and _folder(path, named) is None


def revision_of(path: Path) -> str | None:
    """Name the revision of the model under an adapter, if the adapter does."""
    revision = adapter_config(path).get("revision")
    return revision if isinstance(revision, str) and revision else None


def recorded_base(path: Path) -> dict[str, str]:
    """Read the hashes of the model under an adapter that its manifest recorded; none of what is no adapter or has no manifest."""
    return read_manifest(path).base if is_adapter(path) and (path / MANIFEST).is_file() else {}


def taken_of(base: Path) -> list[str]:
    """Name the files of a model that a loader takes: configs and weights, or an adapter. Others beside them do not count."""
    configs = [name for name in (MODEL_CONFIG, GENERATION_CONFIG) if (base / name).is_file()]
    weights = chosen_weights(base)
    found = [*([weights.index] if weights.index else []), *weights.files] if weights else []
    return [*configs, *found, *([ADAPTER_CONFIG, ADAPTER_WEIGHTS] if is_adapter(base) else [])]


def chosen_weights(base: Path) -> WeightFiles | None:
    """Choose the files of weights as transformers does; None where there are none, which whoever loads them says."""
    try:
        return weights_of(base)
    except GtrTurboError:
        return None


def bases_under(path: Path) -> list[tuple[Path, str]]:
    """List the artifacts that the model under an adapter lies in, each with how the names of its files there begin."""
    base = base_here(path) if is_adapter(path) else None
    if base is None or base.parent == path:
        return []  # None, or its own.
    if (base / MANIFEST).is_file():
        return [(base, ""), *bases_under(base)]
    inside = base.name == BASE_FOLDER and (base.parent / MANIFEST).is_file()
    return [(base.parent, f"{BASE_FOLDER}/")] if inside else []


def rebased(source: Path, out: Path) -> str:
    """Say where an adapter's base is as seen from `out`; hub ids, and full paths of what is not here, stay as they are."""
    base = Path(require_named(source))
    if is_of_hub(source) or (base.is_absolute() and not base.is_dir()):
        return str(base)
    return path_from(out, base)


def require_base(draft: Path, out: Path) -> None:
    """Refuse an adapter that was written and would not be loaded: its base is not where it says, as seen from its folder.

    Args:
        draft: where it was written, beside `out`.
        out: where it is to lie.

    Raises:
        GtrTurboError: names the base.
    """
    if is_adapter(draft) and named_base(draft) and not is_of_hub(draft) and base_here(draft) is None:
        named = adapter_config(draft)["base_model_name_or_path"]
        raise GtrTurboError(
            f"the adapter {out} would be on the model in {named}, which is not there as seen from {out}.",
            "name --out, and the model, by paths without links.",
        )


def full_weights_command(adapter: Path, base: str) -> str:
    """Write the command that gives the full weights of an adapter on a base."""
    return f"gtrturbo merge --method linear --base {base} --out FULL {shell_word(str(adapter))}"


def _named(path: Path) -> str | None:
    named = adapter_config(path).get("base_model_name_or_path")
    return None if not isinstance(named, str) or not named.strip() or "\0" in named else named


def _folder(path: Path, named: str) -> Path | None:
    """Return the folder that an adapter means, there or not; None where it means an id."""
    beside = path / named
    return beside if beside.is_dir() or not could_be_id(Path(named)) else None


def _has_weights(folder: Path) -> bool:
    """Tell whether a download holds what its model is loaded from; files of other kinds are refused, by name, by who loads it."""
    weights = chosen_weights(folder)
    if weights is None:
        return is_adapter(folder) or any(WEIGHTS_IN_PICKLES.match(file.name) for file in folder.iterdir())
    return all((folder / name).is_file() for name in weights.files)


def _is_recorded(folder: Path, recorded: dict[str, str]) -> bool:
    names = taken_of(folder)
    if not _has_weights(folder) or not recorded.keys() >= set(names):
        return False
    return all(recorded[name] == sha256 for name, sha256 in hashes_of(folder, names).items())


def _absent(path: Path) -> GtrTurboError:
    named, revision = require_named(path), revision_of(path)
    if not is_of_hub(path):
        return GtrTurboError(
            f"the adapter {path} is on the model in {named}, which is not there.",
            f"bring that model there, or merge the adapter into it where it lies: {full_weights_command(path, 'BASE')}",
        )
    at = f" --revision {shell_word(revision)}" if revision else ""
    return GtrTurboError(
        f"the adapter {path} is on the model {named}{f' at {revision}' if revision else ''}, which is not on this machine.",
        f"fetch it: hf download {shell_word(named)}{at}; or merge the adapter into a copy: {full_weights_command(path, 'BASE')}",
    )
