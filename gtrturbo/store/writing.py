"""Artifacts: directories that are written whole or not at all, named by the hash of their manifest.

`stage.json` is written last, inside a hidden sibling that is then renamed, so a directory with a manifest is complete.
The id of an artifact is the sha256 of its `stage.json`, which holds the ids of its inputs and the hashes of its files: a chain.
"""

import errno
import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gtrturbo.distributed.processes import group
from gtrturbo.errors import FULL, GtrTurboError, naming
from gtrturbo.store.claims import claimed_anew, partial, put_in_place, require_outside_artifacts
from gtrturbo.store.draft import Draft, Result, seal
from gtrturbo.store.ids import artifact_id
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.names import MANIFEST
from gtrturbo.store.provenance import Provenance, difference
from gtrturbo.store.resume_log import remove_left
from gtrturbo.store.seen import remember

SHARD = ".shard-"


def finished(out: Path, provenance: Provenance) -> Result | None:
    """Return the artifact at `out` if exactly this work made it, None if nothing is there; its resume log has served its time.

    Raises:
        GtrTurboError: something else is there; names the first difference.
    """
    if not os.path.lexists(out):
        return None
    if not (out / MANIFEST).is_file():
        raise _foreign(out)
    manifest = read_manifest(out)
    if found := difference(manifest, provenance):
        raise GtrTurboError(f"{out} exists and was made {found}.", "choose another --out, or add --overwrite.")
    remove_left(out)
    return Result(out=out, id=artifact_id(out), metrics=manifest.metrics)


def _foreign(out: Path) -> GtrTurboError:
    return GtrTurboError(f"{out} exists and is no artifact of gtrturbo.", "choose another --out.")


@contextmanager
def writing(out: Path, provenance: Provenance | Callable[[], Provenance], *, overwrite: bool = False) -> Iterator[Draft]:
    """Write an artifact whole or not at all: yields a draft; when the block ends the manifest is added and the folder renamed.

    Where the provenance takes long to find out, a function may wait for it: it is called when the block ends.

    Where several processes write it together (`processes.group`), the first claims, seals and renames. The draft of each other
    one has a folder of its own, which goes away; `Draft.shards` names all of them, so that the first can join their parts.

    Raises:
        GtrTurboError: `out` exists without `overwrite`, is no artifact, or another process is writing it.
        OSError: with a path also where the disk is full.
    """
    if not group().world.first:
        with _assisting(out) as draft:
            yield draft
        return
    _require_free(out, overwrite=overwrite)
    busy = GtrTurboError(f"{out} is being written by another process.", "wait for it, or choose another --out.")
    with naming(out, FULL), claimed_anew(out, busy) as folder:
        _require_free(out, overwrite=overwrite)  # Another writer may have finished since.
        draft = Draft(folder=folder, shards=[folder / f"{SHARD}{rank}" for rank in range(1, group().world.size)])
        started = time.monotonic()
        for shard in draft.shards:
            shard.mkdir()
        group().barrier()
        yield draft
        group().barrier()
        for shard in draft.shards:
            shutil.rmtree(shard)
        draft.timing |= _measured(started)
        files = seal(draft, provenance() if callable(provenance) else provenance)
        _require_free(out, overwrite=overwrite)  # Something of others may lie there by now.
        put_in_place(folder, out)
        remember(out, files, just_written=True)
        draft.result = Result(out=out, id=artifact_id(out), metrics=draft.metrics)
        group().broadcast([draft.result.id, draft.metrics])


@contextmanager
def _assisting(out: Path) -> Iterator[Draft]:
    """Take part in an artifact that the first process writes, from when it has claimed it until it is there."""
    group().barrier()
    draft = Draft(folder=partial(out) / f"{SHARD}{group().world.rank}")
    yield draft
    group().barrier()
    identity, draft.metrics = group().broadcast(None)
    draft.result = Result(out=out, id=identity, metrics=draft.metrics)


def _measured(started: float) -> dict[str, Any]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB; on macOS bytes
    return {
        "seconds": round(time.monotonic() - started, 3),
        "peak_memory_gib": round(peak / (2**30 if sys.platform == "darwin" else 2**20), 3),
        "host": platform.node(),
    }


def require_place(out: Path, *, overwrite: bool) -> None:
    """Refuse before any work a place that is taken, or that nothing can be made in.

    Raises:
        GtrTurboError: `out` exists without `overwrite`, or is or lies in something that stays as it is.
        OSError: with the path that is no folder, or may not be written to.
    """
    _require_free(out, overwrite=overwrite)
    above = next(folder for folder in (out.parent, *out.parent.parents) if os.path.lexists(folder))
    if not above.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(above))
    if not os.access(above, os.W_OK | os.X_OK):
        number = errno.EROFS if os.statvfs(above).f_flag & os.ST_RDONLY else errno.EACCES
        raise OSError(number, os.strerror(number), str(above))


def _require_free(out: Path, *, overwrite: bool) -> None:
    require_outside_artifacts(out)
    if os.path.lexists(out) and not (out / MANIFEST).is_file():
        raise _foreign(out)
    if out.exists() and not overwrite:
        raise GtrTurboError(f"{out} exists.", "choose another --out, or add --overwrite.")
