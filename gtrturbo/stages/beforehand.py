"""What is refused before a stage's module, and with it torch, is imported: mistakes that manifests and options alone tell."""

import importlib
from pathlib import Path
from typing import Any

from gtrturbo.config import EvalConfig, InitConfig, PpoStepConfig, RolloutConfig
from gtrturbo.config.fields import fields, input_paths
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.hub_names import require_found
from gtrturbo.models.sizes import BUILT_IN
from gtrturbo.plugins import names_code
from gtrturbo.stages.idle import require_effect
from gtrturbo.store.ids import artifact_id, short
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.names import MANIFEST

# What an input has to be, by the option that names it. Folders without a manifest are models from elsewhere.
READ_AS = {"checkpoint": "checkpoint", "teacher": "checkpoint", "rollouts": "turns", "scores": "scores", "demos": "demos"}


def refuse_early(config: Any) -> None:
    """Refuse inputs of another kind, an unknown task or option of it, options without effect, and turns that another played.

    Raises:
        GtrTurboError: the first that does not fit.
    """
    for name, value in input_paths(config).items():
        for path in value if isinstance(value, tuple) else (value,):
            if name in READ_AS and not names_code(path) and (path / MANIFEST).is_file():
                read_manifest(path, READ_AS[name])
    if isinstance(config, RolloutConfig | EvalConfig) and config.task:  # distill has the turns' own options of its task.
        importlib.import_module("gtrturbo.tasks.loading").load_task(config.task, config.env)
    if isinstance(config, InitConfig):
        if config.task and config.model not in BUILT_IN:
            raise GtrTurboError(
                f"{config.model} brings its tokenizer with it, so that --task {config.task} has nothing to make.",
                f"leave --task out, or choose a built-in --model: {', '.join(BUILT_IN)}.",
            )
        if config.revision and Path(config.model).is_dir():
            raise GtrTurboError(f"--revision is of a model on the hub, and {config.model} is a folder.", "leave it out.")
        require_found(config.model, config.revision)
    require_effect(config)
    if isinstance(config, PpoStepConfig):
        require_taught(config)
        require_player(config.rollouts, config.checkpoint)


def require_taught(config: PpoStepConfig) -> None:
    """Refuse settings of a teacher's guidance in an update that has none."""
    for field in fields(PpoStepConfig):
        guidance = "scores" if field.name.startswith("kl_") else "demos" if field.name == "demo_coef" else None
        if guidance and not getattr(config, guidance) and getattr(config, field.name) != field.default:
            raise GtrTurboError(
                f"{field.option} has no part in an update without --{guidance}.",
                f"leave it out, or add: --{guidance} GUIDANCE, which distill writes.",
            )


def require_player(rollouts: Path, checkpoint: Path) -> None:
    """Refuse turns that another checkpoint played than the one that learns from them."""
    player, given = read_manifest(rollouts, "turns").inputs.get("checkpoint"), artifact_id(checkpoint)
    if isinstance(player, list):
        raise GtrTurboError(f"{rollouts} was played by several checkpoints, says its manifest.", "play again: gtrturbo rollout …")
    if player != given:
        played = "by the task's expert" if player is None else f"by {short(player)}"
        raise GtrTurboError(
            f"the turns in {rollouts} were played {played}, but --checkpoint is {short(given)}.",
            f"run: gtrturbo rollout --checkpoint {checkpoint} …",
        )
