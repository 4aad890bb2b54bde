"""What the stages of a plan name, looked for before any work: hours into a run is late to learn that there is no such thing."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gtrturbo.config import DistillConfig, InitConfig, MergeConfig, PpoStepConfig
from gtrturbo.config.addresses import kind_of, served_model
from gtrturbo.config.choices import BUILT_IN_CREDITS, BUILT_IN_ENGINES, VLLM
from gtrturbo.config.fields import seams
from gtrturbo.play.lora_serving import legal_rank
from gtrturbo.play.teachers import find_mode, find_teacher
from gtrturbo.plugins import find, is_outside, load, names_code
from gtrturbo.stages.table import STAGES
from gtrturbo.train.guards import find_guard


def require_names(configs: Sequence[Any]) -> None:
    """Refuse what stages would not find or could not use: a guard, a credit, an estimator, a mode, an engine, code of one's own.

    Code of the user's own is imported, as each stage will. Only for that is torch loaded.

    Args:
        configs: of the stages of a run.

    Raises:
        GtrTurboError: names the first.
    """
    code: set[tuple[str, str]] = set()
    if any(getattr(config, "engine", None) == VLLM for config in configs):  # It is started for them.
        legal_rank(max((config.lora_rank for config in configs if isinstance(config, InitConfig)), default=0))
    for config in configs:
        if isinstance(config, PpoStepConfig):
            _require_update(config)
        if isinstance(config, DistillConfig):
            mode = find_mode(config.mode)
            for teacher in (config.teacher, *config.more_teachers):
                if teacher and served_model(teacher) is None and names_code(teacher):
                    find_teacher(str(teacher), mode.needs)
        if engine := getattr(config, "engine", None):
            find("engine", kind_of(engine), dict.fromkeys(BUILT_IN_ENGINES))
        # Tasks are looked for with their options, where a run is still to begin.
        named = [seam for field, seam in seams(config).items() if field != "task"]
        code |= {(kind, name) for kind, name in named if names_code(Path(name))}
    for kind, name in sorted(code):
        load(kind, name)


def _require_update(config: PpoStepConfig) -> None:
    find_guard(config.guard)
    if is_outside(config.kl_estimator):
        importlib.import_module("gtrturbo.train.guidance").find_estimator(config.kl_estimator)
    if is_outside(config.credit):
        importlib.import_module("gtrturbo.train.credit").find_credit(config.credit)
    else:
        find("credit", config.credit, dict.fromkeys(BUILT_IN_CREDITS))


def require_merges(merges: Sequence[MergeConfig], *, gated: bool) -> None:
    """Refuse a merge rule that there is not, and settings that do not go with it, or not with so many checkpoints.

    Args:
        merges: of a run, in order.
        gated: which of their checkpoints are merged is known only then; one is the first that may be.

    Raises:
        GtrTurboError: names the first.
    """
    stage = importlib.import_module(STAGES["merge"].module)
    for merge in merges[:1] if gated or len(merges) == 1 else merges[1:]:
        stage.require_settings(merge, count=len(merge.checkpoints) or 1)
