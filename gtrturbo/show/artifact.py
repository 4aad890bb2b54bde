"""show: print any artifact, an episode of it, or the list of a run's artifacts; --check hashes every file again."""

from collections import Counter, defaultdict
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.text import Text

from gtrturbo.analysis.history import read_history
from gtrturbo.analysis.record import is_recorded
from gtrturbo.analysis.spending import Spending, spending_of
from gtrturbo.config import ShowConfig
from gtrturbo.console import number
from gtrturbo.distributed.escapes import shell_word
from gtrturbo.errors import GtrTurboError, few
from gtrturbo.show.leftovers import clean_run
from gtrturbo.show.moved import moved_sections
from gtrturbo.show.outcome import print_outcome
from gtrturbo.show.run import MEND, absent_base, check_run, describe_damage, find_artifacts, print_run
from gtrturbo.show.text import Row, identity, section, setting, stdout
from gtrturbo.show.turns import demo_rows, show_episode, show_row
from gtrturbo.show.weights import WEIGHTS, tensor_rows, weights_rows
from gtrturbo.store.files import list_files
from gtrturbo.store.ids import artifact_id, is_model_folder
from gtrturbo.store.manifest import Manifest, read_manifest
from gtrturbo.store.names import MANIFEST, TIMING
from gtrturbo.store.prices import read_prices
from gtrturbo.store.pruned import missing_files, pruned_files, remake_command
from gtrturbo.store.records import mean
from gtrturbo.store.timing import read_timing
from gtrturbo.store.turns import read_demos, read_scores

TENSORS = "tensors (* is a number, such as the layer's)"


def show(config: ShowConfig) -> None:
    """Print what a folder holds to stdout.

    Raises: GtrTurboError: nothing to show there, options that do not go together, or, with --check, damaged files.
    """
    path = config.artifact
    _check_options(config)
    with stdout() as console:
        if config.clean:
            clean_run(console, path)
        elif (path / MANIFEST).is_file():
            _show_artifact(console, config)
        elif is_model_folder(path):
            _show_model(console, config)
        else:
            _show_run(console, config)


def _check_options(config: ShowConfig) -> None:
    if not config.artifact.is_dir():
        raise GtrTurboError(f"there is no folder {config.artifact}.", "name the folder of an artifact or of a run.")
    if config.episode is not None and config.turn is not None:
        raise GtrTurboError("--episode and --turn are both given.", "give one of the two.")
    if config.prices and (_wants_turns(config) or not is_recorded(config.artifact)):
        raise GtrTurboError(f"--prices is for a run, and {config.artifact} is none.", "name the folder that gtrturbo run wrote.")
    if config.clean and (config.check or _wants_turns(config)):
        raise GtrTurboError("--clean removes what was left, and shows nothing.", "give it alone.")
    if config.scores and not _wants_turns(config):
        raise GtrTurboError("--scores colours replies, but no episode is named.", "add --episode E or --turn ROW.")


def _wants_turns(config: ShowConfig) -> bool:
    return config.episode is not None or config.turn is not None


def _show_artifact(console: Console, config: ShowConfig) -> None:
    path = config.artifact
    manifest = read_manifest(path)
    if config.check and (damage := describe_damage(path, manifest)):
        raise GtrTurboError(f"{path} is damaged: {damage}.", MEND)
    if config.episode is not None:
        show_episode(console, path, config.episode, config.scores)
    elif config.turn is not None:
        show_row(console, path, config.turn, config.scores)
    else:
        _print_manifest(console, path, manifest)
    if missing := missing_files(path, manifest):
        raise GtrTurboError(f"{path} is damaged: missing {few(missing)}.", MEND)
    if config.check:
        pruned = len(pruned_files(path))
        also = f", {pruned} pruned" if pruned else ""
        if base := absent_base(path, manifest):
            also += f", its base {base} is not here to be checked"
        elif manifest.base:
            also += f", {len(manifest.base)} of its base"
        console.print(Text(f"ok: {len(manifest.files) - pruned} files match{also}, id {artifact_id(path)[:12]}"))


def _show_model(console: Console, config: ShowConfig) -> None:
    path = config.artifact
    if config.check or _wants_turns(config):
        raise GtrTurboError(
            f"{path} is a model without {MANIFEST}: there is nothing to check it against, and it has no episodes.",
            f"make a checkpoint of it with: gtrturbo init --model {shell_word(str(path))} …",
        )
    section(console, str(path), [("kind", "model, not made by gtrturbo"), ("id", _full_id(path)), *weights_rows(path)])
    section(console, TENSORS, tensor_rows(path))
    section(console, "files", _file_rows(path, list_files(path)))


def _show_run(console: Console, config: ShowConfig) -> None:
    path = config.artifact
    artifacts = find_artifacts(path)
    if not artifacts:
        raise GtrTurboError(
            f"{path} has no {MANIFEST}, and no artifact lies below it.",
            "if a stage should have written it, it did not finish: run it again with the same --out.",
        )
    if _wants_turns(config):
        turns = next((found.path for found in artifacts if found.manifest.kind == "turns"), path / "rollouts/…")
        raise GtrTurboError(f"{path} is a run, and has no episodes itself.", f"name turns in it: gtrturbo show {turns} …")
    if is_recorded(path):
        run = read_history(path)
        spent = _about_teacher(spending_of(run, read_prices(config.prices)))
        print_outcome(console, run, Counter(found.manifest.kind for found in artifacts), spent)
    if config.artifacts or not is_recorded(path):
        print_run(console, path, artifacts)
    if config.check:
        check_run(console, path, artifacts)


def _about_teacher(spent: Spending) -> list[Row]:
    """Say what a run's teachers were asked and cost, as far as there is something to say."""
    tokens, rows = spent.tokens, list[Row]()
    if spent.calls:
        rows.append(("the teacher's answers", f"{number(spent.calls)} used, {number(spent.paid_calls)} paid for by this run"))
        said = f"{number(tokens.input)} read, {number(tokens.cached)} of them cached, {number(tokens.output)} written"
        rows.append(("its tokens", said))
    if spent.calls and spent.money is not None:
        paid = "unknown" if spent.paid is None else f"{spent.paid:.4g}"
        rows.append(
            ("its cost", f"{spent.money:.4g} {spent.currency} if each were paid for, paid {paid}; prices of {spent.dated}")
        )
    if spent.seconds:
        machine = "" if spent.machine is None else f", {spent.machine:.4g} {spent.currency} of this machine"
        rows.append(("the teacher's time", f"{spent.seconds:.1f} s of merging and annotating{machine}"))
    return rows


def _print_manifest(console: Console, path: Path, manifest: Manifest) -> None:
    head: list[Row] = [("kind", manifest.kind), ("stage", manifest.stage), ("id", _full_id(path)), ("version", manifest.version)]
    section(console, str(path), [*head, *ABOUT[manifest.kind](path, manifest)])
    if manifest.kind == "checkpoint":
        section(console, TENSORS, tensor_rows(path))
        for title, rows in moved_sections(path):
            section(console, title, rows)
    section(console, "config", [(name, setting(value)) for name, value in manifest.config.items()])
    section(console, "inputs", [(name, identity(value)) for name, value in manifest.inputs.items()])
    section(console, "metrics", [(name, number(value)) for name, value in manifest.metrics.items()])
    if manifest.kind == "demos":
        first = next(iter(read_demos(path)), None)
        section(console, "first demo", demo_rows(path, first) if first else [])
    section(console, "files", _file_rows(path, list(manifest.files)))
    if pruned_files(path):
        section(console, "pruned files are made again with", [("", remake_command(path))])
    if (path / TIMING).exists():
        timing = read_timing(path / TIMING)
        section(console, "timing", [(name, _measured(value)) for name, value in timing.items()])


def _full_id(path: Path) -> Text:
    full = artifact_id(path)
    return Text(full[:12], "bold").append(f"  {full}", "dim not bold")


def _measured(value: object) -> str:
    return number(value) if isinstance(value, int | float) else setting(value)


def _file_rows(path: Path, names: list[str]) -> list[Row]:
    """List files with their sizes, those in a folder together: turns may have thousands of pictures."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        folder, slash, _ = name.partition("/")
        groups[folder + slash].append(name)
    return [(group, _size(path, group, members)) for group, members in groups.items()]


def _size(path: Path, group: str, names: list[str]) -> str:
    present = [path / name for name in names if (path / name).is_file()]
    size = decimal(sum(file.stat().st_size for file in present))
    if names == [group] and group in pruned_files(path):
        return "pruned"
    if len(present) < len(names):
        return f"{len(names) - len(present)} missing" if group.endswith("/") else "missing"
    return f"{size} in {len(names)} files" if group.endswith("/") else size


def _about_checkpoint(path: Path, manifest: Manifest) -> list[Row]:
    missing = [name for name in missing_files(path, manifest) if fnmatch(name, WEIGHTS)]
    return [("weights", f"missing {few(missing)}")] if missing else weights_rows(path)


def _about_turns(path: Path, manifest: Manifest) -> list[Row]:
    first, count = manifest.config.get("first_episode", 0), int(manifest.metrics["episodes"])
    see = f"gtrturbo show {shell_word(str(path))} --episode {first}"
    return [("success", _success(manifest)), ("episodes", f"{first}-{first + count - 1}, see one with: {see}")]


def _success(manifest: Manifest) -> str:
    rate, low, high = (100 * manifest.metrics[f"success_{name}"] for name in ("rate", "low", "high"))
    return f"{rate:.1f} % of {number(manifest.metrics['episodes'])} episodes won (95 % interval {low:.1f}-{high:.1f} %)"


def _about_evaluation(path: Path, manifest: Manifest) -> list[Row]:
    success, episodes = _about_turns(path, manifest)
    if "chance_random" not in manifest.metrics:  # --chance-episodes 0, or it took too long.
        return [success, ("by chance", "not measured"), episodes]
    chance, constant = (100 * manifest.metrics[f"chance_{name}"] for name in ("random", "constant"))
    return [success, ("by chance", f"{chance:.1f} % with random actions, {constant:.1f} % with always the same one"), episodes]


def _about_scores(path: Path, manifest: Manifest) -> list[Row]:
    rows, _ = read_scores(path)
    logprobs = [value for row in rows for value in row.tolist()]
    said = f"{len(rows)} turns, {len(logprobs)} tokens, mean log-prob of the teacher {mean(logprobs):.4g} nats"
    top = manifest.config.get("top_logprobs", 0)
    kept = [("distributions", f"the {top} most likely tokens at each token, or all")] if top else []
    return [("scores", said), *kept, ("see", "gtrturbo show TURNS --episode E --scores " + shell_word(str(path)))]


def _about_demos(path: Path, manifest: Manifest) -> list[Row]:
    return [("demos", f"{number(manifest.metrics['demos'])} of {number(manifest.metrics['turns'])} turns")]


ABOUT: dict[str, Callable[[Path, Manifest], list[Row]]] = {
    "checkpoint": _about_checkpoint,
    "turns": _about_turns,
    "evaluation": _about_evaluation,
    "scores": _about_scores,
    "demos": _about_demos,
}
