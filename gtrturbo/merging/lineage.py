"""Where checkpoints come from: follow the chain of input ids back to the one that they were all trained from."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from gtrturbo.errors import GtrTurboError, said_by
from gtrturbo.models.base_record import model_under
from gtrturbo.models.checkpoint_files import is_adapter
from gtrturbo.models.hub_names import could_be_id
from gtrturbo.models.quantised import quantisation_of
from gtrturbo.models.under_adapter import base_to_fetch, named_base
from gtrturbo.store.ids import artifact_id, same_artifact
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.names import MANIFEST
from gtrturbo.store.open_files import same_bytes
from gtrturbo.store.safetensors_files import read_layout

TRAINED_BY = "ppo-step"
MADE_OF = {TRAINED_BY: "checkpoint", "sft": "checkpoint", "merge": "base"}  # By stage, the input that a checkpoint comes from.

# Of a model on the hub, what merge neither reads nor copies.
NOT_FETCHED = ["*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.h5", "*.msgpack", "*.onnx*", "*.pkl", "consolidated*.safetensors"]


def on_disk(named: Path) -> Path:
    """Return a checkpoint folder as it is, and fetch a Hugging Face id, or its revision as ID@REVISION, into the local cache.

    Raises:
        GtrTurboError: there is no such folder, and no such model.
    """
    name, _, revision = named.as_posix().partition("@")
    model = Path(name)
    if named.exists() or not name:
        return named
    if revision and model.exists():
        raise GtrTurboError(
            f"{named} is not there, and {name} is a folder, which has no revisions.", "name the folder, or an id of the hub."
        )
    if not could_be_id(model):
        return named
    if odd := set("*?[") & set(str(model)):
        raise GtrTurboError(
            f"nothing is there that {model} stands for: the shell left its {min(odd)} as it is.",
            "check the names of the folders.",
        )
    if len(model.parts) == 1:  # As old ids are, and as folders are that are spelt wrongly.
        return found_here(name, revision or None) or named
    from huggingface_hub import snapshot_download  # Takes half a second to import.
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(snapshot_download(name, revision=revision or None, ignore_patterns=NOT_FETCHED))
    except (OSError, ValueError) as error:
        absent = isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled)
        why = "it was not fetched before, and the hub is not reached." if absent else said_by(error)
        raise GtrTurboError(
            f"{named} is no folder, and cannot be fetched: {why}", "name a folder, or a model that can be reached."
        ) from None


def found_here(model: str, revision: str | None = None) -> Path | None:
    """Return the folder of a model that is on this machine: by path, or in the local cache by id; None where it is not."""
    path = Path(model)
    if path.is_dir():
        return path
    if not could_be_id(path):
        return None
    from huggingface_hub import snapshot_download  # As above.

    try:
        return Path(snapshot_download(path.as_posix(), revision=revision, local_files_only=True))
    except (OSError, ValueError):
        return None


def find_base(checkpoints: Sequence[Path]) -> Path:
    """Return the checkpoint that all were trained from: where the manifests of each lead, or the model that adapters name.

    Raises:
        GtrTurboError: one does not say it, or they were trained from several.
    """
    if not checkpoints:
        raise GtrTurboError("there is nothing to merge: no checkpoints and no --base.", "name checkpoints, or --base CHECKPOINT.")
    starts = _starts(checkpoints)
    first = starts[0]
    for path, start in zip(checkpoints, starts, strict=True):
        if start is None:
            raise _unknown(path)
        if first and not same_model(start, first):
            raise GtrTurboError(
                f"{checkpoints[0]} was trained from {first}, and {path} from {start}.",
                "give the base to merge around with --base.",
            )
    return on_disk(Path(str(first)))


def has_base(checkpoints: Sequence[Path]) -> bool:
    """Tell whether all are artifacts whose manifests lead to one base."""
    if not all((path / MANIFEST).is_file() for path in checkpoints):
        return False
    first, *others = _starts(checkpoints)
    return first is not None and all(start is not None and same_model(start, first) for start in others)


def _starts(checkpoints: Sequence[Path]) -> list[str | None]:
    """Say of each what it was trained from, None where that is not told."""
    known = {artifact_id(path): path for path in _nearby(checkpoints)}
    trained = [path for path in checkpoints if _made_by(path) == TRAINED_BY]
    begun = {_before_ppo(path, known) for path in trained}
    return [_start(path, known, begun) for path in checkpoints]


def _start(path: Path, known: Mapping[str, Path], begun: Collection[Path]) -> str | None:
    """What one was trained from: itself, if PPO `begun` there or nothing was before it."""
    stage = _made_by(path)
    if stage == TRAINED_BY:
        return str(_before_ppo(path, known))
    if stage is not None and (stage not in MADE_OF or known[artifact_id(path)] in begun):
        return str(known[artifact_id(path)])
    before = known.get(_before(path)) if stage else None
    if before is not None:
        return _start(before, known, begun) or str(before)
    return base_to_fetch(path) if is_adapter(path) and named_base(path) else None


def _before_ppo(path: Path, known: Mapping[str, Path]) -> Path:
    """The first in the chain of inputs that no ppo-step made."""
    while _made_by(path) == TRAINED_BY:
        before = known.get(_before(path))
        if before is None:
            raise _unknown(path)
        path = before
    return path


def _made_by(path: Path) -> str | None:
    return read_manifest(path, "checkpoint").stage if (path / MANIFEST).is_file() else None


def _before(path: Path) -> str:
    manifest = read_manifest(path)
    return str(manifest.inputs[MADE_OF[manifest.stage]])


def _unknown(path: Path) -> GtrTurboError:
    if _made_by(path) is None:
        return GtrTurboError(f"{path} does not name the checkpoint that it was trained from.", "give it with --base.")
    return GtrTurboError(
        f"{path} was trained from checkpoint {_before(path)[:6]}, which is not beside it.",
        "give the checkpoint that training started from with --base.",
    )


def same_model(a: str, b: str) -> bool:
    """Tell whether two names are of one model: the same name, the same folder, or folders with the same weights."""
    if a == b:
        return True
    here, there = found_here(a), found_here(b)
    if here is None or there is None:
        return False
    return here.samefile(there) or _same_weights(here, there)


def _same_weights(a: Path, b: Path) -> bool:
    if any(is_adapter(path) or quantisation_of(path) for path in (a, b)):
        return same_artifact(a, b) and model_under(a) == model_under(b)
    ours, theirs = read_layout(a).entries, read_layout(b).entries
    return ours.keys() == theirs.keys() and all(same_bytes(entry, theirs[name]) for name, entry in ours.items())


def _nearby(checkpoints: Sequence[Path]) -> list[Path]:
    """The artifacts beside checkpoints, and last those among them, as the user names them."""
    folders = {path.parent for path in checkpoints}
    beside = [path for folder in sorted(folders) for path in sorted(folder.iterdir())]
    return [path for path in (*beside, *checkpoints) if (path / MANIFEST).is_file()]
