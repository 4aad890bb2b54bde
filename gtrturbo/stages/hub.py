"""What all stages have in common: run one unless its artifact is there, and say what an artifact is made from."""

import importlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from gtrturbo.config.addresses import kind_of
from gtrturbo.config.fields import absent_knobs, input_paths, knobs, seams
from gtrturbo.config.games import game_name, without_folders
from gtrturbo.distributed.processes import Alone, group, working_in, world
from gtrturbo.distributed.threads import map_at_once
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.base_record import model_under, require_same_base
from gtrturbo.models.under_adapter import bases_under
from gtrturbo.plugins import is_outside, load, names_code, one_text
from gtrturbo.stages.beforehand import refuse_early
from gtrturbo.stages.idle import idle_options
from gtrturbo.stages.played import played_with
from gtrturbo.stages.table import STAGES, Stage, resumable_files
from gtrturbo.store.apart import require_apart
from gtrturbo.store.draft import Draft, Result
from gtrturbo.store.ids import artifact_id, sha256_file
from gtrturbo.store.names import MANIFEST
from gtrturbo.store.provenance import UNDER, Provenance
from gtrturbo.store.pruned import pruned_files, remake_command
from gtrturbo.store.trackers import require_trackers, telling_of_one_stage, tracking
from gtrturbo.store.verification import verify
from gtrturbo.store.writing import finished, require_place

# Of what has several built-in names, the one that counts.
CANONICAL = {"task": game_name, "engine": kind_of}


def execute(config: Any) -> Result:
    """Run the stage that a config belongs to, unless its artifact is there already.

    Under torchrun all processes call this with the same config and get the same result; an error in one ends all.
    """
    stage = _stage(config)
    with one_text(), stage.inside(config):
        return _execute(stage, stage.resolve(config))


def _execute(stage: Stage, config: Any) -> Result:
    if world().size == 1:
        return _finished(config) or _run(config)
    with importlib.import_module("gtrturbo.distributed.collectives").together():
        if result := _by_the_first(_finished, config):
            return result
        done = _run(config) if stage.shared else _by_the_first(_run, config)
        assert done is not None
        return done


def preview(config: Any) -> str:
    """Say what a stage would read and write, without doing it."""
    stage = _stage(config)
    return importlib.import_module(stage.module).preview(stage.resolve(config))


def _run(config: Any) -> Result:
    require_unpruned(config)
    require_apart("--out", config.out, read_by(config))
    if group().world.first:
        require_place(config.out, overwrite=config.overwrite)
    refuse_early(config)
    if group().world.first:
        _verify_inputs(config)
    require_trackers(config.log)  # Before the work, at whose end the stage's own numbers are told.
    with telling_of_one_stage():
        result = importlib.import_module(_stage(config).module).run(config)
        with tracking(config.log) as track:
            track(stage_of(config), config.out, None, result.metrics)
    return result


def existing(config: Any) -> Result | None:
    """Return the artifact of a config if exactly this work made it, None if it is still to be made.

    Raises:
        GtrTurboError: something else is there; names the first difference.
    """
    stage = _stage(config)
    with stage.inside(config):
        return _finished(stage.resolve(config))


def _finished(config: Any) -> Result | None:
    if config.overwrite or (_stage(config).beside and not config.out.exists()):
        return None
    result = finished(config.out, provenance(config))
    if result and _stage(config).rechecks(config):
        importlib.import_module(_stage(config).module).recheck(config)
    return result


def _by_the_first(work: Callable[[Any], Result | None], config: Any) -> Result | None:
    """Let the first process of the group do it alone, and tell the others what came of it."""
    told = None
    if group().world.first:
        with working_in(Alone()):
            result = work(config)
        told = [result.id, result.metrics] if result else None
    told = group().broadcast(told)
    return Result(out=config.out, id=told[0], metrics=told[1]) if told else None


def require_unpruned(config: Any, *, apart_from: Collection[Path] = ()) -> None:
    """Refuse to work on files that a run threw away, but for those that only another stage goes on from.

    Args:
        config: of the stage.
        apart_from: inputs that are not asked about, as they are still to be made.

    Raises:
        GtrTurboError: names the files, and the command that makes them again.
    """
    others = _others(config)
    for path in [each for each in read_by(config) if each not in apart_from]:
        gone = [name for name in pruned_files(path) if not name.startswith(others)]
        if gone:
            raise GtrTurboError(
                f"{', '.join(gone)} of {path} was pruned, and {stage_of(config)} reads it.",
                f"make it again with: {remake_command(path)}",
            )


def _others(config: Any) -> tuple[str, ...]:
    """Say how files of the inputs begin that only another stage goes on from."""
    return tuple(name for name in resumable_files() if name not in _stage(config).resumes)


def _verify_inputs(config: Any) -> None:
    """Refuse inputs whose files are not those that their manifests name, the bases under adapters among them."""
    others = _others(config)
    for path in dict.fromkeys(read_by(config)):
        if (path / MANIFEST).is_file():
            verify(path, config.verify_inputs, reads=lambda name: not name.startswith(others))
        for folder, names in bases_under(path):
            verify(folder, config.verify_inputs, reads=lambda name, under=names: name.startswith(under))
        if not _stage(config).leaves_base(config, path):
            require_same_base(path, config.verify_inputs)


def read_by(config: Any) -> list[Path]:
    """List the artifacts that a stage reads, the folder of another model that init starts from among them."""
    listed = [value if isinstance(value, tuple) else (value,) for value in input_paths(config).values()]
    return [*(path for paths in listed for path in paths), *_stage(config).folders(config).values()]


def stage_of(config: Any) -> str:
    """Name the stage that a config belongs to."""
    return next(name for name, stage in STAGES.items() if stage.config is type(config))


def _stage(config: Any) -> Stage:
    return STAGES[stage_of(config)]


def provenance(config: Any, identify: Callable[[Path], str] = artifact_id) -> Provenance:
    """Take the ids of a stage's inputs and its knobs, before the work starts.

    Args:
        identify: gives the id of an input; of several it is called by several threads.

    Raises:
        GtrTurboError: an input is missing, or code of the user's own cannot be imported.
    """
    stage, chosen = _stage(config), knobs(config)
    inputs = {name: _ids(value, identify) for name, value in input_paths(config).items() if not _is_code(value)}
    for name, ids in stage.held(config).items():
        inputs[name] = [*ids, *(identity for identity in inputs.get(name, []) if identity not in ids)]
    for name, folder in stage.folders(config).items():
        inputs[name], chosen[name] = artifact_id(folder), "folder"
    inputs |= _models_under(config)
    named = seams(config).items()
    outside = {name: load(kind, value) for name, (kind, value) in named if names_code(Path(value))}
    chosen |= {name: canonical(kind, value) for name, (kind, value) in named if name in chosen}
    chosen |= {name: without_folders(config.task, env) for name, env in chosen.items() if name == "env"}
    chosen |= stage.names(config)
    texts = {name: {"name": file.name, "sha256": sha256_file(file)} for name, file in stage.texts(config).items()}
    return Provenance(
        stage=stage_of(config),
        kind=stage.kind(config),
        config=chosen,
        inputs=inputs,
        plugins=played_with(config)
        | {name: {"name": each.name, "sha256": each.sha256} for name, each in outside.items()}
        | texts,
        absent=absent_knobs(type(config)),
        idle=tuple(sorted(idle_options(config))),
    )


def _models_under(config: Any) -> dict[str, str | list[str]]:
    """Hash what lies under adapters among the inputs where no manifest says it, and it is no input itself."""
    stage, given, found = _stage(config), [path for path in read_by(config) if path.is_dir()], {}
    for name, value in input_paths(config).items():
        listed = value if isinstance(value, tuple) else (value,)
        adapters = [path for path in listed if path.is_dir() and not stage.leaves_base(config, path)]
        if hashes := [sha256 for path in adapters if (sha256 := model_under(path, given))]:
            found[f"{UNDER}{name}"] = hashes if isinstance(value, tuple) else hashes[0]
    return found


def canonical(kind: str, name: str) -> str:
    """Return the one name by which a manifest calls what a user may call by several; of a file no folder."""
    if is_outside(name):
        return load(kind, name).name
    return CANONICAL[kind](name) if kind in CANONICAL else name


def _is_code(value: Path | tuple[Path, ...]) -> bool:
    """Tell whether all that is named is code of the user's own."""
    return all(map(names_code, value)) if isinstance(value, tuple) else names_code(value)


def _ids(value: Path | tuple[Path, ...], identify: Callable[[Path], str]) -> Any:
    if not isinstance(value, tuple):
        return identify(value)
    return map_at_once(identify, [each for each in value if not names_code(each)])


def done(draft: Draft) -> Result:
    """Return what a finished draft became."""
    if draft.result is None:
        raise ValueError("the artifact is not finished.")
    return draft.result
