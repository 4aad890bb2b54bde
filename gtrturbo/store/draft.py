"""Drafts: an artifact while it is being written, how it is sealed with its manifest, and what it becomes."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gtrturbo import __version__
from gtrturbo.store.files import json_text, list_files
from gtrturbo.store.ids import sha256_file
from gtrturbo.store.manifest import MANIFEST_FORMAT
from gtrturbo.store.names import MANIFEST, TIMING
from gtrturbo.store.provenance import Provenance


@dataclass(frozen=True)
class Result:
    """What a stage gives back: the folder it wrote, its id and its metrics."""

    out: Path
    id: str
    metrics: dict[str, float]


@dataclass
class Draft:
    """An artifact being written: put files into `folder`, set `metrics` and `renderer`; `result` is there when it is done.

    `shards`: in the first of several processes, the folders that the others write their parts into. `hashes`: sha256 of files
    that were hashed while they were written.
    """

    folder: Path
    shards: list[Path] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    renderer: str | None = None
    hashes: dict[str, str] = field(default_factory=dict)
    timing: dict[str, Any] = field(default_factory=dict)
    result: Result | None = None


def seal(draft: Draft, provenance: Provenance) -> None:
    """Add timing and manifest, and bring all files to the disk; after that the folder is an artifact."""
    (draft.folder / TIMING).write_text(json.dumps(draft.timing, indent=2) + "\n")
    files = {name: draft.hashes.get(name) or sha256_file(draft.folder / name) for name in list_files(draft.folder)}
    manifest = {
        "format": MANIFEST_FORMAT,
        "kind": provenance.kind,
        "stage": provenance.stage,
        "version": __version__,
        "config": provenance.config,
        "inputs": provenance.inputs,
        "files": files,
        "metrics": draft.metrics,
        "renderer": draft.renderer,
    }
    if provenance.plugins:
        manifest["plugins"] = provenance.plugins
    (draft.folder / MANIFEST).write_text(json_text(manifest), encoding="utf-8")
    for name in [*files, TIMING, MANIFEST]:
        _open_to_all(draft.folder / name)
        _flush(draft.folder / name)


def _open_to_all(path: Path) -> None:
    # safetensors writes files that only their owner may read; an artifact follows the umask like every other file.
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
