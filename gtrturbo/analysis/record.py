"""run.json: the settings that name a run, the user's own code among them, and how the run collapsed, if it did."""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gtrturbo import __version__
from gtrturbo.config import RunConfig
from gtrturbo.config.fields import Field, check, fields, parse
from gtrturbo.config.marks import RECORD
from gtrturbo.distributed.escapes import shell_word
from gtrturbo.errors import GtrTurboError, few
from gtrturbo.plugins import Plugin, is_outside, load
from gtrturbo.store.claims import require_outside_artifacts
from gtrturbo.store.files import json_text, make_folder, save_json
from gtrturbo.store.ids import short
from gtrturbo.store.json_files import read_json
from gtrturbo.store.names import MANIFEST

AGAIN = "run it again with the same options: what is there stays."
PARTS = ("evals", "checkpoints")  # of a run
# Where and how to work, not what: the rest names a run.
UNRECORDED = {
    *("out", "keep_teachers", "keep_guidance", "keep_optimizers", "subprocess", "dry_run"),
    *("device", "overwrite", "log", "verify_inputs"),
    *("prices", "max_calls", "max_cost", "answers"),
}


@dataclass(frozen=True)
class Collapsed:
    """Where a run ended before its plan did, and why: its policy could not be trained on."""

    iteration: int
    stage: str
    what: str


@dataclass(frozen=True)
class CollapsedRun:
    """A run that collapsed, and the numbers by chance with which it counts from there on; none where chance was not measured."""

    task: str
    method: str
    seed: int
    end: Collapsed
    counts: dict[str, float]


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
    was = read_record(config.out).sources
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
    make_folder(config.out)
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


def is_recorded(path: Path) -> bool:
    """Tell whether a folder is that of a run."""
    return (path / RECORD).exists()


def collapse_of(path: Path) -> Collapsed | None:
    """Say how a run collapsed; None where it did not, or where nothing tells how it was made.

    Raises:
        GtrTurboError: run.json is damaged.
    """
    return read_record(path).collapsed if is_recorded(path) else None


def read_record(path: Path) -> Record:
    file = path / RECORD
    if not file.exists():
        raise _no_run(path)
    record = read_json(file, Record, mend=f"remove it, and {AGAIN}")
    missing = {"method", "task", "env", "seed"} - record.config.keys()
    if missing:
        raise GtrTurboError(f"{file} does not name {', '.join(sorted(missing))}.", f"remove it, and {AGAIN}")
    for setting in fields(RunConfig):
        if setting.name in record.config and not _is_one(setting, record.config[setting.name]):
            raise GtrTurboError(f"{file} is damaged: {setting.name} is no setting of a run.", f"remove it, and {AGAIN}")
    return record


def _no_run(path: Path) -> GtrTurboError:
    """Say of a folder that is none of a run where the runs are: around it, or in it."""
    what = f"{path} has no {RECORD}, which says how the run was made"
    whole = Path(os.path.abspath(path))
    if around := next((above for above in whole.parents if is_recorded(above)), None):
        shown = next((above for above in path.parents if os.path.abspath(above) == str(around)), around)
        return GtrTurboError(f"{what}: it is a part of a run.", f"name the run: {shell_word(str(shown))}")
    if inside := sorted({file.parent for pattern in (RECORD, f"*/{RECORD}") for file in path.glob(f"*/{pattern}")}):
        names = few([shell_word(str(run)) for run in inside])
        return GtrTurboError(f"{what}: it holds {len(inside)} runs.", f"name those that are meant: {names}")
    if (path / MANIFEST).is_file() or not any((path / name).is_dir() for name in PARTS):
        return GtrTurboError(f"{what}.", "name the folders that gtrturbo run wrote.")
    return GtrTurboError(f"{what}.", f"{AGAIN} gtrturbo run --out {shell_word(str(path))} …")


def _is_one(setting: Field, value: Any) -> bool:
    try:
        again = parse(setting, value)
        check(setting, again)
    except GtrTurboError:
        return False
    return _plain(again) == value
