"""What is refused before a stage's module, and with it torch, is imported: mistakes that manifests and options alone tell."""

import importlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from gtrturbo.config import DistillConfig, EvalConfig, InitConfig, PpoStepConfig, RolloutConfig
from gtrturbo.config.choices import AUTO, CPU
from gtrturbo.config.fields import fields, input_paths
from gtrturbo.config.playing import HALF
from gtrturbo.distributed.escapes import shell_word
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.base_record import is_on_another
from gtrturbo.models.checkpoint_files import is_adapter
from gtrturbo.models.hub_names import require_found
from gtrturbo.models.quantised import require_loadable, require_plain_base
from gtrturbo.models.sizes import BUILT_IN
from gtrturbo.models.under_adapter import full_weights_command, named_base
from gtrturbo.play.teachers import find_mode
from gtrturbo.plugins import names_code
from gtrturbo.stages.idle import lacks_values, require_effect
from gtrturbo.stages.servers_ahead import require_startable
from gtrturbo.stages.teaching_options import require_teachers
from gtrturbo.store.ids import artifact_id, short
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.names import MANIFEST, MODEL_INDEX, MODEL_WEIGHTS
from gtrturbo.store.turns import require_tokens

# What an input has to be, by the option that names it. Folders without a manifest are models from elsewhere.
READ_AS = {
    "checkpoint": ("checkpoint",),
    "teacher": ("checkpoint",),
    "more_teachers": ("checkpoint",),
    "rollouts": ("turns",),
    "scores": ("scores",),
    "demos": ("demos",),
    "data": ("turns", "demos"),
}


def refuse_early(config: Any) -> None:
    """Refuse inputs of another kind, an unknown task or option of it, options without effect, and turns that another played.

    Raises:
        GtrTurboError: the first that does not fit.
    """
    require_kinds(config)
    require_here(getattr(config, "device", AUTO))
    require_settings(config)
    if isinstance(config, DistillConfig) and find_mode(config.mode).writes == "scores":
        require_tokens(config.rollouts)
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
        require_begins(config)
    require_startable(config)
    if isinstance(config, PpoStepConfig):
        require_player(config.rollouts, config.checkpoint)


def require_settings(config: Any) -> None:
    """Refuse what the settings of a stage alone tell to be wrong, whatever it reads: so a run asks it of all its stages at first.

    Raises:
        GtrTurboError: names the first.
    """
    if isinstance(config, RolloutConfig):
        _require_player_named(config)
    require_effect(config)
    if isinstance(config, DistillConfig):
        require_teachers(config)
    if isinstance(config, PpoStepConfig):
        _require_taught(config)
        _require_values(config)


def require_kinds(config: Any, *, apart_from: Collection[Path] = ()) -> None:
    """Refuse artifacts of another kind than a stage reads, but for those that are still to be made."""
    for name, value in input_paths(config).items():
        for path in value if isinstance(value, tuple) else (value,):
            if name in READ_AS and path not in apart_from and not names_code(path) and (path / MANIFEST).is_file():
                _require_kind(path, READ_AS[name])


def _require_kind(path: Path, kinds: tuple[str, ...]) -> None:
    if len(kinds) == 1:
        read_manifest(path, kinds[0])
    elif (manifest := read_manifest(path)).kind not in kinds:
        raise GtrTurboError(
            f"{path} holds {manifest.kind} (made by {manifest.stage}), not {' or '.join(kinds)}.",
            "make some with: gtrturbo rollout --expert …",
        )


def require_begins(config: InitConfig) -> None:
    """Refuse a model that init would not begin from: an adapter, or quantised weights that are not made plain ones.

    Of a hub id that is not on this machine nothing is known yet.

    Raises:
        GtrTurboError: says which, and what takes it.
    """
    model = Path(config.model)
    if config.model in BUILT_IN:
        return
    if is_adapter(model) and not any((model / name).is_file() for name in (MODEL_WEIGHTS, MODEL_INDEX)):
        word, base = shell_word(config.model), shell_word(named_base(model) or "BASE")
        raise GtrTurboError(
            f"{config.model} is an adapter, and init begins from full weights.",
            f"go on from it as it is: gtrturbo run --start {word} …, or --checkpoint {word} of a stage; or write full "
            f"weights first: {full_weights_command(model, base)}",
        )
    if config.lora_rank:
        require_plain_base(config.model, config.revision)
    else:
        require_loadable(config.model, config.revision)


def require_loaded(config: Any, *, apart_from: Collection[Path] = ()) -> None:
    """Refuse checkpoints of quantised weights that a stage would load here, but for those that are still to be made."""
    for name, value in input_paths(config).items():
        for path in value if isinstance(value, tuple) else (value,):
            if READ_AS.get(name) == ("checkpoint",) and path not in apart_from and not names_code(path):
                require_loadable(path)


def require_here(device: str) -> None:
    """Refuse a device that is not on this machine; torch, which knows, is only imported where one is named."""
    if device not in (AUTO, CPU):
        importlib.import_module("gtrturbo.distributed.devices").require_device(device)


def _require_player_named(config: RolloutConfig) -> None:
    """Refuse a rollout of nobody or of two, and options for who does not play."""
    if config.expert == (config.checkpoint is not None):
        raise GtrTurboError("a rollout needs either --checkpoint or --expert.", "give one of the two.")
    if config.random_expert_share and not config.expert:
        raise GtrTurboError("--random-expert-share says who plays in the expert's place, and there is none.", "add: --expert")
    if config.hints and not config.expert:
        raise GtrTurboError("--hints are for an expert's turns, and a checkpoint plays.", "leave it out, or add: --expert")
    if config.hinted_share != HALF and not config.hints:
        raise GtrTurboError("--hinted-share says how many turns hold --hints, and there are none.", "add: --hints truth")


def _require_taught(config: PpoStepConfig) -> None:
    """Refuse settings of a teacher's guidance in an update that has none."""
    for field in fields(PpoStepConfig):
        guidance = "scores" if field.name.startswith("kl_") else "demos" if field.name == "demo_coef" else None
        if guidance and not getattr(config, guidance) and getattr(config, field.name) != field.default:
            raise GtrTurboError(
                f"{field.option} has no part in an update without --{guidance}.",
                f"leave it out, or add: --{guidance} GUIDANCE, which distill writes.",
            )


def _require_values(config: PpoStepConfig) -> None:
    """Refuse a KL that enters the targets of values where there are none."""
    if config.kl_placement == "return" and lacks_values(config.credit):
        raise GtrTurboError(
            f"--kl-placement return enters the value targets, and credit {config.credit} has none.",
            "use --kl-placement reward or advantage.",
        )


def require_player(rollouts: Path, checkpoint: Path) -> None:
    """Refuse turns that another checkpoint played than the one that learns from them."""
    manifest, again = read_manifest(rollouts, "turns"), f"run: gtrturbo rollout --checkpoint {checkpoint} …"
    player, given = manifest.inputs.get("checkpoint"), artifact_id(checkpoint)
    if isinstance(player, list):
        raise GtrTurboError(f"{rollouts} was played by several checkpoints, says its manifest.", "play again: gtrturbo rollout …")
    if player != given:
        played = "by the task's expert" if player is None else f"by {short(player)}"
        raise GtrTurboError(
            f"the turns in {rollouts} were played {played}, but --checkpoint is {short(given)}.",
            again,
        )
    if is_on_another(manifest, "checkpoint", checkpoint):
        raise GtrTurboError(f"the turns in {rollouts} were played on another model under the adapter {checkpoint}.", again)
