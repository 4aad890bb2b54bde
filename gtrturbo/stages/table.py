"""What each stage is: its config, what it writes, what it reads, how its config resolves."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gtrturbo.config import DistillConfig, EvalConfig, InitConfig, MergeConfig, PpoStepConfig, RolloutConfig, SftConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint_files import is_adapter
from gtrturbo.models.sizes import BUILT_IN
from gtrturbo.models.under_adapter import base_here
from gtrturbo.play.teachers import find_mode
from gtrturbo.stages.resolve import (
    held_checkpoints,
    prompt_texts,
    remembered_hashes,
    served_names,
    with_address,
    with_base,
    with_penalty,
)
from gtrturbo.store.names import OPTIMIZER

Identify = Callable[[Path], str]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage.

    Attributes:
        config: its class of settings.
        module: has `run(config) -> Result`, and may have `preview(config) -> str`.
        kind: of the artifact that it writes, of a config.
        shared: several processes do it together; else the first does it, and the others wait for what comes out.
        resolve: fills in what its config leaves open.
        inside: what has to be in place while its inputs are identified and it works.
        beside: the inputs are identified beside the work, which therefore begins without asking whether it is done.
        folders: what it reads besides the inputs that its config names, by the name that the manifest gives it.
        held: ids that count as inputs although their folders may be gone, by name.
        resumes: files of its inputs, by how their names begin, that it alone goes on from.
        texts: files of words that it works with, by the option that names another; their hashes go into the manifest.
        names: teachers that are no artifacts, as the manifest calls them, by knob.
        fetches: whether it may ask the network for a model.
        rechecks: whether an artifact that is there is to be checked again: its module has `recheck(config)`.
        leaves_base: whether it puts an adapter on another model than the one that the adapter names.
        keeps: whether what it finished before it was interrupted is kept (`ResumeLog`); else it begins anew.
    """

    config: type
    module: str
    kind: Callable[[Any], str]
    shared: bool = True
    resolve: Callable[[Any], Any] = lambda config: config
    inside: Callable[[Any], AbstractContextManager[Any]] = lambda config: nullcontext()
    beside: bool = False
    folders: Callable[[Any], dict[str, Path]] = lambda config: {}
    held: Callable[[Any], dict[str, list[str]]] = lambda config: {}
    resumes: tuple[str, ...] = ()
    texts: Callable[[Any], dict[str, Path]] = lambda config: {}
    names: Callable[[Any], dict[str, Any]] = lambda config: {}
    fetches: Callable[[Any], bool] = lambda config: False
    rechecks: Callable[[Any], bool] = lambda config: False
    leaves_base: Callable[[Any, Path], bool] = lambda config, path: False
    keeps: bool = False


def _writes(kind: str) -> Callable[[Any], str]:
    return lambda config: kind


def _model_folder(config: InitConfig) -> dict[str, Path]:
    """A folder counts by its content; of a name that is built in there may be one, too, and it is not meant."""
    folder = Path(config.model)
    return {"model": folder} if config.model not in BUILT_IN and folder.is_dir() else {}


def _chat_template(config: InitConfig) -> dict[str, Path]:
    file = config.chat_template
    if file and not file.is_file():
        raise GtrTurboError(f"there is no file {file}.", "name a file with a template in Jinja: --chat-template FILE")
    return {"chat_template": file} if file else {}


def _names_a_model(config: MergeConfig) -> bool:
    named = [*config.checkpoints, *([config.base] if config.base else [])]
    return bool(config.recipe or not all(path.exists() for path in named))


def _merges_around_another(config: MergeConfig, adapter: Path) -> bool:
    """Tell whether the base is full weights, and not the model that this adapter names: merged around is what the user gave."""
    named = base_here(adapter) if is_adapter(adapter) else None
    given = config.base
    return named is None or (given is not None and given.is_dir() and not is_adapter(given) and not given.samefile(named))


STAGES = {
    "init": Stage(
        config=InitConfig,
        module="gtrturbo.stages.init",
        kind=_writes("checkpoint"),
        shared=False,
        folders=_model_folder,
        texts=_chat_template,
        fetches=lambda config: True,
    ),
    "sft": Stage(config=SftConfig, module="gtrturbo.stages.sft", kind=_writes("checkpoint")),
    "rollout": Stage(config=RolloutConfig, module="gtrturbo.stages.rollout", kind=_writes("turns"), keeps=True),
    "distill": Stage(
        config=DistillConfig,
        module="gtrturbo.stages.distill",
        kind=lambda config: find_mode(config.mode).writes,
        resolve=with_address,
        texts=prompt_texts,
        names=served_names,
        keeps=True,
    ),
    "ppo-step": Stage(
        config=PpoStepConfig,
        module="gtrturbo.stages.ppo_step",
        kind=_writes("checkpoint"),
        resolve=with_penalty,
        resumes=(OPTIMIZER,),
    ),
    "merge": Stage(
        config=MergeConfig,
        module="gtrturbo.stages.merge",
        kind=_writes("checkpoint"),
        shared=False,
        resolve=with_base,
        inside=remembered_hashes,
        beside=True,
        held=held_checkpoints,
        fetches=_names_a_model,
        rechecks=lambda config: config.verify > 0,
        leaves_base=_merges_around_another,
    ),
    "eval": Stage(config=EvalConfig, module="gtrturbo.stages.eval", kind=_writes("evaluation"), keeps=True),
}


def resumable_files() -> Iterator[str]:
    """Name how the files begin that one stage alone goes on from."""
    for stage in STAGES.values():
        yield from stage.resumes
