"""Drafts: an artifact while it is being written, how it is sealed with its manifest, and what it becomes."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gtrturbo import __version__
from gtrturbo.store.files import list_files, save_json, write_whole
from gtrturbo.store.ids import sha256_file
from gtrturbo.store.manifest import MANIFEST_FORMAT
from gtrturbo.store.names import MANIFEST, TIMING
from gtrturbo.store.provenance import Provenance
from gtrturbo.store.seen import Look, mark_of


@dataclass(frozen=True)
class Result:
    """What a stage gives back: the folder it wrote, its id and its metrics; it stands for that folder where a path is taken."""

    out: Path
    id: str
    metrics: dict[str, float]

    @property
    def path(self) -> Path:
        """The folder, as who calls from Python names it."""
        return self.out

    def __fspath__(self) -> str:
        return os.fspath(self.out)


@dataclass
class Draft:
    """An artifact being written: put files into `folder`, set `metrics` and `renderer`; `result` is there when it is done.

    `shards`: in the first of several processes, the folders that the others write their parts into. `hashes`: sha256 of files
    that were hashed while they were written. `base`: see `Manifest`.
    """

    folder: Path
    shards: list[Path] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    renderer: str | None = None
    tokenizer: dict[str, str] | None = None
    base: dict[str, str] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    timing: dict[str, Any] = field(default_factory=dict)
    result: Result | None = None


def seal(draft: Draft, provenance: Provenance) -> dict[str, Look]:
    """Add timing and manifest, and bring all files to the disk; after that the folder is an artifact. Return how they look."""
    write_whole(draft.folder / TIMING, (json.dumps(draft.timing, indent=2) + "\n").encode())
    names = list_files(draft.folder)
    for name in [*names, TIMING]:
        _bring_to_disk(draft.folder / name)
    marks = {name: mark_of(draft.folder / name) for name in names}
    files = {name: draft.hashes.get(name) or sha256_file(draft.folder / name) for name in names}
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
    if draft.tokenizer:
        manifest["tokenizer"] = draft.tokenizer
    if draft.base:
        manifest["base"] = draft.base
    if provenance.plugins:
        manifest["plugins"] = provenance.plugins
    save_json(draft.folder / MANIFEST, manifest)
    _bring_to_disk(draft.folder / MANIFEST)
    return {name: Look(files[name], marks[name]) for name in names}


def _bring_to_disk(path: Path) -> None:
    # safetensors writes files that only their owner may read; an artifact follows the umask like every other file.
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
