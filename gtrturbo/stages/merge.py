"""merge: checkpoints around their base into one, tensor by tensor, streamed.

Task vectors are dense: θ − θ_base for full weights, scale·B·A for LoRA. Merging A and B apart merges something else, and is
what `--parameters factors=true` is for.
"""

import tempfile
from dataclasses import fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from rich.text import Text

from gtrturbo.config import MergeConfig
from gtrturbo.console import stderr
from gtrturbo.distributed.escapes import visible
from gtrturbo.errors import of_system
from gtrturbo.merging.beside import differences
from gtrturbo.merging.card import ModelCard
from gtrturbo.merging.incremental import add_to_state
from gtrturbo.merging.inputs import Inputs, read_inputs
from gtrturbo.merging.outcome import Outcome, TensorReport, most_moved, rounded
from gtrturbo.merging.plan import MergePlan, MergeSettings, make_plan
from gtrturbo.merging.preview import preview_of, require_room
from gtrturbo.merging.recipes.inputs import RecipeInputs, recipe_inputs
from gtrturbo.merging.stream import Streaming, stream, verify_written
from gtrturbo.merging.thresholds import cache_of
from gtrturbo.merging.workers import default_threads
from gtrturbo.models.base_record import base_record
from gtrturbo.models.checkpoint_files import (
    copy_checkpoint,
    copy_renderer,
    is_adapter,
    name_for_all,
    point_to_base,
    renderer_hash,
)
from gtrturbo.models.hub_names import commit_of
from gtrturbo.models.side_files import copy_side_files
from gtrturbo.models.under_adapter import rebased
from gtrturbo.stages import done, provenance
from gtrturbo.stages.resolve import borrows_layout, parameters_of, require_fitting, require_meant, state_settings
from gtrturbo.store.draft import Draft, Result
from gtrturbo.store.ids import artifact_id
from gtrturbo.store.inside import copy_own
from gtrturbo.store.moved import MovedTensor, save_moved
from gtrturbo.store.names import CARD
from gtrturbo.store.provenance import Provenance
from gtrturbo.store.safetensors_files import read_layout
from gtrturbo.store.verification import verify as verify_files
from gtrturbo.store.writing import writing


def run(config: MergeConfig) -> Result:
    """Write the merged checkpoint: full weights, also of adapters, unless an adapter is asked for."""
    assert config.base is not None
    require_fitting(config)
    given = _Given(config)
    with writing(config.out, given, overwrite=config.overwrite) as draft:
        if config.checkpoints or config.recipe:
            _merge(config, config.base, draft, given)
        else:
            _copy(config, config.base, draft)
        draft.renderer = renderer_hash(draft.folder)
    return done(draft)


class _Given:
    """The provenance of a merge, when it is called; before that, `jobs` may hash the files of others while they are merged."""

    def __init__(self, config: MergeConfig) -> None:
        assert config.base is not None
        identify = cache(artifact_id)
        self.jobs = [partial(identify, path) for path in (config.base, *config.checkpoints)]
        self._found = cache(lambda: provenance(config, identify))

    def __call__(self) -> Provenance:
        return self._found()


def preview(config: MergeConfig) -> str:
    """Say what a merge would read and write, without doing it."""
    assert config.base is not None
    require_fitting(config)
    if not config.checkpoints and not config.recipe:
        return f"no checkpoints: {config.base} is copied"
    with tempfile.TemporaryDirectory() as folder:
        inputs = _inputs(config, config.base)
        plan = inputs.plan if isinstance(inputs, RecipeInputs) else _plan(config)
        sources = inputs.sources(plan, Path(folder))
    return preview_of(plan, inputs, sources, base=config.base, out=config.out, threads=_how(config).threads)


def recheck(config: MergeConfig) -> None:
    """Verify a merge that is there: its files are those that were written, and tensors of them as the reference has them.

    Raises:
        GtrTurboError: a file is another, or a tensor.
    """
    assert config.base is not None
    verify_files(config.out, "always")
    if config.rank or config.state or not (config.checkpoints or config.recipe):
        stderr.print("its files are those that were written; their numbers are verified while they are made: add --overwrite.")
        return
    inputs = _inputs(config, config.base)
    plan = inputs.plan if isinstance(inputs, RecipeInputs) else _plan(config)
    verify_written(plan, inputs.sources(plan, config.out), config.out, _how(config))


def _inputs(config: MergeConfig, base: Path) -> Inputs | RecipeInputs:
    if config.recipe:
        return recipe_inputs(config.recipe, base, config.checkpoints, missing=config.missing)
    return read_inputs(
        base,
        config.checkpoints,
        rank=config.rank,
        factors=parameters_of(config)[0],
        include=config.include,
        exclude=config.exclude,
        missing=config.missing,
    )


def _settings(config: MergeConfig) -> MergeSettings:
    return MergeSettings(
        method=config.method,
        weights=config.weights,
        density=str(config.density),
        scale=config.scale,
        normalize=config.normalize,
        gamma=config.gamma,
        own=parameters_of(config)[1],
        trim=config.trim,
    )


def require_settings(config: MergeConfig, *, count: int) -> None:
    """Refuse a method that there is not, and settings that do not go with it, or not with so many checkpoints; reads none.

    Raises:
        GtrTurboError: names the first.
    """
    make_plan(_settings(config), count)
    require_meant(config)


def _plan(config: MergeConfig) -> MergePlan:
    return make_plan(_settings(config), len(config.checkpoints), borrowed=borrows_layout(config))


def _how(config: MergeConfig) -> Streaming:
    threads = config.threads or default_threads()
    return Streaming(seed=config.seed, threads=threads, device=config.device, verify=config.verify, saturate=config.saturate)


def _copy(config: MergeConfig, base: Path, draft: Draft) -> None:
    for note in copy_checkpoint(base, draft.folder):
        stderr.print(Text(visible(note), style="yellow"), soft_wrap=True)
    if is_adapter(base):
        point_to_base(draft.folder, rebased(base, config.out))
        draft.base = base_record(draft.folder, base)
    draft.metrics = {"checkpoints": 0, "delta_norm": 0.0, "mean_delta_norm": 0.0, "norm_ratio": 1.0, "cosine": 1.0}


def _merge(config: MergeConfig, base: Path, draft: Draft, given: _Given) -> None:
    try:
        _write(config, base, draft, given)
    except OSError as error:
        named = error if error.filename else OSError(error.errno, error.strerror, str(config.out.parent))
        raise of_system(named) from error


def _write(config: MergeConfig, base: Path, draft: Draft, given: _Given) -> None:
    inputs = _inputs(config, base)
    require_room(inputs, config.out, copies=1)
    _copy_beside(base, inputs, draft.folder)
    outcome = _merged(config, inputs, draft.folder, given)
    for note in differences(base, inputs.checkpoints, draft.folder):
        inputs.tell(note)
    ids = given().inputs.get("checkpoints", [])
    merged = inputs.count if isinstance(inputs, RecipeInputs) else len(ids)
    draft.metrics = {"checkpoints": merged, **outcome.metrics(), **outcome.extra}
    draft.hashes = {} if config.rank else outcome.hashes
    draft.timing = {"kernel": outcome.kernel, "threads": _how(config).threads}
    _tell_of_density(config.density, outcome, draft.metrics)
    if inputs.as_adapter:
        point_to_base(draft.folder, name_for_all(inputs.under), revision=commit_of(inputs.under.resolve()))
        draft.base = base_record(draft.folder)
    _save_moved(draft.folder, outcome, checkpoints=len(config.checkpoints))
    (draft.folder / CARD).write_text(_card(given(), outcome, draft.metrics).markdown(), encoding="utf-8")


def _merged(config: MergeConfig, inputs: Inputs | RecipeInputs, folder: Path, given: _Given) -> Outcome:
    """Merge all at once, or into running sums."""
    if isinstance(inputs, RecipeInputs):
        outcome = stream(inputs.plan, inputs, inputs.sources(inputs.plan, folder), folder, _how(config), extra_jobs=given.jobs)
        # Layers of one model in other places have moved from nothing.
        apart = inputs.plan.name == "passthrough" and not inputs.around
        unmeasured = outcome.unmeasured | frozenset(outcome.metrics()) if apart else outcome.unmeasured
        return replace(outcome, weights=None, idle=0, unmeasured=unmeasured)
    if config.state:
        return _added(config, config.state, inputs, folder, given().inputs)
    plan = _plan(config)
    sources = inputs.sources(plan, folder)
    known = None
    if config.cache and plan.measures == "ranks" and plan.trim == "tensor":  # Else the ids need not be known before the work.
        ids = given().inputs
        known = cache_of(config.cache, plan, base=ids["base"], checkpoints=ids["checkpoints"])
    return stream(plan, inputs, sources, folder, _how(config), cache=known, extra_jobs=given.jobs)


def _added(config: MergeConfig, state: Path, inputs: Inputs, folder: Path, ids: dict[str, Any]) -> Outcome:
    return add_to_state(
        state,
        inputs,
        _settings(config),
        folder,
        _how(config),
        base=ids["base"],
        expected=ids["checkpoints"],
        given=list(map(artifact_id, config.checkpoints)),
        begun_with=state_settings(config),
        cache=config.cache,
    )


def _copy_beside(base: Path, inputs: Inputs | RecipeInputs, folder: Path) -> None:
    """Copy what belongs to the model from the model, and what renders prompts from the base, which may be an adapter."""
    if not inputs.as_adapter:
        for note in copy_side_files(inputs.under, folder):
            inputs.tell(note)
        if index := read_layout(inputs.under).index:
            copy_own(inputs.under / index, folder / index)
    copy_renderer(base, folder)


def _tell_of_density(density: str, outcome: Outcome, metrics: dict[str, float]) -> None:
    if outcome.complete and outcome.idle and metrics.get("changed", 1) < 1:
        stderr.print(
            f"density {density} trims nothing in {outcome.idle} tensors: {1 - metrics['changed']:.0%} of all entries "
            "are as in the base.",
            style="yellow",
        )


def _save_moved(folder: Path, outcome: Outcome, *, checkpoints: int) -> None:
    """Write what moved; of checkpoints that running sums stand for only what does not depend on which were read now."""
    moved = [_moved(report) for report in outcome.reports]
    if not outcome.complete or "changed" in outcome.unmeasured:
        moved, checkpoints = [replace(each, changed=0.0, touched=0.0) for each in moved], 0
    save_moved(folder, moved, checkpoints=checkpoints)


def _moved(report: TensorReport) -> MovedTensor:
    return MovedTensor(
        name=report.name,
        entries=report.entries,
        delta_square=rounded(report.merged_square),
        base_square=rounded(report.base_square),
        conflicts=report.conflicts,
        changed=report.changed,
        touched=report.touched,
    )


def _card(given: Provenance, outcome: Outcome, metrics: dict[str, float]) -> ModelCard:
    ids = given.inputs.get("checkpoints", [])
    return ModelCard(
        base=given.inputs["base"],
        inputs=list(zip(ids, outcome.weights or [None] * len(ids), strict=True)),
        settings=_chosen(given),
        metrics=metrics,
        moved=[(report.name, share) for report, share in most_moved(outcome.reports)],
    )


def _chosen(given: Provenance) -> dict[str, Any]:
    """The settings that a reader needs: method and weights always, others where they are not the defaults."""
    defaults = {field.name: field.default for field in fields(MergeConfig)}
    always = ("method", "weights", "density", "scale")
    return {
        name: value
        for name, value in given.config.items()
        if name in always or (value != _plain(defaults[name]) and value is not None)
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
