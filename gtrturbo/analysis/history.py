"""A run folder as data: what it was asked to do, and what its artifacts say by iteration."""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import FiniteFloat

from gtrturbo import __version__
from gtrturbo.analysis.summary import by_episode
from gtrturbo.config import RunConfig
from gtrturbo.config.fields import Field, check, fields, parse
from gtrturbo.distributed.escapes import shell_word
from gtrturbo.errors import GtrTurboError
from gtrturbo.plugins import Plugin, is_outside, load
from gtrturbo.store.claims import require_outside_artifacts
from gtrturbo.store.files import json_text, save_json
from gtrturbo.store.ids import short
from gtrturbo.store.json_files import read_json, read_json_lines
from gtrturbo.store.manifest import Manifest, read_manifest
from gtrturbo.store.moved import Moved, read_moved
from gtrturbo.store.names import MANIFEST, METRICS_LOG, TIMING
from gtrturbo.store.records import Turn
from gtrturbo.store.timing import read_timing
from gtrturbo.store.turns import read_turns

RECORD = "run.json"
AGAIN = "run it again with the same options: what is there stays."
# Where and how to work, not what: the rest names a run.
UNRECORDED = {
    *("out", "keep_teachers", "keep_optimizers", "subprocess", "dry_run", "device", "overwrite", "log", "verify_inputs"),
    *("prices", "max_calls", "max_cost", "answers"),
}
# What a run's stages are called by what they are for; `merge` and `distill` are the teacher's.
TEACHER_STAGES = ("merge", "distill")
FOLDERS = {
    "student": "evals",
    "teacher": "teacher-evals",
    "checkpoints": "checkpoints",
    "teachers": "teachers",
    "rollouts": "rollouts",
    "guidance": "guidance",
}


@dataclass(frozen=True)
class Collapsed:
    """Where a run ended before its plan did, and why: its policy could not be trained on."""

    iteration: int
    stage: str
    what: str


@dataclass(frozen=True)
class Record:
    """What run.json holds: the settings that name a run, the sha256 of the user's own code among them, by its name, and how it
    collapsed, if it did."""

    version: str
    config: dict[str, Any]
    sources: dict[str, str] = field(default_factory=dict)
    collapsed: Collapsed | None = None


def own_code(config: RunConfig) -> dict[str, Plugin]:
    """Find what a run takes from the user's own code, by the setting that names it."""
    return {"method": load("method", config.method)} if is_outside(config.method) else {}


def check_sources(config: RunConfig, own: Mapping[str, Plugin]) -> None:
    """Refuse to go on with a run that was begun with another text of the user's own code.

    Raises:
        GtrTurboError: names the code, and what its text was and is.
    """
    if config.overwrite or not own or not (config.out / RECORD).is_file():
        return
    was = _read_record(config.out).sources
    for code in own.values():
        if was.get(code.name, code.sha256) != code.sha256:
            raise GtrTurboError(
                f"{config.out} exists and was made with another {code.name} "
                f"(sha256 {short(was[code.name])}, not {short(code.sha256)}).",
                "choose another --out, or add --overwrite.",
            )


def record_run(
    config: RunConfig, *, replace: bool, own: Mapping[str, Plugin] | None = None, collapsed: Collapsed | None = None
) -> None:
    """Write OUT/run.json, which is part of no artifact; one that is there already stays unless `replace`.

    `own` is the user's code as it was when the run was planned; it may have been changed since.
    """
    file = config.out / RECORD
    if file.exists() and not replace:
        return
    require_outside_artifacts(file)
    config.out.mkdir(parents=True, exist_ok=True)
    content = _content(config, own_code(config) if own is None else own)
    content |= {"collapsed": dataclasses.asdict(collapsed)} if collapsed else {}
    if file.exists() and file.read_bytes() == json_text(content).encode():
        return  # A run that is done touches nothing.
    save_json(file, content)


def _content(config: RunConfig, own: Mapping[str, Plugin]) -> dict[str, Any]:
    told = [f for f in fields(type(config)) if f.name not in UNRECORDED]
    shown = [f for f in told if not (f.absent and f.absent.hides(getattr(config, f.name)))]
    values = {f.name: _plain(getattr(config, f.name)) for f in shown}
    content = {"version": __version__, "config": values | {name: code.name for name, code in own.items()}}
    return content | ({"sources": {code.name: code.sha256 for code in own.values()}} if own else {})


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


@dataclass(frozen=True)
class Entry:
    """An artifact of a run: its folder, the iteration that the folder's name tells, its manifest and its seconds."""

    path: Path
    iteration: int
    manifest: Manifest

    @property
    def metrics(self) -> dict[str, float]:
        return self.manifest.metrics

    @cached_property
    def seconds(self) -> float:
        """Wall-clock seconds that it took to make; 0 where its timing.json is gone."""
        file = self.path / TIMING
        return read_timing(file).get("seconds", 0.0) if file.exists() else 0.0

    @cached_property
    def moved(self) -> Moved | None:
        """What a merge moved, tensor by tensor; None where that was not recorded."""
        return read_moved(self.path)

    def turns(self) -> list[Turn]:
        """Read the turns that were played.

        Raises: GtrTurboError: they are gone, or damaged.
        """
        return read_turns(self.path)

    def episodes(self) -> list[list[Turn]]:
        return by_episode(self.turns())

    def log(self) -> list[dict[str, float]]:
        """Return the rows of metrics.jsonl: one per minibatch of an update."""
        file = self.path / METRICS_LOG
        mend = f"see: gtrturbo show {shell_word(str(self.path))} --check"
        return list(read_json_lines(file, dict[str, FiniteFloat], mend=mend)) if file.exists() else []


@dataclass(frozen=True)
class History:
    """A run: its folder, its settings, its finished artifacts by folder (see FOLDERS) and iteration, and how it collapsed."""

    path: Path
    settings: dict[str, Any]
    entries: dict[str, list[Entry]]
    others: list[Entry]
    collapsed: Collapsed | None = None

    @property
    def method(self) -> str:
        return self.settings["method"]

    @property
    def label(self) -> str | None:
        """What the user calls this run; runs of several seeds share it."""
        return self.settings.get("label")

    @property
    def task(self) -> str:
        """Task and its options, but for the picture's size that the tiny model takes."""
        return " ".join([self.settings["task"], *self.settings["env"]])

    @property
    def seed(self) -> int:
        return self.settings["seed"]

    def at(self, folder: str) -> dict[int, Entry]:
        """Return the artifacts of one folder by iteration.

        Where a run collapsed, its last evaluation stands at the later iterations too at which it would have been evaluated:
        what it came to is no missing number.
        """
        found = {entry.iteration: entry for entry in self.entries[folder]}
        if folder != "student" or not self.collapsed or not found:
            return found
        last, every, count = found[max(found)], self.settings.get("eval_every", 0), self.settings.get("iterations", 0)
        planned = [*(range(0, count, every) if every else ()), count]
        return found | {iteration: last for iteration in planned if iteration > last.iteration}

    def updates(self) -> list[Entry]:
        """Return the checkpoints that PPO made, by iteration from 1."""
        return [entry for entry in self.entries["checkpoints"] if entry.manifest.stage == "ppo-step"]

    @cached_property
    def seconds(self) -> dict[str, float]:
        """Seconds by stage, `eval` for the student's and `teacher eval` for the teacher's; the warm start apart."""
        sums: dict[str, float] = {}
        for folder, entries in [*self.entries.items(), ("", self.others)]:
            for entry in entries:
                name = self._stage(folder, entry)
                sums[name] = sums.get(name, 0.0) + entry.seconds
        return sums

    def _stage(self, folder: str, entry: Entry) -> str:
        stage = entry.manifest.stage
        if folder == "teacher":
            return "teacher eval"
        return "warm start" if stage in ("init", "sft") or not folder else stage

    @property
    def training_seconds(self) -> float:
        """Seconds of the loop: merges, rollouts, distillation, updates; not the warm start, not evaluations."""
        return sum(value for name, value in self.seconds.items() if name in ("rollout", "ppo-step", *TEACHER_STAGES))

    @property
    def teacher_seconds(self) -> float:
        """Seconds that the teacher took of them: merging and annotating."""
        return sum(self.seconds.get(name, 0.0) for name in TEACHER_STAGES)


def is_recorded(path: Path) -> bool:
    """Tell whether a folder is that of a run."""
    return (path / RECORD).exists()


def read_history(path: Path) -> History:
    """Read a run folder; artifacts that are still being written are left out.

    Raises:
        GtrTurboError: no such folder, no run.json in it, or a damaged file.
    """
    if not path.is_dir():
        raise GtrTurboError(f"{path} does not exist.", "name the folders that gtrturbo run wrote.")
    record = _read_record(path)
    entries = {folder: _entries(path / name) for folder, name in FOLDERS.items()}
    others = [Entry(path / name, 0, read_manifest(path / name)) for name in ("init", "expert", "sft") if _is_whole(path / name)]
    return History(path, record.config, entries, others, record.collapsed)


def collapse_of(path: Path) -> Collapsed | None:
    """Say how a run collapsed; None where it did not, or where nothing tells how it was made.

    Raises:
        GtrTurboError: run.json is damaged.
    """
    return _read_record(path).collapsed if is_recorded(path) else None


def _read_record(path: Path) -> Record:
    file = path / RECORD
    if not file.exists():
        raise GtrTurboError(
            f"{path} has no {RECORD}, which says how the run was made.",
            f"{AGAIN} gtrturbo run --out {path} …",
        )
    record = read_json(file, Record, mend=f"remove it, and {AGAIN}")
    missing = {"method", "task", "env", "seed"} - record.config.keys()
    if missing:
        raise GtrTurboError(f"{file} does not name {', '.join(sorted(missing))}.", f"remove it, and {AGAIN}")
    for setting in fields(RunConfig):
        if setting.name in record.config and not _is_one(setting, record.config[setting.name]):
            raise GtrTurboError(f"{file} is damaged: {setting.name} is no setting of a run.", f"remove it, and {AGAIN}")
    return record


def _is_one(setting: Field, value: Any) -> bool:
    try:
        again = parse(setting, value)
        check(setting, again)
    except GtrTurboError:
        return False
    return _plain(again) == value


def _entries(folder: Path) -> list[Entry]:
    found = [path for path in folder.iterdir() if path.name.isdecimal() and _is_whole(path)] if folder.is_dir() else []
    return [Entry(path, int(path.name), read_manifest(path)) for path in sorted(found, key=lambda path: int(path.name))]


def _is_whole(path: Path) -> bool:
    return os.path.lexists(path / MANIFEST)  # What is no file in its place is told when it is read.
