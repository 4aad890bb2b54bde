"""How a plan is worked off: step by step in this process, or with a process for each."""

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gtrturbo.analysis.history import check_sources, own_code, record_run
from gtrturbo.config import RunConfig
from gtrturbo.console import stderr
from gtrturbo.distributed.children import run_child
from gtrturbo.distributed.processes import world
from gtrturbo.errors import GtrTurboError
from gtrturbo.plugins import names_code
from gtrturbo.runs.plan import Step, plan
from gtrturbo.runs.pruning import leftovers, schedule
from gtrturbo.runs.script import command, command_words
from gtrturbo.runs.warm_start import check_tasks
from gtrturbo.stages import execute, existing, read_by, stage_of
from gtrturbo.store.draft import Result
from gtrturbo.store.ids import artifact_id, require_there
from gtrturbo.store.names import MANIFEST
from gtrturbo.store.pruned import prune
from gtrturbo.store.run_cache import caching
from gtrturbo.store.trackers import require_trackers


def run(config: RunConfig, *, on_step: Callable[[Step, Result, float], None] | None = None) -> list[Result]:
    """Execute a plan step by step; `on_step` is called after each with its result and the seconds that it took.

    With `subprocess` each stage is a process of its own. What `keep_teachers` and `keep_optimizers` leave over is pruned as soon
    as no later step reads it.

    Raises:
        GtrTurboError: a stage fails, or the run was begun with other code of the user's own.
    """
    steps, own, results = plan(config), own_code(config), []
    _check_world(config)
    check_sources(config, own)
    check_tasks(steps)
    _check_inputs(steps)
    require_trackers(config.log)
    if world().first:
        record_run(config, replace=False, own=own)
    due = schedule([step.config for step in steps], keep_teachers=config.keep_teachers, keep_optimizers=config.keep_optimizers)
    with caching():
        for position, step in enumerate(steps):
            started = time.monotonic()
            results.append(execute_alone(step) if config.subprocess else execute(step.config))
            if on_step:
                on_step(step, results[-1], time.monotonic() - started)
            _prune(due.get(position, []), results, config.out)
    if world().first:
        record_run(config, replace=True, own=own)  # By now all that is there is known to be of these settings.
    return results


def _check_inputs(steps: Sequence[Step]) -> None:
    """Refuse before any work what no step makes and is not there."""
    made = {step.config.out for step in steps}
    for path in {path for step in steps for path in read_by(step.config)} - made:
        if not names_code(path):
            require_there(path)


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
        GtrTurboError: the process failed (it said why itself) or was killed.
    """
    if existing(step.config) is None:
        _start(step)
    result = existing(replace(step.config, overwrite=False))
    if result is None:
        raise GtrTurboError(f"{step.stage} left no {step.config.out}.", f"run it alone with: {command(step)}")
    return result


def _start(step: Step) -> None:
    words = command_words(step)
    code = run_child(words)
    if code:
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"left with exit code {code}"
        raise GtrTurboError(f"{step.stage} of iteration {step.iteration} {how}.", f"run it alone with: {command(step)}")
