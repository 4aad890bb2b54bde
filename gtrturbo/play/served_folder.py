"""See in which folder a server says that its weights lie: it has to hold the checkpoint's own.

After a small update a checkpoint's log-probs differ from those of the one before by less than a probe can tell.
"""

import filecmp
from collections.abc import Mapping
from pathlib import Path

from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint_files import base_of, is_adapter
from gtrturbo.play.server import Server
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.names import ADAPTER_WEIGHTS, MANIFEST
from gtrturbo.store.weight_files import weights_of


def require_own_folder(server: Server, path: Path) -> bool:
    """Refuse a server that loaded other weights than a checkpoint's, or its adapter on another model.

    Returns: whether that could be seen, or does not matter: of an adapter, which is loaded by its path, and before any training.

    Raises:
        GtrTurboError: names the folder that it loaded.
    """
    roots, adapter = server.roots(), is_adapter(path)
    base = base_of(path) if adapter else ""
    compared = _require(server, roots, server.name, path)
    if adapter and Path(base).is_dir():
        _require(server, roots, server.model, Path(base))
    return compared or adapter or not _is_trained(path)


def _require(server: Server, roots: Mapping[str, str | None], name: str, path: Path) -> bool:
    root = roots.get(name)
    if root is None or not Path(root).is_dir():
        return False
    if not same_weights(Path(root), path):
        raise GtrTurboError(
            f"{server.base_url} serves {root} as {name}, whose weights are not those of {path}.",
            f"serve that checkpoint: start vLLM with --model {path.resolve()}",
        )
    return True


def same_weights(a: Path, b: Path) -> bool:
    """Tell whether two model folders hold the same weights in the same files; where manifests name their hashes, by these."""
    if a.samefile(b):
        return True
    names = _weights(a)
    return names == _weights(b) and all(_is_same(a, b, name) for name in names)


def _weights(folder: Path) -> tuple[str, ...]:
    return (ADAPTER_WEIGHTS,) if is_adapter(folder) else weights_of(folder).files


def _is_same(a: Path, b: Path, name: str) -> bool:
    if all((folder / MANIFEST).is_file() for folder in (a, b)):
        return read_manifest(a).files.get(name) == read_manifest(b).files.get(name)
    return filecmp.cmp(a / name, b / name, shallow=False)


def _is_trained(path: Path) -> bool:
    return (path / MANIFEST).is_file() and "checkpoint" in read_manifest(path).inputs
