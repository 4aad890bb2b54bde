"""The model under an adapter, held against what it was when the adapter was made: the adapter's manifest has its files' hashes.

Recorded is a model outside the adapter's own folder, by what is read of it: the weights that a loader takes, and configs.
Tokenizer and chat template are the adapter's own; those of the model count where it has none.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from gtrturbo.config.choices import VerifyInputs
from gtrturbo.distributed.escapes import shell_word
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint_files import is_adapter
from gtrturbo.models.descriptions import VOCABULARY, renderer_files
from gtrturbo.models.under_adapter import base_here, chosen_weights, full_weights_command, named_base, recorded_base, taken_of
from gtrturbo.store.ids import sha256_of, short
from gtrturbo.store.manifest import Manifest
from gtrturbo.store.names import (
    ADAPTER_CONFIG,
    BASE_FOLDER,
    GENERATION_CONFIG,
    MANIFEST,
    MODEL_CONFIG,
    MODEL_INDEX,
    MODEL_WEIGHTS,
    RENDERER_FILES,
)
from gtrturbo.store.provenance import UNDER
from gtrturbo.store.verification import changed_files, hashes_of


def base_record(folder: Path, source: Path | None = None) -> dict[str, str]:
    """Hash the model under an adapter, file by file; what the adapter's source recorded of it stays as it is.

    Args:
        folder: of the adapter, which may be a draft.
        source: the adapter that it was trained or copied from.

    Returns: sha256 by the file's name; nothing where the base lies inside the folder, or not on this machine.
    """
    if recorded := recorded_base(source) if source else {}:
        return recorded
    base = base_here(folder) if is_adapter(folder) else None
    if base is None or base.parent == folder:
        return {}
    return hashes_of(base, _there(folder, base))


def model_under(path: Path, besides: Collection[Path] = ()) -> str | None:
    """Hash the model under an adapter of which no manifest says what it is: all that is read of it counts.

    Args:
        path: of an adapter, or of anything else.
        besides: folders that are known otherwise.

    Returns: sha256 over names and hashes of the files; None where a manifest names them, or nothing of it is on this machine.
    """
    files = dict(_files_under(path, [folder.resolve() for folder in (path, *besides)]))
    return sha256_of(json.dumps(files, sort_keys=True).encode()) if files else None


def _files_under(path: Path, known: list[Path], depth: str = "") -> Iterator[tuple[str, str]]:
    """Yield the files under an adapter, and under that where it is an adapter, too: each with its hash."""
    if not is_adapter(path) or recorded_base(path):
        return
    base = base_here(path)
    own = base is not None and base.parent == path and (path / MANIFEST).is_file()
    if base is None or own or base.resolve() in known:
        return
    depth += f"{BASE_FOLDER}/"
    yield from ((depth + name, sha256) for name, sha256 in hashes_of(base, _there(path, base)).items())
    yield from _files_under(base, [*known, base.resolve()], depth)


def is_on_another(made: Manifest, role: str, adapter: Path) -> bool:
    """Tell whether an artifact was made with another model under an adapter than is there now, as far as both are known.

    Args:
        made: its manifest.
        role: of the adapter among its inputs.
    """
    was, now = made.inputs.get(f"{UNDER}{role}"), model_under(adapter)
    return None not in (was, now) and was != now


def require_same_base(adapter: Path, how: VerifyInputs) -> None:
    """Refuse an adapter whose base is another than the one that it was made on, or whose base's base is.

    Raises:
        GtrTurboError: names the first file that differs.
    """
    recorded = recorded_base(adapter)
    base = base_here(adapter) if recorded else None
    if base is None:
        return  # Nothing is known of it, or it is not here, which whoever loads it says.
    for name, was, now in differences(adapter, base, how):
        raise _differs(adapter, base, recorded, name, was, now)
    if is_adapter(base):
        require_same_base(base, how)


def differences(adapter: Path, base: Path, how: VerifyInputs) -> Iterator[tuple[str, str | None, str | None]]:
    """Yield what differs from an adapter's record: the base's file, its hash then and now; None where it was or is not there.

    Of the record counts what a loader takes: records of earlier versions name files beside it, too.
    """
    recorded = recorded_base(adapter)
    if not recorded:
        return
    taken = _counted(adapter, base)
    whole = next((name for name in (MODEL_WEIGHTS, MODEL_INDEX) if name in recorded), None)
    own = [] if _has_renderer(adapter) else [name for name in recorded if name in RENDERER_FILES or VOCABULARY.fullmatch(name)]
    also = (MODEL_CONFIG, GENERATION_CONFIG, ADAPTER_CONFIG, whole, *own)
    taken += [name for name in also if name in recorded and name not in taken]
    new = (name for name in taken if name not in recorded and (base / name).is_file())
    # Of vocabularies earlier versions recorded those alone that are among these files.
    yield from ((name, None, None) for name in new if name in RENDERER_FILES or not VOCABULARY.fullmatch(name))
    counted = {name: recorded[name] for name in taken if name in recorded}
    yield from ((name, recorded[name], now) for name, now in changed_files(base, counted, how))


def _counted(adapter: Path, base: Path) -> list[str]:
    """Name what is read of a base: what a loader takes, and its tokenizer where the adapter's folder holds none."""
    return taken_of(base) + ([] if _has_renderer(adapter) else renderer_files(base))


def _there(adapter: Path, base: Path) -> list[str]:
    return [name for name in _counted(adapter, base) if (base / name).is_file()]


def _has_renderer(adapter: Path) -> bool:
    return bool(renderer_files(adapter))


def _differs(
    adapter: Path, base: Path, recorded: Mapping[str, str], name: str, was: str | None, now: str | None
) -> GtrTurboError:
    weights = chosen_weights(base)
    if weights and not recorded.keys() & {weights.index or weights.files[0]}:
        before = next((each for each in recorded if each.endswith((MODEL_WEIGHTS, MODEL_INDEX))), "none")
        return GtrTurboError(
            f"{base} holds its weights in {weights.index or weights.files[0]}, and held them in {before} when the adapter "
            f"{adapter} was made on it: whether they are the same cannot be told.",
            f"bring back {before}; or, if they are, move them to another FOLDER and merge the adapter into them there: "
            f"{full_weights_command(adapter, 'FOLDER')}",
        )
    when = f"when the adapter {adapter} was made on it"
    if was and now:
        told = f"{base / name} is not what it was ({short(now)}, not {short(was)}) {when}."
    else:
        told = f"{base / name} was there {when}, and is missing now." if was else f"{base / name} was not there {when}."
    anew = f"gtrturbo init --model {shell_word(str(named_base(adapter)))} …"
    return GtrTurboError(told, f"bring it back as it was, or make the adapter anew: {anew}")
