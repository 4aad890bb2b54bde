"""Artifacts: directories that are written whole or not at all, named by the hash of their manifest.

`stage.json` is written last, inside a hidden sibling that is then renamed, so a directory with a manifest is complete.
The id of an artifact is the sha256 of its `stage.json`, which holds the ids of its inputs and the hashes of its files: a chain.
"""

import fcntl
import filecmp
import hashlib
import json
import os
import platform
import resource
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from gtrturbo import __version__
from gtrturbo.distributed.processes import group
from gtrturbo.errors import GtrTurboError
from gtrturbo.store.ageing import upgraded
from gtrturbo.store.hashes import content_hash

MANIFEST = "stage.json"
TIMING = "timing.json"
PRUNED = "pruned.json"
TURNS = "turns.jsonl"
TOKENS = "tokens.safetensors"
SCORES = "scores.safetensors"
DEMOS = "demos.jsonl"
SHARD = ".shard-"
METRICS = "metrics.json"
METRICS_LOG = "metrics.jsonl"
OPTIMIZER = "optimizer"
FORMAT = 1
# Exactly one key: safetensors writes metadata in hash order, so two keys would give other bytes in another process.
SAFETENSORS_METADATA = {"format": "pt"}

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
    files: dict[str, str]
    metrics: dict[str, float]
    renderer: str | None
    plugins: dict[str, dict[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Pruned:
    """What pruned.json holds: files that were removed on purpose, with the hashes that the manifest gives them, and the command
    that makes them again."""

    files: dict[str, str]
    remake: str


@dataclass(frozen=True)
class Provenance:
    """What an artifact is made from: the stage, its knobs, and the ids of its inputs, taken before the work starts.

    `plugins` name code of the user's own by option, see `Manifest`; `absent` says what a knob means that a manifest lacks.
    """

    stage: str
    kind: str
    config: dict[str, Any]
    inputs: dict[str, Any]
    plugins: dict[str, dict[str, str]] = field(default_factory=dict)
    absent: dict[str, Any] = field(default_factory=dict)


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


def artifact_id(path: Path) -> str:
    """Return the id of an artifact, or of a foreign model folder (a hash over its files).

    Raises:
        GtrTurboError: nothing there, or the stage that should have written it did not finish.
    """
    if (path / MANIFEST).is_file():
        return sha256_file(path / MANIFEST)
    listing = [[file.name, content_hash(file)] for file in _model_files(path)]
    return _sha256(json.dumps(listing).encode())


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


def _model_files(path: Path) -> list[Path]:
    if not is_model_folder(path):
        raise _absent(path)
    return [file for file in sorted(path.iterdir()) if file.is_file()]


def _same_bytes(a: Path, b: Path) -> bool:
    return a.samefile(b) or filecmp.cmp(a, b, shallow=False)


def is_model_folder(path: Path) -> bool:
    """Tell whether a folder without manifest holds a Hugging Face model or a PEFT adapter."""
    return any((path / name).is_file() for name in ("config.json", "adapter_config.json"))


def read_manifest(path: Path, kind: str | None = None) -> Manifest:
    """Read an artifact's manifest.

    Raises:
        GtrTurboError: no such folder, unfinished, damaged, or of another kind than the one wanted.
    """
    file = path / MANIFEST
    if not file.is_file():
        raise _absent(path)
    try:
        content = json.loads(file.read_bytes())
        _require_format(file, content)
        manifest = TypeAdapter(Manifest).validate_python(upgraded(content))
    except ValidationError as error:
        raise GtrTurboError(f"{file} is damaged: {error.errors()[0]['msg']}.", "make the artifact again.") from None
    except ValueError as error:
        raise GtrTurboError(f"{file} is damaged: {error}.", "make the artifact again.") from None
    if kind and manifest.kind != kind:
        raise GtrTurboError(f"{path} holds {manifest.kind} (made by {manifest.stage}), not {kind}.", _make(kind))
    return manifest


def _require_format(file: Path, content: Any) -> None:
    found = content.get("format") if isinstance(content, dict) else None
    if isinstance(found, int) and found != FORMAT:
        raise GtrTurboError(
            f"{file} is written in format {found}, which this version does not know (it knows {FORMAT}).",
            f"use the version of gtrturbo that wrote it: {content.get('version')}.",
        )


def _absent(path: Path) -> GtrTurboError:
    if path.is_dir():
        return GtrTurboError(f"{path} has no {MANIFEST}: the stage did not finish.", "run it again with the same --out.")
    return GtrTurboError(f"{path} does not exist.")


def _make(kind: str) -> str:
    return f"make one with: {MADE_BY[kind]} …"


def finished(out: Path, provenance: Provenance) -> Result | None:
    """Return the artifact at `out` if exactly this work made it, None if nothing is there.

    Raises:
        GtrTurboError: something else is there; names the first difference.
    """
    if not out.exists():
        return None
    if not (out / MANIFEST).is_file():
        raise _foreign(out)
    manifest = read_manifest(out)
    if difference := _difference(manifest, provenance):
        raise GtrTurboError(f"{out} exists and was made {difference}.", "choose another --out, or add --overwrite.")
    return Result(out=out, id=artifact_id(out), metrics=manifest.metrics)


def _foreign(out: Path) -> GtrTurboError:
    return GtrTurboError(f"{out} exists and is no artifact of gtrturbo.", "choose another --out.")


def _difference(manifest: Manifest, wanted: Provenance) -> str | None:
    if manifest.stage != wanted.stage:
        return f"by {manifest.stage}, not {wanted.stage}"
    for name in [*wanted.config, *(name for name in manifest.config if name not in wanted.config)]:
        was = manifest.config.get(name, wanted.absent.get(name))
        if name not in wanted.config:
            return f"with --{name.replace('_', '-')} {_said(was)}, which there is no more"
        if was != wanted.config[name]:
            return f"with --{name.replace('_', '-')} {_said(was)}, not {_said(wanted.config[name])}"
    for name in sorted(wanted.plugins.keys() | manifest.plugins.keys()):
        was, now = (each.get(name, {}).get("sha256") for each in (manifest.plugins, wanted.plugins))
        if was != now:
            code = wanted.plugins.get(name, manifest.plugins.get(name, {}))["name"]
            return f"with another text of {code} (--{name.replace('_', '-')}, {short(was)}, not {short(now)})"
    for name in sorted(wanted.inputs.keys() | manifest.inputs.keys()):
        was, now = manifest.inputs.get(name), wanted.inputs.get(name)
        if was != now:
            return f"from another --{name.replace('_', '-')} ({short(was)}, not {short(now)})"
    return None


def _said(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def short(identity: Any) -> str:
    """Abbreviate an id, or a list of ids, to what a person compares."""
    if isinstance(identity, list):
        return "[" + " ".join(short(item) for item in identity) + "]"
    return str(identity)[:6] if identity else "none"


@contextmanager
def writing(out: Path, provenance: Provenance | Callable[[], Provenance], *, overwrite: bool = False) -> Iterator[Draft]:
    """Write an artifact whole or not at all: yields a draft; when the block ends the manifest is added and the folder renamed.

    Where the provenance takes long to find out, a function may wait for it: it is called when the block ends.

    Where several processes write it together (`processes.group`), the first claims, seals and renames. The draft of each other
    one has a folder of its own, which goes away; `Draft.shards` names all of them, so that the first can join their parts.

    Raises:
        GtrTurboError: `out` exists without `overwrite`, is no artifact, or another process is writing it.
    """
    if not group().world.first:
        with _assisting(out) as draft:
            yield draft
        return
    _require_free(out, overwrite=overwrite)
    partial = _partial(out)
    partial.mkdir(parents=True, exist_ok=True)
    lock = os.open(partial, os.O_RDONLY)
    try:
        _claim(lock, out)
        _require_free(out, overwrite=overwrite)  # Another writer may have finished since.
        _empty(partial)
        draft = Draft(folder=partial, shards=[partial / f"{SHARD}{rank}" for rank in range(1, group().world.size)])
        started = time.monotonic()
        try:
            for shard in draft.shards:
                shard.mkdir()
            group().barrier()
            yield draft
            group().barrier()
            for shard in draft.shards:
                shutil.rmtree(shard)
            draft.timing |= _measured(started)
            _seal(draft, provenance() if callable(provenance) else provenance)
        except BaseException:
            shutil.rmtree(partial)
            raise
        _replace(partial, out)
        draft.result = Result(out=out, id=artifact_id(out), metrics=draft.metrics)
        group().broadcast([draft.result.id, draft.metrics])
    finally:
        os.close(lock)


@contextmanager
def _assisting(out: Path) -> Iterator[Draft]:
    """Take part in an artifact that the first process writes, from when it has claimed it until it is there."""
    group().barrier()
    draft = Draft(folder=_partial(out) / f"{SHARD}{group().world.rank}")
    yield draft
    group().barrier()
    identity, draft.metrics = group().broadcast(None)
    draft.result = Result(out=out, id=identity, metrics=draft.metrics)


def _partial(out: Path) -> Path:
    return out.parent / f".{out.name}.partial"


def _measured(started: float) -> dict[str, Any]:
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": round(time.monotonic() - started, 3),
        "peak_memory_gib": round(kibibytes / 2**20, 3),
        "host": platform.node(),
    }


def _require_free(out: Path, *, overwrite: bool) -> None:
    if out.exists() and not (out / MANIFEST).is_file():
        raise _foreign(out)
    if out.exists() and not overwrite:
        raise GtrTurboError(f"{out} exists.", "choose another --out, or add --overwrite.")


def _claim(lock: int, out: Path) -> None:
    # The kernel drops the lock when its process dies, however it dies, so a killed writer blocks nobody.
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise GtrTurboError(f"{out} is being written by another process.", "wait for it, or choose another --out.") from None


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _seal(draft: Draft, provenance: Provenance) -> None:
    (draft.folder / TIMING).write_text(json.dumps(draft.timing, indent=2) + "\n")
    files = {name: draft.hashes.get(name) or sha256_file(draft.folder / name) for name in list_files(draft.folder)}
    manifest = {
        "format": FORMAT,
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
    text = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    (draft.folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
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


def _replace(partial: Path, out: Path) -> None:
    if out.exists():
        old = out.parent / f".{out.name}.replaced"
        if old.exists():  # A writer was killed between the renames.
            shutil.rmtree(old)
        out.rename(old)
        partial.rename(out)
        shutil.rmtree(old)
    else:
        partial.rename(out)


def list_files(folder: Path) -> list[str]:
    """Name the files that a manifest covers, relative and sorted: all but itself, the timing and the record of pruned ones."""
    names = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if name not in (MANIFEST, TIMING, PRUNED))


def damaged_files(folder: Path) -> list[str]:
    """Hash every file again and name those that are missing, changed or not in the manifest; pruned ones are not missing."""
    expected = read_manifest(folder).files
    present = {name: sha256_file(folder / name) for name in list_files(folder)}
    wrong = {name for name in expected.keys() | present.keys() if expected.get(name) != present.get(name)}
    return sorted(wrong - set(pruned_files(folder)))


def prune(folder: Path, names: Iterable[str], *, remake: str) -> None:
    """Remove files of a finished artifact for good, and record it beside them: the manifest, and with it the id, stays.

    The record is there before the first file goes, so a process that is killed in between leaves no file that seems lost;
    called again, it removes the rest.

    Args:
        folder: the artifact.
        names: of its files; those that its manifest does not name are left alone.
        remake: command that makes them again, for whoever needs them after all.
    """
    manifest, before = read_manifest(folder), _read_pruned(folder)
    files = before.files | {name: manifest.files[name] for name in names if name in manifest.files}
    if files != before.files:
        draft = folder.parent / f".{folder.name}.{PRUNED}"
        save_json(draft, {"files": files, "remake": remake})
        draft.replace(folder / PRUNED)
    for name in files:
        (folder / name).unlink(missing_ok=True)


def pruned_files(folder: Path) -> list[str]:
    """Name the files of an artifact that were pruned and are not there."""
    return sorted(name for name in _read_pruned(folder).files if not (folder / name).is_file())


def remake_command(folder: Path) -> str:
    """Return the command that makes an artifact's pruned files again."""
    return _read_pruned(folder).remake


def _read_pruned(folder: Path) -> Pruned:
    file = folder / PRUNED
    if not file.is_file():
        return Pruned(files={}, remake="")
    try:
        return TypeAdapter(Pruned).validate_json(file.read_bytes())
    except ValidationError as error:
        raise GtrTurboError(f"{file} is damaged: {error.errors()[0]['msg']}.", "make the artifact again.") from None


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def seed_for(*parts: str | int) -> int:
    """Derive a 63-bit seed from names and numbers, the same in every process and on every machine."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big") >> 1


def save_json(path: Path, content: Any) -> None:
    """Write JSON in a canonical form: sorted keys, two spaces; NaN is refused."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
