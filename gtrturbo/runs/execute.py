"""How a plan is worked off: step by step in this process, or with a process for each."""

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from gtrturbo.analysis.record import Collapsed, check_sources, own_code, record_run
from gtrturbo.config import DistillConfig, InitConfig, MergeConfig, PpoStepConfig, RunConfig, SftConfig
from gtrturbo.config.choices import AUTO, CPU, HF
from gtrturbo.console import stderr
from gtrturbo.distributed.children import run_child
from gtrturbo.distributed.escapes import shell_word
from gtrturbo.distributed.processes import world
from gtrturbo.errors import COLLAPSE_CODE, Collapse, GtrTurboError
from gtrturbo.models.checkpoint_files import is_adapter
from gtrturbo.models.quantised import require_plain_base
from gtrturbo.models.split_ahead import require_splittable
from gtrturbo.plugins import Plugin, names_code, one_text
from gtrturbo.runs.going_on import require_same_run
from gtrturbo.runs.plan import Step, plan
from gtrturbo.runs.pruning import keeping, leftovers, schedule
from gtrturbo.runs.script import command, command_words
from gtrturbo.runs.sources import Watch
from gtrturbo.runs.starting import require_start
from gtrturbo.runs.teacher_tokens import check_playing, check_tokenizers
from gtrturbo.runs.warm_start import check_tasks
from gtrturbo.stages import execute, existing, read_by, require_unpruned, stage_of
from gtrturbo.stages.beforehand import refuse_early, require_begins, require_here, require_kinds, require_loaded
from gtrturbo.stages.servers_ahead import require_startable, unreached
from gtrturbo.stages.teaching_options import require_asked
from gtrturbo.store.draft import Result
from gtrturbo.store.ids import artifact_id, require_there
from gtrturbo.store.names import MANIFEST
from gtrturbo.store.pruned import prune
from gtrturbo.store.run_cache import caching
from gtrturbo.store.trackers import require_trackers

OnStep = Callable[[Step, Result, float], None]


def run(config: RunConfig, *, on_step: OnStep | None = None) -> list[Result]:
    """Execute a plan step by step; `on_step` is called after each with its result and the seconds that it took.

    With `subprocess` each stage is a process of its own. What `keep_teachers` and `keep_optimizers` leave over is pruned as soon
    as no later step reads it. Code of the user's own stays what it is when the run begins.

    Raises:
        Collapse: the policy cannot be trained on. Its last checkpoint is evaluated, and run.json says where it ended.
        GtrTurboError: a stage fails, or the run was begun with other code of the user's own.
    """
    with one_text():
        return _run(config, on_step)


def _run(config: RunConfig, on_step: OnStep | None) -> list[Result]:
    steps, own, results = plan(config), own_code(config), []
    _check_world(config)
    check_sources(config, own)
    outdated = check(config, steps)
    check_split(steps, alone=world().size == 1)
    _check_later(steps)
    _check_devices(steps)
    _check_servers(steps)
    check_tokenizers(config, steps)
    if not (steps[0].config.out / MANIFEST).is_file():
        refuse_early(steps[0].config)
    require_trackers(config.log)
    check_playing(steps, device=CPU if config.subprocess else None)  # A device is its children's.
    if world().first:
        record_run(config, replace=outdated, own=own)
    due = schedule([step.config for step in steps], **keeping(config))
    watch = Watch(alone=config.subprocess)
    with caching():
        for position, step in enumerate(steps):
            watch(step)
            try:
                results.append(_timed(step, config, on_step))
            except Collapse as error:
                raise _end(steps[:position], step, error, config, own, on_step) from error
            _prune(due.get(position, []), results, config.out)
    if world().first:
        record_run(config, replace=True, own=own)  # By now all that is there is known to be of these settings.
    return results


def _timed(step: Step, config: RunConfig, on_step: OnStep | None) -> Result:
    started = time.monotonic()
    result = execute_alone(step) if config.subprocess else execute(step.config)
    if on_step:
        on_step(step, result, time.monotonic() - started)
    return result


def _end(
    before: Sequence[Step], step: Step, error: Collapse, config: RunConfig, own: Mapping[str, Plugin], on_step: OnStep | None
) -> Collapse:
    """Evaluate the last checkpoint that can be, record that the run collapsed, and return what to tell of it."""
    if not step.iteration:
        return error  # Nothing was trained yet.
    if world().size == 1:  # Others of several processes are ended by the error.
        for last in last_evaluations(before):
            with suppress(Collapse):
                _timed(last, config, on_step)
                break
    if world().first:
        record_run(config, replace=True, own=own, collapsed=Collapsed(step.iteration, step.stage, error.what))
    return Collapse(
        f"the run collapsed at iteration {step.iteration}, {step.stage}: {error.what}",
        f"its checkpoints and evaluations so far are kept; for a page of them: gtrturbo report {shell_word(str(config.out))}",
    )


def last_evaluations(before: Sequence[Step]) -> list[Step]:
    """Plan evaluations as the first one was of the checkpoints that steps made, the newest first."""
    first = next(step for step in before if step.stage == "eval")
    updates = reversed([step for step in before if step.stage == "ppo-step"])
    return [
        Step("eval", replace(first.config, out=first.config.out.parent / update.config.out.name, checkpoint=update.config.out), k)
        for update in updates
        for k in [update.iteration]
    ] + [first]


def check(config: RunConfig, steps: Sequence[Step]) -> bool:
    """Refuse before any work what the settings of a run and the artifacts that are there tell to be wrong.

    Returns: whether run.json says another plan, of which all that is there is a part of this one too.

    Raises:
        GtrTurboError: the first that is wrong.
    """
    outdated = require_same_run(config, steps)
    check_tasks(steps)
    _check_inputs(steps)
    _check_weights(steps)
    require_start(config, steps)
    for asked in (step.config for step in steps if isinstance(step.config, DistillConfig)):
        if not (asked.out / MANIFEST).is_file():
            require_asked(asked)
    check_split(steps, alone=False)  # How many processes there will be a dry run need not know.
    return outdated


def _check_inputs(steps: Sequence[Step]) -> None:
    """Refuse before any work what no step makes and is not there, or is of another kind."""
    made = {step.config.out for step in steps}
    for path in {path for step in steps for path in read_by(step.config)} - made:
        if not names_code(path):
            require_there(path)
    for step in steps:
        require_kinds(step.config, apart_from=made)
        if not (step.config.out / MANIFEST).is_file():
            require_unpruned(step.config, apart_from=made)


def _check_weights(steps: Sequence[Step]) -> None:
    """Refuse before any work models that no stage would load, and those that merges of later iterations would not go around."""
    made = {step.config.out for step in steps}
    for config in (step.config for step in steps):
        if isinstance(config, InitConfig):
            require_begins(config)
        elif not isinstance(config, MergeConfig):
            if getattr(config, "engine", HF) == HF:
                require_loaded(config, apart_from=made)
        elif config.base and config.checkpoints and config.base not in made:
            require_plain_base(config.base, option="--start")


def check_split(steps: Sequence[Step], *, alone: bool) -> None:
    """Refuse before any work to split what no stage would, of steps that are still to be done."""
    made = {step.config.out: step.config for step in steps}
    for config in (step.config for step in steps if not (step.config.out / MANIFEST).is_file()):
        if getattr(config, "fsdp", False):
            require_splittable(alone=alone, adapter=_trains_adapter(config.checkpoint, made))


def _trains_adapter(checkpoint: Path, made: Mapping[Path, Any]) -> bool:
    """Tell whether a checkpoint is an adapter, or will be once a run's steps have made it."""
    while isinstance(maker := made.get(checkpoint), SftConfig | PpoStepConfig):
        checkpoint = maker.checkpoint
    return maker.lora_rank > 0 if isinstance(maker, InitConfig) else maker is None and is_adapter(checkpoint)


def _check_devices(steps: Sequence[Step]) -> None:
    """Refuse before any work a device that is not here, of a step that is still to be done."""
    named = {getattr(step.config, "device", AUTO) for step in steps if not (step.config.out / MANIFEST).is_file()}
    for device in sorted(named):
        require_here(device)


def _check_servers(steps: Sequence[Step]) -> None:
    """Refuse before any work a server that cannot be started, and tell of one that is not there, of steps still to be done."""
    configs = [step.config for step in steps if not (step.config.out / MANIFEST).is_file()]
    for config in configs:
        require_startable(config)
    for told in unreached(configs):
        stderr.print(told, style="yellow", soft_wrap=True)


def _check_later(steps: Sequence[Step]) -> None:
    """Refuse before any work what lies where later steps will write and is of another run, as of one from another start."""
    there = [(step.config.out / MANIFEST).is_file() for step in steps]
    missing = there.index(False) if False in there else len(there)
    for step, done in zip(steps[missing:], there[missing:], strict=True):
        if done and all(path.exists() for path in read_by(step.config)):
            existing(step.config)


def _check_world(config: RunConfig) -> None:
    if config.subprocess and world().size > 1:
        raise GtrTurboError("--subprocess starts processes of its own, not torchrun's.", "leave one of the two out.")


def _prune(old: list[Any], results: list[Result], run: Path) -> None:
    made = {result.out: result.id for result in results}
    for config in old if world().first else []:
        remake = command(Step(stage_of(config), replace(config, overwrite=True)))
        own = artifact_id(config.out) == made[config.out]
        kept = prune(config.out, leftovers(config), remake=remake, within=run) if own else [MANIFEST]
        if kept:
            stderr.print(
                f"{config.out} is not pruned: {', '.join(kept)} is not what this run made.", style="yellow", soft_wrap=True
            )


def execute_alone(step: Step) -> Result:
    """Run a step as a process of its own, unless its artifact is there already. Its messages go to our stderr.

    Raises:
        GtrTurboError: the process failed, in its own words, or was killed.
    """
    if existing(step.config) is None:
        _start(step)
    result = existing(replace(step.config, overwrite=False))
    if result is None:
        raise GtrTurboError(f"{step.stage} left no {step.config.out}.", f"run it alone with: {command(step)}")
    return result


def _start(step: Step) -> None:
    ended, alone = run_child(command_words(step)), f"run it alone with: {command(step)}"
    code, fix = ended.code, ended.fix or alone
    if code == COLLAPSE_CODE:
        raise Collapse(ended.what or f"{step.stage} says so.", fix)
    if code:
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"left with exit code {code}"
        why = f": {ended.what}" if ended.what else "."
        raise GtrTurboError(f"{step.stage} of iteration {step.iteration} {how}{why}", fix)
