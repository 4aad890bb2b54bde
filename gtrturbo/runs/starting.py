"""Whether the checkpoint that a run starts from goes with its settings: whose they are, and where the learning rate begins."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gtrturbo.analysis.record import is_recorded
from gtrturbo.config import PpoStepConfig, RunConfig
from gtrturbo.distributed.escapes import shell_word
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint_files import is_adapter
from gtrturbo.models.sizes import built_in_name
from gtrturbo.models.under_adapter import base_here
from gtrturbo.runs.plan import Step
from gtrturbo.runs.presets import PRESETS
from gtrturbo.store.json_files import read_json
from gtrturbo.store.names import MODEL_CONFIG


def require_start(config: RunConfig, steps: Sequence[Step]) -> None:
    """Refuse to begin a run with the settings of another model than it starts from, or at the end of a schedule.

    A run that was begun goes on as it was.

    Raises:
        GtrTurboError: names the option that mends it.
    """
    if is_recorded(config.out) and not config.overwrite:
        return
    if config.start and config.model in PRESETS:
        _require_own_preset(config.start, config.model)
    updates = [step.config for step in steps if isinstance(step.config, PpoStepConfig)]
    if updates and updates[0].schedule_updates:
        _require_schedule(config.start, updates)


def _require_own_preset(start: Path, model: str) -> None:
    """Refuse the measured settings of a built-in model for another one. Of what is not here whole nothing is known."""
    folder = base_here(start) if is_adapter(start) else start
    file = folder / MODEL_CONFIG if folder else None
    if file is None or not file.is_file():
        return
    found = built_in_name(read_json(file, dict[str, Any], mend=f"see: gtrturbo show {shell_word(str(folder))} --check"))
    if found == model:
        return
    takes = "" if found else ", which takes the paper's settings."
    raise GtrTurboError(
        f"{start} is {found or 'no built-in model'}, and --model {model} would train it with the settings measured for {model}.",
        f"add: --model {found or shell_word(str(start))}{takes}",
    )


def _require_schedule(start: Path | None, updates: Sequence[PpoStepConfig]) -> None:
    """Refuse a learning rate that has fallen to its end before the run ends, because an earlier run's updates count."""
    optimizers, first = importlib.import_module("gtrturbo.train.optimizer"), updates[0]
    behind = optimizers.updates_behind(start) if start else 0
    optimizers.require_begun(behind, start, schedule_start=first.schedule_start)
    counted = behind - first.schedule_start
    if counted and counted + len(updates) > first.schedule_updates:
        raise GtrTurboError(
            f"{counted} updates of the {first.schedule_updates} in which the learning rate falls are behind {start} already: it "
            f"would end at {first.final_learning_rate:g} before this run does.",
            f"begin anew: --set ppo-step.schedule-start={behind}; or go on with the earlier schedule: "
            f"--set ppo-step.schedule-updates={counted + len(updates)}",
        )
