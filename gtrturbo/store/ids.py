"""Ids: an artifact's is the hash of its manifest, a foreign model folder's a hash over its files; and seeds made of names."""

import filecmp
import hashlib
import json
from pathlib import Path
from typing import Any

from gtrturbo.errors import GtrTurboError
from gtrturbo.store.hashes import content_hash
from gtrturbo.store.manifest import absent
from gtrturbo.store.names import ADAPTER_CONFIG, MANIFEST, MODEL_CONFIG


def artifact_id(path: Path) -> str:
    """Return the id of an artifact, or of a foreign model folder (a hash over its files).

    Raises:
        GtrTurboError: nothing there, or the stage that should have written it did not finish.
    """
    if (path / MANIFEST).is_file():
        return sha256_file(path / MANIFEST)
    listing = [[file.name, content_hash(file)] for file in _model_files(path)]
    return sha256_of(json.dumps(listing).encode())


def same_artifact(a: Path, b: Path) -> bool:
    """Tell whether two artifacts or foreign model folders have the same id, reading of the latter up to the first difference.

    Raises:
        GtrTurboError: as `artifact_id`.
    """
    foreign = [_model_files(path) for path in (a, b) if not (path / MANIFEST).is_file()]
    if len(foreign) < 2:
        return not foreign and artifact_id(a) == artifact_id(b)
    files, others = foreign
    return [file.name for file in files] == [other.name for other in others] and all(map(_same_bytes, files, others))


def require_there(path: Path) -> None:
    """Refuse a folder that is neither an artifact nor a model, before the work that reads it at some time.

    Raises:
        GtrTurboError: as `artifact_id`.
    """
    if (path / MANIFEST).is_file() or is_model_folder(path):
        return
    if any(path.glob("*.safetensors")):
        raise GtrTurboError(
            f"{path} holds weights and no {MODEL_CONFIG} that says of which model.",
            f"copy it from the model that they were trained from: cp …/{MODEL_CONFIG} {path}",
        )
    below = sorted(file.parent for name in (MODEL_CONFIG, ADAPTER_CONFIG) for file in path.glob(f"*/{name}"))
    if below:
        raise GtrTurboError(f"{path} holds no checkpoint itself.", f"name a folder below that does: {below[0]}")
    raise absent(path)


def _model_files(path: Path) -> list[Path]:
    require_there(path)
    return [file for file in sorted(path.iterdir()) if file.is_file()]


def _same_bytes(a: Path, b: Path) -> bool:
    return a.samefile(b) or filecmp.cmp(a, b, shallow=False)


def is_model_folder(path: Path) -> bool:
    """Tell whether a folder without manifest holds a Hugging Face model or a PEFT adapter."""
    return any((path / name).is_file() for name in (MODEL_CONFIG, ADAPTER_CONFIG))


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def seed_for(*parts: str | int) -> int:
    """Derive a 63-bit seed from names and numbers, the same in every process and on every machine."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big") >> 1


def short(identity: Any) -> str:
    """Abbreviate an id, or a list of ids, to what a person compares."""
    if isinstance(identity, list):
        return "[" + " ".join(short(item) for item in identity) + "]"
    return str(identity)[:6] if identity else "none"
