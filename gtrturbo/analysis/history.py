"""A run folder as data: what it was asked to do, and what its artifacts say by iteration."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import FiniteFloat

from gtrturbo.analysis.levels import as_chance
from gtrturbo.analysis.record import Collapsed, is_recorded, read_record
from gtrturbo.analysis.summary import by_episode
from gtrturbo.distributed.escapes import shell_word
from gtrturbo.errors import GtrTurboError
from gtrturbo.store.json_files import read_json_lines
from gtrturbo.store.manifest import Manifest, read_manifest
from gtrturbo.store.moved import Moved, read_moved
from gtrturbo.store.names import MANIFEST, METRICS_LOG, TIMING
from gtrturbo.store.records import Turn
from gtrturbo.store.timing import read_timing
from gtrturbo.store.turns import read_turns

# What a run's stages are called by what they are for; `merge` and `distill` are the teacher's.
TEACHER_STAGES = ("merge", "distill")
FOLDERS = {
    "student": "evals",
    "teacher": "teacher-evals",
    "checkpoints": "checkpoints",
    "teachers": "teachers",
    "rollouts": "rollouts",
    "guidance": "guidance",
    "demos": "demos",  # Of a method that imitates beside a KL: the same teacher's thoughts, which are annotated apart.
}
EVALUATIONS = ("student", "teacher")


@dataclass(frozen=True)
class Entry:
    """An artifact of a run: its folder, the iteration that the folder's name tells, its manifest and its seconds.

    collapsed: it stands for one that a collapsed run did not come to, and these of its metrics count as chance.
    """

    path: Path
    iteration: int
    manifest: Manifest
    collapsed: dict[str, float] | None = None

    @property
    def metrics(self) -> dict[str, float]:
        return self.manifest.metrics | (self.collapsed or {})

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
    """A run: its folder, its settings, its finished artifacts by folder (see FOLDERS) and iteration, and how it collapsed.

    sources: the sha256 of the user's own code that run.json names, by its name.
    beside: iterations at which runs that it is compared with were evaluated; one that collapsed counts at these, too.
    """

    path: Path
    settings: dict[str, Any]
    entries: dict[str, list[Entry]]
    others: list[Entry]
    collapsed: Collapsed | None = None
    sources: dict[str, str] = field(default_factory=dict)
    beside: tuple[int, ...] = ()

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

    @cached_property
    def code(self) -> dict[tuple[str, str], tuple[str, ...]]:
        """What of the user's own files made the run: by STAGE.OPTION (of run.json "run") and name the sha256 of their texts.

        The task and the panel of evaluations are not among it: by them deals are others.
        """
        found = {("run", name): {sha256} for name, sha256 in self.sources.items()}
        for folder, entries in [*self.entries.items(), ("", self.others)]:
            for manifest in (entry.manifest for entry in entries):
                for option, named in manifest.plugins.items():
                    if "sha256" in named and not (folder in EVALUATIONS and option in ("task", "panel")):
                        found.setdefault((f"{manifest.stage}.{option}", named.get("name", option)), set()).add(named["sha256"])
        return {key: tuple(sorted(texts)) for key, texts in found.items()}

    @property
    def seed(self) -> int:
        return self.settings["seed"]

    def at(self, folder: str) -> dict[int, Entry]:
        """Return the artifacts of one folder by iteration.

        Where a run collapsed, its last evaluation, and its last rollout, stand at the later iterations at which there would have
        been one, with success and return as by chance: what it came to is no missing number.
        """
        found = {entry.iteration: entry for entry in self.entries[folder]}
        if not self.collapsed or not found or folder not in ("student", "rollouts"):
            return found
        last, count = found[max(found)], self.settings.get("iterations", 0)
        every = self.settings.get("eval_every", 0) if folder == "student" else 1
        planned = [*(range(0, count, every) if every else ()), *([count, *self.beside] if folder == "student" else [])]
        return found | {k: replace(last, iteration=k, collapsed=self.falls_to) for k in planned if k > last.iteration}

    def curve(self, metric: str, iterations: Sequence[int]) -> dict[int, float]:
        """Return a number by iteration, at iterations of its evaluations.

        Of a run that collapsed also where it was evaluated last, and, with what it counts with from there on, where it ended:
        else it would seem to fall bit by bit until the next one.
        """
        found = self.at("student")
        if self.collapsed:
            last = self.entries["student"][-1]
            found |= {self.collapsed.iteration: replace(last, collapsed=self.falls_to)} if self._fell_after(last) else {}
            own = (last.iteration, self.collapsed.iteration)
            iterations = [*iterations, *(k for k in own if k in found and min(iterations) < k < max(iterations))]
        return {k: found[k].metrics[metric] for k in sorted(set(iterations))}

    def _fell_after(self, last: Entry) -> bool:
        return self.collapsed is not None and self.collapsed.iteration > last.iteration

    @property
    def falls_to(self) -> dict[str, float]:
        """Return success and return by chance, with which a run counts once it collapsed; empty where they were not measured."""
        evaluated = max(self.entries["student"], key=lambda entry: entry.iteration, default=None)
        return as_chance(evaluated.metrics) if evaluated else {}

    def updates(self) -> list[Entry]:
        """Return the checkpoints that PPO made, by iteration from 1."""
        return [entry for entry in self.entries["checkpoints"] if entry.manifest.stage == "ppo-step"]

    @property
    def updated(self) -> int:
        """How many of its updates are done."""
        return max((entry.iteration for entry in self.updates()), default=0)

    @property
    def planned(self) -> int:
        """How many updates it was asked for."""
        return int(self.settings.get("iterations", 0))

    @property
    def ended(self) -> bool:
        """Nothing more comes: it was evaluated at its end, or it collapsed."""
        return self.collapsed is not None or any(entry.iteration == self.planned for entry in self.entries["student"])

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


def read_history(path: Path) -> History:
    """Read a run folder; artifacts that are still being written are left out.

    Raises:
        GtrTurboError: no such folder, no run.json in it, or a damaged file.
    """
    if path.is_file():
        within = path.parent if is_recorded(path.parent) else None
        mend = f"name the run: {shell_word(str(within))}" if within else "name the folders that gtrturbo run wrote."
        raise GtrTurboError(f"{path} is a file, and the folder of a run is meant.", mend)
    if not path.is_dir():
        raise GtrTurboError(f"{path} does not exist.", "name the folders that gtrturbo run wrote.")
    record = read_record(path)
    entries = {folder: _entries(path / name) for folder, name in FOLDERS.items()}
    others = [Entry(path / name, 0, read_manifest(path / name)) for name in ("init", "expert", "sft") if _is_whole(path / name)]
    return History(path, record.config, entries, others, record.collapsed, record.sources)


def _entries(folder: Path) -> list[Entry]:
    found = [path for path in folder.iterdir() if path.name.isdecimal() and _is_whole(path)] if folder.is_dir() else []
    return [Entry(path, int(path.name), read_manifest(path)) for path in sorted(found, key=lambda path: int(path.name))]


def _is_whole(path: Path) -> bool:
    return os.path.lexists(path / MANIFEST)  # What is no file in its place is told when it is read.
