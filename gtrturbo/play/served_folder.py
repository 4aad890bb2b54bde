"""See in which folder a server says that its weights lie: it has to hold the checkpoint's own, and to have done so as it began.

After a small update a checkpoint's log-probs differ from those of the one before by less than a probe can tell.
"""

import filecmp
from collections.abc import Mapping
from pathlib import Path

from gtrturbo.distributed.escapes import shell_word
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint_files import is_adapter
from gtrturbo.models.under_adapter import base_here
from gtrturbo.play.server import Server
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.names import ADAPTER_WEIGHTS, MANIFEST
from gtrturbo.store.weight_files import weights_of


def require_own_folder(server: Server, path: Path) -> bool:
    """Refuse a server that loaded other weights than a checkpoint's, or its adapter on another model.

    Returns: whether it is seen that it loaded the right ones, or does not matter: of an adapter, loaded by its path, on a
        model that no stage trained, and before any training.

    Raises:
        GtrTurboError: names the folder that it loaded.
    """
    roots, adapter = server.roots(), is_adapter(path)
    base = base_here(path) if adapter else None
    seen = _require(server, roots, server.name, path)
    if not adapter:
        return seen or not _is_trained(path)
    return base is None or _require(server, roots, server.model, base) or not _is_trained(base)


def _require(server: Server, roots: Mapping[str, str | None], name: str, path: Path) -> bool:
    root = roots.get(name)
    if root is None or not Path(root).is_dir():
        return False
    if not same_weights(Path(root), path):
        raise GtrTurboError(
            f"{server.base_url} serves {root} as {name}, whose weights are not those of {path}.",
            _mend(roots, path),
        )
    return _is_as_it_was(Path(root), server.started())


def _mend(roots: Mapping[str, str | None], path: Path) -> str:
    """Say what helps: to ask for another of its models that is the right one, or to start it otherwise."""
    for name, root in roots.items():
        if root is not None and Path(root).is_dir() and _holds(Path(root), path):
            return f"it serves {path} as {name}: add --served-model {shell_word(name)}"
    return f"serve that checkpoint: start vLLM with --model {path.resolve()}"


def _holds(folder: Path, path: Path) -> bool:
    """Tell whether any folder, which may be no model's, holds a checkpoint's weights."""
    try:
        return same_weights(folder, path)
    except GtrTurboError:
        return False


def _is_as_it_was(folder: Path, began: float | None) -> bool:
    """Tell whether nothing of a folder's weights, nor a link on the way to them, was changed since a server began, which may have
    loaded what was there before; not where nobody says when that was. Times of files are of the last change, as of their name.
    """
    if began is None:
        return False
    links = [part for part in (folder, *folder.parents) if part.is_symlink()]
    files = [folder / name for name in _weights(folder)]
    times = [each.lstat().st_ctime for each in links + files] + [each.stat().st_ctime for each in (folder, *files)]
    return max(times) < began


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
