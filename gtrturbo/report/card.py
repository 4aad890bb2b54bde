"""The card of a checkpoint on a hub: what it is, its numbers on which task, and how it was made.

Of this machine it tells nothing: no place, no address; see `told`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gtrturbo.analysis.history import History, read_history
from gtrturbo.analysis.record import is_recorded
from gtrturbo.config import EvalConfig, RunConfig
from gtrturbo.config.fields import Role, fields
from gtrturbo.config.regular_files import read_regular
from gtrturbo.distributed.escapes import shell_word, visible
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint_files import is_adapter
from gtrturbo.models.under_adapter import base_here, is_of_hub, require_named
from gtrturbo.report.told import placeholder, told
from gtrturbo.stages.table import STAGES
from gtrturbo.store.ids import artifact_id, short
from gtrturbo.store.manifest import Manifest, read_manifest
from gtrturbo.store.names import ADAPTER_CONFIG, MANIFEST, MODEL_CONFIG

# Folders of a run that hold checkpoints, and what one of them is called.
PARTS = {"checkpoints": "checkpoint", "teachers": "merged teacher"}
WRITES_TEXT = ("ForCausalLM", "LMHeadModel")
SEES = (*WRITES_TEXT, "ForConditionalGeneration")


@dataclass(frozen=True)
class WithinRun:
    """Where in a run a checkpoint lies: the run, and the folder of it."""

    run: History
    part: str


def card_of(checkpoint: Path, manifest: Manifest, evaluations: Sequence[Path]) -> str:
    """Write the card: what it is, its numbers on which task, what it was made from by which command and in which run."""
    place = _place_of(checkpoint)
    evaluations = evaluations or (_own_evaluations(place.run, checkpoint) if place else ())
    settings = _settings(place.run) if place else {}
    front = {"library_name": "peft" if ADAPTER_CONFIG in manifest.files else "transformers"}
    tags = ["gtrturbo", manifest.stage, *([settings["method"], settings["task"]] if settings else [])]
    if is_adapter(checkpoint) and is_of_hub(checkpoint):
        front["base_model"] = require_named(checkpoint)
    front |= {"pipeline_tag": pipeline} if (pipeline := _pipeline(checkpoint)) else {}
    front |= {"tags": tags}
    lines = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n",
        f"# A checkpoint of gtrturbo {manifest.stage}\n",
        f"Id `{artifact_id(checkpoint)}` (sha256 of its `{MANIFEST}`, which holds the hash of every file), "
        f"made by gtrturbo {_plain(manifest.version)}.\n",
        *_evaluated(checkpoint, evaluations),
        "## How it was made\n",
        *(_of_run(checkpoint, place.part, settings) if place else []),
        f"    gtrturbo {manifest.stage} {_inputs(manifest)}{_knobs(manifest)} --out OUT\n",
        "| input | id |",
        "|---|---|",
        *(f"| {_plain(name)} | `{_plain(', '.join(_listed(ids)))}` |" for name, ids in manifest.inputs.items()),
        "",
        "| metric | value |",
        "|---|---|",
        *(f"| {_plain(name)} | {value:.6g} |" for name, value in manifest.metrics.items()),
        "",
    ]
    return "\n".join(lines)


def _pipeline(checkpoint: Path) -> str | None:
    """Name what the model does as the hub does, by its config or that of the model under it; None where nothing tells it."""
    folder = base_here(checkpoint) if is_adapter(checkpoint) else checkpoint
    if folder is None or not (folder / MODEL_CONFIG).is_file():
        return None
    config = json.loads(read_regular(folder / MODEL_CONFIG))
    kinds = tuple(config.get("architectures") or ())
    if "vision_config" in config and any(kind.endswith(SEES) for kind in kinds):
        return "image-text-to-text"
    return "text-generation" if any(kind.endswith(WRITES_TEXT) for kind in kinds) else None


def _place_of(checkpoint: Path) -> WithinRun | None:
    """Tell which run a checkpoint lies in, and where; None where it is no RUN/checkpoints/N or RUN/teachers/N."""
    folder = checkpoint.resolve().parent
    if folder.name not in PARTS or not is_recorded(folder.parent):
        return None
    return WithinRun(read_history(folder.parent), folder.name)


def _own_evaluations(run: History, checkpoint: Path) -> list[Path]:
    """Return the evaluations of a checkpoint that lie in its run."""
    entries, own = [*run.entries["student"], *run.entries["teacher"]], artifact_id(checkpoint)
    return [entry.path for entry in entries if entry.manifest.inputs.get("checkpoint") == own]


def _settings(run: History) -> dict[str, Any]:
    """Return the settings of a run as everybody may read them."""
    from_folder = any("model" in entry.manifest.inputs for entry in run.others if entry.manifest.stage == "init")
    hidden = {"model": "MODEL"} if from_folder else {}
    return _told(RunConfig, run.settings) | hidden


def _told(config: type, values: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: told(field, values[field.name]) for field in fields(config) if field.name in values}


def _of_run(checkpoint: Path, part: str, settings: dict[str, Any]) -> list[str]:
    """Tell the run that a checkpoint is of, as the command that starts it."""
    return [
        f"Number {_plain(checkpoint.resolve().name)} of the {PARTS[part]}s of this run:\n",
        f"    gtrturbo run {_options(RunConfig, settings)} --out RUN\n",
        "By this command in it:\n",
    ]


def _knobs(manifest: Manifest) -> str:
    """Write the options that decided the result besides the inputs."""
    config = STAGES[manifest.stage].config
    values = {name: value for name, value in manifest.config.items() if name not in manifest.inputs}
    return _options(config, _told(config, values))


def _inputs(manifest: Manifest) -> str:
    """Write the options that name what it was made from; the table below says which artifact each stands for."""
    known = {field.name: field for field in fields(STAGES[manifest.stage].config)}
    named = [known[name] for name in manifest.inputs if name in known]
    return "".join(f"{'' if Role.POSITIONAL in field.roles else field.option + ' '}{placeholder(field)} " for field in named)


def _evaluated(checkpoint: Path, evaluations: Sequence[Path]) -> list[str]:
    if not evaluations:
        return []
    rows = [
        "## Evaluations\n",
        "| task | panel | episodes | success (95 %) | chance: random, constant |",
        "|---|---|---|---|---|",
    ]
    for path in evaluations:
        found = read_manifest(path, "evaluation")
        if found.inputs.get("checkpoint") != artifact_id(checkpoint):
            raise GtrTurboError(
                f"{path} is of checkpoint {short(found.inputs.get('checkpoint'))}, not of {checkpoint}.",
                f"evaluate it: gtrturbo eval --checkpoint {checkpoint} …",
            )
        rows.append(_row(found))
    return [*rows, ""]


def _row(found: Manifest) -> str:
    numbers = found.metrics
    chance = ", ".join(f"{numbers[name]:.3f}" for name in ("chance_random", "chance_constant") if name in numbers)
    config = _told(EvalConfig, found.config)
    task = " ".join([config["task"], *config.get("env", [])])
    success = f"{numbers['success_rate']:.3f} [{numbers['success_low']:.3f}, {numbers['success_high']:.3f}]"
    seeds = config.get("panel") or f"seed {config.get('seed')}"
    return f"| {_plain(task)} | {_plain(seeds)} | {numbers['episodes']:.0f} | {success} | {chance} |"


def _options(config: type, values: Mapping[str, Any]) -> str:
    """Write settings as options, in the order in which they are declared: further values of an option after its first."""
    given = [(field.option, values[field.name]) for field in fields(config) if values.get(field.name) not in (None, "", [])]
    return " ".join(_option(option, value) for option, value in given)


def _option(option: str, value: Any) -> str:
    if isinstance(value, bool):
        return option if value else option.replace("--", "--no-", 1)
    return " ".join(f"{option} {_plain(shell_word(each))}" for each in _listed(value))


def _listed(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list | tuple) else [str(value)]


def _plain(text: Any) -> str:
    """Write text of others where it can neither end a cell or code nor steer a page."""
    return visible(str(text)).replace("\n", " ").replace("|", "¦").replace("`", "'").replace("<", "‹")
