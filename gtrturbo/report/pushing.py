"""push: a checkpoint on the Hugging Face hub, with a card of what it is and how it was made."""

import importlib
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from rich.text import Text

from gtrturbo import __version__
from gtrturbo.analysis.history import History, read_history
from gtrturbo.analysis.record import is_recorded
from gtrturbo.config import PushConfig, RunConfig
from gtrturbo.config.fields import Role, fields
from gtrturbo.console import stderr
from gtrturbo.distributed.escapes import one_line, say, shell_word, visible
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.base_record import require_same_base
from gtrturbo.models.checkpoint_files import is_adapter
from gtrturbo.models.under_adapter import base_here, full_weights_command, is_of_hub, require_named
from gtrturbo.stages.table import STAGES
from gtrturbo.store.ids import artifact_id, short
from gtrturbo.store.inside import open_inside
from gtrturbo.store.manifest import Manifest, read_manifest
from gtrturbo.store.names import ADAPTER_CONFIG, CARD, MANIFEST, OPTIMIZER
from gtrturbo.store.pruned import pruned_files, remake_command
from gtrturbo.store.verification import verify

MOST_TOLD = 300  # characters of what the hub says


def push(config: PushConfig) -> str:
    """Send a checkpoint to the hub; return its address there. With --dry-run print the card and the files instead.

    Raises:
        GtrTurboError: it is no whole checkpoint, an evaluation is of another one, or the hub refuses.
    """
    manifest = read_manifest(config.checkpoint, "checkpoint")
    if gone := pruned_files(config.checkpoint):
        raise GtrTurboError(
            f"{', '.join(gone)} of {config.checkpoint} was pruned.", f"make it again with: {remake_command(config.checkpoint)}"
        )
    verify(config.checkpoint, "always", reads=lambda name: not name.startswith(OPTIMIZER))
    require_same_base(config.checkpoint, "always")
    _require_base_for_all(config.checkpoint)
    card = card_of(config.checkpoint, manifest, config.evaluations)
    names = [name for name in (*sorted(manifest.files), MANIFEST) if name != CARD and not name.startswith(OPTIMIZER)]
    if config.dry_run:
        say("\n".join([card, f"Files for {config.repository}:", CARD, *map(one_line, names)]))
        return ""
    with tempfile.TemporaryDirectory(prefix="gtrturbo-push-") as made:
        folder = Path(made)
        for name in names:
            _copy(config.checkpoint, name, folder)
        (folder / CARD).write_text(card, encoding="utf-8")
        return _send(config, folder)


def _require_base_for_all(checkpoint: Path) -> None:
    """Refuse an adapter on a model that lies on this machine alone: whoever fetches the adapter could not load it.

    Raises:
        GtrTurboError: names the command that merges it into full weights.
    """
    if not is_adapter(checkpoint):
        return
    named, here = require_named(checkpoint), base_here(checkpoint)
    if is_of_hub(checkpoint):
        if here is None:
            told = (
                f"{checkpoint} is an adapter on {named}, which is not on this machine: what the hub has of it was not compared."
            )
            stderr.print(Text(visible(told), style="yellow"), soft_wrap=True)
        return
    if here is not None and checkpoint.resolve() in here.resolve().parents:
        return  # It is sent along.
    where, base = ("lies on this machine alone", shell_word(named)) if here else ("is not there", "BASE")
    raise GtrTurboError(
        f"{checkpoint} is an adapter on {named}, which {where}: nobody who fetches the adapter could load it.",
        f"send full weights: {full_weights_command(checkpoint, base)} && gtrturbo push FULL …; or push the model under it, and "
        "begin an adapter from its id: gtrturbo init --model OWNER/NAME …",
    )


def _copy(source: Path, name: str, folder: Path) -> None:
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_inside(source, name) as file, target.open("xb") as copied:
        shutil.copyfileobj(file, copied)


def _send(config: PushConfig, folder: Path) -> str:
    hub, refusals = importlib.import_module("huggingface_hub"), importlib.import_module("huggingface_hub.errors")
    try:
        api = hub.HfApi(library_name="gtrturbo", library_version=__version__)
        address = api.create_repo(config.repository, private=config.private, exist_ok=True)
        api.upload_folder(repo_id=config.repository, folder_path=folder, commit_message=f"gtrturbo {__version__}")
    except (*_lost_connections(refusals), OSError) as error:  # What the hub itself answers is an OSError too.
        said = one_line(str(error))[:MOST_TOLD]
        answered = isinstance(error, refusals.HfHubHTTPError | refusals.LocalTokenNotFoundError)
        mend = "log in with: hf auth login" if answered else "check the connection"
        raise GtrTurboError(
            f"the hub did not take {config.repository}: {said}", f"{mend}, then give the same command again."
        ) from None
    return str(address)


def _lost_connections(refusals: Any) -> tuple[type[Exception], ...]:
    """Return what the hub's HTTP client raises, whichever it is in the version that is installed."""
    return tuple(each for each in refusals.HfHubHTTPError.__mro__ if each.__name__ == "HTTPError")


def card_of(checkpoint: Path, manifest: Manifest, evaluations: Sequence[Path]) -> str:
    """Write the card: what it is, its numbers on which task, what it was made from by which command and in which run."""
    run = _run_of(checkpoint)
    evaluations = evaluations or (_own_evaluations(run, checkpoint) if run else ())
    front = {"library_name": "peft" if ADAPTER_CONFIG in manifest.files else "transformers"}
    tags = ["gtrturbo", manifest.stage, *([run.method, run.settings["task"]] if run else [])]
    if is_adapter(checkpoint) and is_of_hub(checkpoint):
        front["base_model"] = require_named(checkpoint)
    front |= {"pipeline_tag": "image-text-to-text", "tags": tags}
    lines = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n",
        f"# A checkpoint of gtrturbo {manifest.stage}\n",
        f"Id `{artifact_id(checkpoint)}` (sha256 of its `{MANIFEST}`, which holds the hash of every file), "
        f"made by gtrturbo {_plain(manifest.version)}.\n",
        *_evaluated(checkpoint, evaluations),
        "## How it was made\n",
        *(_of_run(checkpoint, run) if run else []),
        f"    gtrturbo {manifest.stage} {_inputs(manifest)}{_options(manifest.config)} --out OUT\n",
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


def _run_of(checkpoint: Path) -> History | None:
    """Read the run that a checkpoint lies in, RUN/checkpoints/N; None where it lies elsewhere."""
    run = checkpoint.resolve().parent.parent
    return read_history(run) if is_recorded(run) else None


def _own_evaluations(run: History, checkpoint: Path) -> list[Path]:
    """Return the evaluations of a checkpoint that lie in its run."""
    entries, own = [*run.entries["student"], *run.entries["teacher"]], artifact_id(checkpoint)
    return [entry.path for entry in entries if entry.manifest.inputs.get("checkpoint") == own]


def _of_run(checkpoint: Path, run: History) -> list[str]:
    """Tell the run that a checkpoint is of, as the command that starts it; of a path nothing but what it stands for is told."""
    paths = {field.name for field in fields(RunConfig) if Path in (field.kind, *get_args(field.kind))}
    settings = {name: name.upper() if name in paths and value else value for name, value in run.settings.items()}
    return [
        f"Number {_plain(checkpoint.resolve().name)} of the checkpoints of this run:\n",
        f"    gtrturbo run {_options(settings)} --out RUN\n",
        "By this command in it:\n",
    ]


def _inputs(manifest: Manifest) -> str:
    """Write the options that name what it was made from; the table below says which artifact each stands for."""
    known = {field.name: field for field in fields(STAGES[manifest.stage].config)} if manifest.stage in STAGES else {}
    named = [known[name] for name in manifest.inputs if name in known]
    return "".join(f"{'' if Role.POSITIONAL in field.roles else field.option + ' '}{field.name.upper()} " for field in named)


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
    task = " ".join([str(found.config["task"]), *map(str, found.config.get("env") or ())])
    success = f"{numbers['success_rate']:.3f} [{numbers['success_low']:.3f}, {numbers['success_high']:.3f}]"
    seeds = found.config.get("panel") or f"seed {found.config.get('seed')}"
    return f"| {_plain(task)} | {_plain(seeds)} | {numbers['episodes']:.0f} | {success} | {chance} |"


def _options(config: dict[str, Any]) -> str:
    given = [(name, value) for name, value in config.items() if value not in (None, "", [])]
    return " ".join(_option(name.replace("_", "-"), value) for name, value in given)


def _option(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return " ".join(f"--{name} {_plain(shell_word(each))}" for each in _listed(value))


def _listed(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list | tuple) else [str(value)]


def _plain(text: Any) -> str:
    """Write text of others where it can neither end a cell or code nor steer a page."""
    return visible(str(text)).replace("\n", " ").replace("|", "¦").replace("`", "'").replace("<", "‹")
