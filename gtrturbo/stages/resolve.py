"""How configs resolve: a merge's recipe is read and its base found; an update asks its turns what an invalid reply costs."""

import os
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from gtrturbo.config import DistillConfig, MergeConfig, PpoStepConfig
from gtrturbo.config.addresses import served_model, teacher_address
from gtrturbo.config.games import invalid_reply_cost
from gtrturbo.console import stderr
from gtrturbo.distributed.escapes import visible
from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.lineage import find_base, has_base, on_disk
from gtrturbo.merging.methods import method_of, require_built_in, require_chance
from gtrturbo.merging.own_rule import KIND
from gtrturbo.merging.parameters import parse_parameters, without_factors
from gtrturbo.merging.recipes import as_options, read_recipe
from gtrturbo.merging.recipes.folders import numbered, our_name
from gtrturbo.merging.state import read_state
from gtrturbo.models.checkpoint_files import is_adapter
from gtrturbo.models.under_adapter import base_here, base_to_fetch
from gtrturbo.play.teachers import find_mode
from gtrturbo.play.teaching.templates import templates_of
from gtrturbo.plugins import load, names_code
from gtrturbo.stages.ahead import only_ahead
from gtrturbo.store.apart import require_apart
from gtrturbo.store.claims import require_outside_artifacts
from gtrturbo.store.hashes import remembering_hashes
from gtrturbo.store.ids import same_artifact
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.safetensors_files import read_layout

HASHES = "hashes.json"
HERE = "checkpoint"  # What a list of teachers calls one whose id is among the inputs.
BESIDE_NO_RECIPE = ("ahead", "include", "exclude", "rank", "state", "trim", "parameters", "task_vectors")
RECIPE_SAYS = ("checkpoints", "base", "method", "weights", "density", "gamma", "scale", "normalize")


def with_penalty(config: PpoStepConfig) -> PpoStepConfig:
    """Fill in what a reply costs that cannot be read, by the task of the turns."""
    if config.format_invalid is not None:
        return config
    played = str(read_manifest(config.rollouts, "turns").config["task"])
    return replace(config, format_invalid=-invalid_reply_cost(played))


def with_base(config: MergeConfig) -> MergeConfig:
    """Read the recipe and fill in the base that a merge was not given.

    A checkpoint that is the base counts as one that changes nothing, with its weight. Only where the base was found, not given,
    is it taken out of the list, since `ckpts/*` contains it; not where a weight is given for it, for methods such as SLERP, which
    goes from one listed checkpoint to another, and where no base is known and the first only lends its layout.

    Raises:
        GtrTurboError: the chain leads to a checkpoint that lies neither in the list nor beside it; or there are sums to add to,
            and nothing that is added.
    """
    if config.recipe:
        return config if config.recipe.startswith("{") else _by_recipe(config, Path(os.path.expanduser(config.recipe)))
    if config.state and not config.checkpoints:
        raise GtrTurboError(
            "--state adds checkpoints to its sums, and none is named.", "name one that it has not or has, or leave out --state."
        )
    config = replace(config, checkpoints=tuple(map(on_disk, config.checkpoints)))
    base = on_disk(config.base) if config.base else _base_of(config)
    if config.ahead:
        config = replace(config, base=base, checkpoints=only_ahead(base, config.checkpoints, config.ahead), ahead=())
    if method_of(config.method).whole == "always" or (config.base is None and not has_base(config.checkpoints)):
        return replace(config, base=base)
    kept = tuple(path for path in config.checkpoints if not same_artifact(path, base))
    if len(kept) == len(config.checkpoints) or config.base is not None or _weighs_each(config):
        return _around(replace(config, base=base))
    stderr.print(f"{base} is the base that the others were trained from: it is not merged.", style="yellow")
    return replace(config, base=base, checkpoints=kept)


def _around(config: MergeConfig) -> MergeConfig:
    """Note of a base that is known and is one of the checkpoints too that it does more than lend its layout."""
    apart = method_of(config.method).whole == "borrowed" and config.base in config.checkpoints
    return replace(config, task_vectors=True) if apart else config


def _weighs_each(config: MergeConfig) -> bool:
    """Tell whether the weights are numbers, one per listed checkpoint."""
    return config.weights.count(",") + 1 == len(config.checkpoints) and not config.weights.startswith(("sma", "ema"))


def _by_recipe(config: MergeConfig, file: Path) -> MergeConfig:
    """Say a recipe in options where they can say it; else keep it, its models turned into numbers of folders."""
    recipe = read_recipe(file)
    options = as_options(recipe)
    if options is not None:
        said = replace(config, recipe=None, **_unless_given(config, options))
        said = replace(said, checkpoints=tuple(map(on_disk, said.checkpoints)))
        said = replace(said, base=on_disk(said.base) if said.base else _base_of(said))
        if recipe.dtype is None or _is_of_type(said.base, recipe.dtype):
            return said
    for option in (*BESIDE_NO_RECIPE, *RECIPE_SAYS):
        _refuse_beside_recipe(config, option)
    base, folders, text = numbered(recipe)
    return replace(config, recipe=text, method=our_name(recipe), base=base, checkpoints=folders)


def _is_of_type(base: Path | None, dtype: str) -> bool:
    """Tell whether all that is merged into a base has a type already."""
    assert base is not None
    under = on_disk(Path(base_to_fetch(base))) if is_adapter(base) else base
    return all(entry.dtype == dtype for entry in read_layout(under).entries.values() if entry.is_float)


def _refuse_beside_recipe(config: MergeConfig, name: str) -> None:
    default = next(field.default for field in fields(config) if field.name == name)
    if getattr(config, name) != default:
        option = "checkpoints" if name == "checkpoints" else f"--{name.replace('_', '-')}"
        raise GtrTurboError(f"{option} does not go with a recipe that says more than options can.", f"leave out {option}.")


def parameters_of(config: MergeConfig) -> tuple[bool, dict[str, Any]]:
    """Read --parameters: whether factors of adapters merge apart, and those of the method.

    Raises:
        GtrTurboError: one is no KEY=VALUE, or no such value.
    """
    return without_factors(method_of(config.method), parse_parameters(config.parameters))


def borrows_layout(config: MergeConfig) -> bool:
    """Tell whether the base only lends its layout: it is one of the checkpoints that are merged."""
    return config.base in config.checkpoints and not config.task_vectors


def state_settings(config: MergeConfig) -> dict[str, str]:
    """What the running sums of --state depend on.

    Raises:
        GtrTurboError: the merge is one that running sums do not stand for.
    """
    method = method_of(config.method)
    if not method.running_sums:
        mend = "give its MergeRule sums and add, as the documentation's page plugins shows." if method.own else "merge by ties."
        raise GtrTurboError(
            f"--state keeps the running sums of ties, or of a rule of your own that has `sums`, not of {config.method}.",
            f"leave it out, or {mend}",
        )
    kept = config.weights == "sma" or (config.weights.startswith("ema:") and not method.own)
    if config.verify:
        raise GtrTurboError("--verify reads all checkpoints, and --state only new ones.", "leave out one of the two.")
    if method.own and not (kept and not config.parameters and config.normalize is None and "," not in str(config.density)):
        raise GtrTurboError(
            f"--state keeps the sums of {config.method} with weights sma, no parameters and one density.",
            "leave out --state, or these.",
        )
    if not kept or config.parameters or config.normalize is False or "," in str(config.density) or config.trim == "global":
        raise GtrTurboError(
            "--state keeps running sums of ties with weights sma or ema:ALPHA, no parameters and one density of each tensor.",
            "leave out --state.",
        )
    if config.rank:
        raise GtrTurboError("--state writes full weights.", "leave out --rank, or --state.")
    chosen = {"weights": config.weights, "density": str(config.density)}
    chosen |= {"include": ",".join(config.include), "exclude": ",".join(config.exclude)}
    if method.own:
        code = load(KIND, config.method)
        chosen["method"] = f"{code.name} of sha256 {code.sha256}"
    return chosen


def require_fitting(config: MergeConfig) -> None:
    """Refuse before any work what does not go together.

    Raises:
        GtrTurboError: an option that the method has no part in, or a place to write to that is one to read from.
    """
    _require_apart(config)
    require_meant(config)


def require_meant(config: MergeConfig) -> None:
    """Refuse options that the method has no part in, which no checkpoint has to be read for.

    Raises:
        GtrTurboError: names the first.
    """
    require_chance(config.method, config.seed)
    if config.state:
        state_settings(config)
    if config.task_vectors and method_of(config.method).whole != "borrowed":
        raise GtrTurboError(f"--task-vectors is for nuslerp and multislerp, not for {config.method}.", "leave it out.")
    if parameters_of(config)[0]:
        require_built_in(config.method, "--parameters factors=true")


def _require_apart(config: MergeConfig) -> None:
    folders = [*config.checkpoints, *([config.base] if config.base else [])]
    under = [base for path in folders if is_adapter(path) and (base := base_here(path))]
    read = [*folders, *under]
    require_apart("--out", config.out, read)
    if config.state:
        require_apart("--state", config.state, [*read, config.out])
    if config.cache:
        require_apart("--cache", config.cache, [*read, config.out], replacing=False)
    if config.cache and config.state:
        require_apart("--cache", config.cache, [config.state], replacing=False)


def _unless_given(config: MergeConfig, recipe: dict[str, Any]) -> dict[str, Any]:
    """Refuse an option that is given beside a recipe which sets it."""
    for field in fields(config):
        if field.name in recipe and getattr(config, field.name) != field.default:
            name = "checkpoints" if field.name == "checkpoints" else f"--{field.name}"
            raise GtrTurboError(f"the recipe sets {name}, and so does the command line.", f"leave out {name}.")
    return recipe


def _base_of(config: MergeConfig) -> Path:
    full = [path for path in config.checkpoints if not is_adapter(path)]
    if not method_of(config.method).needs_base and full and not has_base(config.checkpoints):
        return full[0]
    return find_base(config.checkpoints)


def remembered_hashes(config: MergeConfig) -> AbstractContextManager[None]:
    """Keep the hashes of the files of others in the merge's cache, if it has one."""
    if config.cache:
        require_outside_artifacts(config.cache / HASHES, "--cache")
    return remembering_hashes(config.cache / HASHES if config.cache else None, _tell)


def _tell(said: str) -> None:
    stderr.print(visible(said), style="yellow")


def held_checkpoints(config: MergeConfig) -> dict[str, list[str]]:
    """Name the checkpoints whose sums are in the merge's state: they count as merged, also where they are gone."""
    held = read_state(config.state) if config.state else None
    return {"checkpoints": held.checkpoints} if held else {}


def with_address(config: DistillConfig) -> DistillConfig:
    """Write the address of a teacher's server in one way, whichever of several the user wrote."""
    return replace(config, address=teacher_address(config.address)) if config.address else config


def prompt_texts(config: DistillConfig) -> dict[str, Path]:
    """Name the files of what a teacher is asked, where it is asked in words: on a server, or as a corrector.

    Raises:
        GtrTurboError: a file is not there.
    """
    return templates_of(config.prompt, config.repair_prompt, corrects=_corrects(config)) if asks_in_words(config) else {}


def asks_in_words(config: DistillConfig) -> bool:
    """Tell whether a teacher is asked by a template: what a model on a server, and any model that corrects, is."""
    served = any(served_model(teacher) is not None for teacher in teachers_of(config))
    here = [teacher for teacher in teachers_of(config) if not names_code(teacher)]
    return served or (_corrects(config) and bool(here))


def _corrects(config: DistillConfig) -> bool:
    return find_mode(config.mode).needs == "corrections"


def teachers_of(config: DistillConfig) -> list[Path]:
    """List the teachers that are named; none where the expert teaches."""
    return [*([config.teacher] if config.teacher else []), *config.more_teachers]


def served_names(config: DistillConfig) -> dict[str, Any]:
    """Say who teaches where an id among the inputs does not say it: a model on a server, or several teachers."""
    named = teachers_of(config)
    if len(named) == 1 and served_model(named[0]) is None:
        return {}
    told = list(map(_told, named))
    return {"teacher": told[0] if len(told) == 1 else told} if told else {}


def _told(teacher: Path) -> str:
    if served_model(teacher) is not None:
        return str(teacher)
    return teacher.name if names_code(teacher) else HERE
