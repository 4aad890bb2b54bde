"""`distill --student`: guidance, and at once the update that is guided by it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from gtrturbo.config import DistillConfig, PpoStepConfig, SftConfig
from gtrturbo.config.fields import build
from gtrturbo.errors import GtrTurboError
from gtrturbo.play.teachers import find_mode
from gtrturbo.runs.overrides import collect, settable
from gtrturbo.runs.plan import require_fitting_guidance
from gtrturbo.stages import execute
from gtrturbo.store.draft import Result
from gtrturbo.store.ids import require_there

BY_DISTILL = "distill decides what its update reads and writes"


def distill(config: DistillConfig) -> Result:
    """Annotate turns; with --student go on to the weights, with the guidance kept beside them as OUT.guidance."""
    if config.student is None:
        return execute(config)
    guidance = replace(config, out=config.out.with_name(config.out.name + ".guidance"), student=None, update=())
    update = _update(config, guidance.out)  # Before the work: a mistake in --update is found at once.
    require_fitting_guidance(guidance, update, "--top-logprobs 64")
    require_there(config.student)
    execute(guidance)
    return execute(update)


def _update(config: DistillConfig, guidance: Path) -> SftConfig | PpoStepConfig:
    """What --student runs: `sft` on the demos, or `ppo-step` on the scores with the environment's reward off."""
    common = {"out": config.out, "checkpoint": config.student, "overwrite": config.overwrite, "seed": config.seed}
    common |= {"device": config.device, "dtype": config.dtype}
    chosen: dict[str, Any] = {}
    writes_demos = find_mode(config.mode).writes == "demos"
    for setting in config.update:
        name, equals, value = setting.partition("=")
        if not equals:
            raise GtrTurboError(f"--update {setting} is not KEY=VALUE.", "for example: --update learning-rate=2e-4")
        stage = "sft" if writes_demos else "ppo-step"
        collect(chosen, settable(stage, name, told=f"--update {name}", decided=BY_DISTILL), value)
    if writes_demos:
        return build(SftConfig, common | {"data": (guidance,)} | chosen)
    return build(PpoStepConfig, common | {"rollouts": config.rollouts, "scores": guidance, "environment_coef": 0.0} | chosen)
