"""Manifests: what stage.json says of an artifact, and what a stage means to make."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import FiniteFloat, TypeAdapter, ValidationError

from gtrturbo.errors import GtrTurboError
from gtrturbo.store.ageing import upgraded
from gtrturbo.store.inside import PlainName
from gtrturbo.store.names import MANIFEST

MANIFEST_FORMAT = 1
MADE_BY = {
    "checkpoint": "gtrturbo init",
    "turns": "gtrturbo rollout",
    "scores": "gtrturbo distill --mode kl",
    "demos": "gtrturbo distill --mode thoughts",
    "evaluation": "gtrturbo eval",
}


@dataclass(frozen=True)
class Manifest:
    """What stage.json holds. `config` are knobs only, no paths; `renderer` hashes tokenizer, processor and chat template.
    `plugins` name code of the user's own by option: its `name` and the `sha256` of its file."""

    format: int
    kind: str
    stage: str
    version: str
    config: dict[str, Any]
    inputs: dict[str, Any]
    files: dict[PlainName, str]
    metrics: dict[str, FiniteFloat]
    renderer: str | None
    plugins: dict[str, dict[str, str]] = field(default_factory=dict)


class _Part(dict[str, Any]):
    """What a manifest names, which says so where a name is missing."""

    def __init__(self, file: Path, what: str, values: dict[str, Any]) -> None:
        super().__init__(values)
        self._file, self._what = file, what

    def __missing__(self, name: str) -> Any:
        raise GtrTurboError(f"{self._file} is damaged: it names no {self._what} {name}.", "make the artifact again.")


def read_manifest(path: Path, kind: str | None = None) -> Manifest:
    """Read an artifact's manifest.

    Raises:
        GtrTurboError: no such folder, unfinished, damaged, or of another kind than the one wanted.
    """
    file = path / MANIFEST
    if not file.is_file():
        raise absent(path)
    try:
        content = json.loads(file.read_bytes())
        _require_format(file, content)
        manifest = TypeAdapter(Manifest).validate_python(upgraded(content))
    except ValidationError as error:
        raise GtrTurboError(f"{file} is damaged: {error.errors()[0]['msg']}.", "make the artifact again.") from None
    except (ValueError, RecursionError) as error:
        raise GtrTurboError(f"{file} is damaged: {error}.", "make the artifact again.") from None
    if manifest.kind not in MADE_BY:
        raise GtrTurboError(f"{file} is damaged: there is no kind of artifact {manifest.kind!r}.", "make the artifact again.")
    parts = {"metrics": "metric", "config": "setting", "inputs": "input"}
    manifest = replace(manifest, **{name: _Part(file, what, getattr(manifest, name)) for name, what in parts.items()})
    if kind and manifest.kind != kind:
        raise GtrTurboError(f"{path} holds {manifest.kind} (made by {manifest.stage}), not {kind}.", _make(kind))
    return manifest


def _require_format(file: Path, content: Any) -> None:
    found = content.get("format") if isinstance(content, dict) else None
    if isinstance(found, int) and found != MANIFEST_FORMAT:
        raise GtrTurboError(
            f"{file} is written in format {found}, which this version does not know (it knows {MANIFEST_FORMAT}).",
            f"use the version of gtrturbo that wrote it: {content.get('version')}.",
        )


def absent(path: Path) -> GtrTurboError:
    """Return the error that says why no artifact is there."""
    if path.is_dir():
        return GtrTurboError(f"{path} has no {MANIFEST}: the stage did not finish.", "run it again with the same --out.")
    return GtrTurboError(f"{path} does not exist.")


def _make(kind: str) -> str:
    return f"make one with: {MADE_BY[kind]} …"
