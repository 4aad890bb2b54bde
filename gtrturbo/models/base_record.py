"""The model under an adapter, held against what it was when the adapter was made: the adapter's manifest has its files' hashes.

Recorded is a model outside the adapter's own folder, by what any reader takes of it: weights, configs, tokenizer, chat template.
"""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from gtrturbo.config.choices import VerifyInputs
from gtrturbo.distributed.escapes import shell_word
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint_files import adapter_config, is_adapter, named_base
from gtrturbo.models.hub_names import folder_of
from gtrturbo.store.ids import short
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.names import ADAPTER_CONFIG, GENERATION_CONFIG, MANIFEST, MODEL_CONFIG, RENDERER_FILES
from gtrturbo.store.verification import changed_files, hashes_of
from gtrturbo.store.weight_files import INDEXES, OTHERS, WEIGHTS_IN_PICKLES

READ = (MODEL_CONFIG, GENERATION_CONFIG, ADAPTER_CONFIG, *RENDERER_FILES)
WEIGHT_FILES = ("*.safetensors", f"*{INDEXES}")


def base_record(folder: Path, source: Path | None = None) -> dict[str, str]:
    """Hash the model under an adapter, file by file; what the adapter's source recorded of it stays as it is.

    Args:
        folder: of the adapter, which may be a draft.
        source: the adapter that it was trained or copied from.

    Returns: sha256 by the file's name; nothing where the base lies inside the folder, or not on this machine.
    """
    if recorded := _recorded(source) if source else {}:
        return recorded
    base = base_folder(folder) if is_adapter(folder) else None
    return {} if base is None or base.parent == folder else hashes_of(base, _read_of(base))


def base_folder(adapter: Path) -> Path | None:
    """Find the folder of the model under an adapter, that of a hub id in the local cache; None where it is not here."""
    named = named_base(adapter)
    return folder_of(named, adapter_config(adapter).get("revision")) if named is not None else None


def require_same_base(adapter: Path, how: VerifyInputs) -> None:
    """Refuse an adapter whose base is another than the one that it was made on, or whose base's base is.

    Raises:
        GtrTurboError: names the first file that differs.
    """
    base = base_folder(adapter) if _recorded(adapter) else None
    if base is None:
        return  # Nothing is known of it, or it is not here, which whoever loads it says.
    for name, was, now in differences(adapter, base, how):
        what = f"is not what it was ({short(now)}, not {short(was)})" if was and now else "is missing" if was else "was not there"
        raise GtrTurboError(
            f"{base / name} {what} when the adapter {adapter} was made on it.",
            f"bring it back as it was, or make the adapter anew: gtrturbo init --model {shell_word(str(named_base(adapter)))} …",
        )
    if is_adapter(base):
        require_same_base(base, how)


def differences(adapter: Path, base: Path, how: VerifyInputs) -> Iterator[tuple[str, str | None, str | None]]:
    """Yield what differs from an adapter's record: the base's file, its hash then and its hash now; None where it is not."""
    recorded = _recorded(adapter)
    if recorded:
        yield from ((name, None, None) for name in _read_of(base) if name not in recorded)
    yield from ((name, recorded[name], now) for name, now in changed_files(base, recorded, how))


def _recorded(adapter: Path) -> dict[str, str]:
    return read_manifest(adapter).base if is_adapter(adapter) and (adapter / MANIFEST).is_file() else {}


def _read_of(base: Path) -> list[str]:
    """Name what there is of a model that somebody reads."""
    names = sorted(file.name for file in base.iterdir() if file.is_file() and not file.name.startswith((".", *OTHERS[1:])))
    return [name for name in names if name in READ or _holds_weights(name)]


def _holds_weights(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in WEIGHT_FILES) or bool(WEIGHTS_IN_PICKLES.match(name))
