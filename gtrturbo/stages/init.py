"""init: the first checkpoint. The only stage that may touch the network."""

from pathlib import Path
from typing import Any

from rich.text import Text

from gtrturbo.config import InitConfig
from gtrturbo.console import stderr
from gtrturbo.distributed.escapes import visible
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.adapter_parts import told_of_stacks
from gtrturbo.models.base_record import base_record
from gtrturbo.models.built_in import build
from gtrturbo.models.checkpoint import add_adapter, is_loaded_as, load_foreign, quiet, save_model
from gtrturbo.models.checkpoint_files import rebased_name, renderer_hash
from gtrturbo.models.families import Family, find_family, read_family, require_named, save_family
from gtrturbo.models.first_turn import require_turn
from gtrturbo.models.hub_names import cached_folder, commit_of
from gtrturbo.models.processor import save_processor
from gtrturbo.models.reading import reading_model
from gtrturbo.models.sizes import BUILT_IN
from gtrturbo.models.stored_types import require_trained_type
from gtrturbo.models.under_adapter import require_base
from gtrturbo.stages import done, provenance
from gtrturbo.store.draft import Draft, Result
from gtrturbo.store.ids import seed_for
from gtrturbo.store.inside import copy_own
from gtrturbo.store.names import BASE_FOLDER, FAMILY
from gtrturbo.store.writing import writing
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.texts import task_texts


def run(config: InitConfig) -> Result:
    """Write full weights (lora_rank 0), or an adapter that changes nothing yet on a base that it names."""
    quiet()
    chosen = find_family(config.family) if config.family else None
    with writing(config.out, provenance(config), overwrite=config.overwrite) as draft:
        model, processor = _load(config, chosen)
        if chosen:
            require_named(str(config.family), chosen, model.config, str(config.model))
        if config.chat_template:
            processor.chat_template = read_template(config.chat_template)
        if config.lora_rank:
            base = _keep_base(config, draft, model, processor)
            kept = base == BASE_FOLDER
            alpha = config.lora_alpha or 2 * config.lora_rank
            family = chosen or read_family(Path(config.model), model.config.model_type)
            with reading_model(config.model, "takes no adapter", mend="train all weights: --lora-rank 0."):
                frozen = told_of_stacks(model, family, config.model)
                model = add_adapter(
                    model,
                    rank=config.lora_rank,
                    alpha=alpha,
                    target=config.lora_target,
                    revision=None if kept else _pinned(config),
                    seed=seed_for(config.seed, "adapter"),
                    family=family,
                )
            _tell(frozen)
            save_model(model, draft.folder, base=base)
        else:
            require_trained_type({parameter.dtype for parameter in model.parameters()})
            save_model(model, draft.folder)
        save_processor(processor, draft.folder)
        if config.lora_rank:
            require_base(draft.folder, config.out)
            draft.base = base_record(draft.folder)
        _keep_family(config, chosen, draft)
        if config.model not in BUILT_IN:
            require_turn(model, processor, chosen, config.model)
        draft.renderer = renderer_hash(draft.folder)
        draft.metrics = _sizes(model)
    return done(draft)


def read_template(file: Path) -> str:
    """Read a chat template of the user's own.

    Raises:
        GtrTurboError: it is no text.
    """
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise GtrTurboError(f"{file} is no text in UTF-8.", "name a file with a template in Jinja.") from None


def _keep_family(config: InitConfig, chosen: Family | None, draft: Draft) -> None:
    """Write the family that was chosen now, or when the folder that the model comes from was made."""
    if chosen:
        save_family(draft.folder, chosen)
    elif (Path(config.model) / FAMILY).is_file():
        copy_own(Path(config.model) / FAMILY, draft.folder / FAMILY)


def _load(config: InitConfig, family: Family | None) -> tuple[Any, Any]:
    if config.model in BUILT_IN:
        texts = task_texts(load_task(config.task, config.env)) if config.task else None
        model, processor = build(config.model, seed_for(config.seed, "init"), texts)
        return (model.bfloat16() if config.dtype == "bfloat16" else model), processor
    return load_foreign(config.model, revision=config.revision, dtype=config.dtype, family=family)


def _keep_base(config: InitConfig, draft: Draft, model: Any, processor: Any) -> str:
    """Name what the adapter stands on: a copy inside the checkpoint of a built-in model, else the model where it is.

    In another type than the one that it would be loaded in it is copied, too, so that later stages have it in the type asked for.
    """
    if config.model not in BUILT_IN:
        if is_loaded_as(config.model, revision=config.revision, dtype=config.dtype):
            return rebased_name(config.model, config.out)
        note = f"{config.out / BASE_FOLDER} holds the base in {config.dtype}, which is not the type of {config.model} itself."
        _tell(note)
    save_model(model, draft.folder / BASE_FOLDER)
    save_processor(processor, draft.folder / BASE_FOLDER)
    return BASE_FOLDER


def _pinned(config: InitConfig) -> str | None:
    """Name the commit of a model of the hub, so that the adapter stays on it when the model gets another; of a folder none."""
    folder = None if Path(config.model).is_dir() else cached_folder(config.model, config.revision)
    return (commit_of(folder) if folder else None) or config.revision


def _tell(note: str | None) -> None:
    if note:
        stderr.print(Text(visible(note), style="yellow"), soft_wrap=True)


def _sizes(model: Any) -> dict[str, float]:
    parameters = list(model.parameters())
    return {
        "parameters": sum(p.numel() for p in parameters),
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
    }
