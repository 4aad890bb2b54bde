"""merge: checkpoints around their base into one, tensor by tensor, streamed.

Task vectors are dense: θ − θ_base for full weights, scale·B·A for LoRA. Merging A and B apart merges something else, and is
what `--adapter-space factors` is for.
"""

import math
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from gtrturbo.algorithms.weights import ema_alpha
from gtrturbo.config import RELEASE, MergeConfig
from gtrturbo.console import Bar, progress_bar, stderr
from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.accumulators import MOST, Accumulators
from gtrturbo.merging.card import Card
from gtrturbo.merging.engine import Job, Merge, Thresholds, default_threads, room_for_products
from gtrturbo.merging.inputs import Inputs, read_inputs
from gtrturbo.merging.kernel import compiled_kernel
from gtrturbo.merging.lowrank import write_adapter, write_factors
from gtrturbo.merging.magnitudes import MANY
from gtrturbo.merging.methods import Plan, Settings, make_plan
from gtrturbo.merging.operands import CHUNK, Kernel
from gtrturbo.merging.outcome import Outcome, most_moved, rounded
from gtrturbo.merging.release import released_scale
from gtrturbo.merging.sources import Full, Sources, Target
from gtrturbo.merging.state import FORMAT, State, claimed, read_state, require_same, require_unchanged
from gtrturbo.merging.thresholds import Question, recall, remember
from gtrturbo.models.checkpoint_files import (
    copy_checkpoint,
    copy_renderer,
    copy_side_files,
    is_adapter,
    point_to_base,
    rebased,
    rebased_name,
    renderer_hash,
)
from gtrturbo.stages import done, provenance
from gtrturbo.stages.resolve import borrows_layout, state_settings
from gtrturbo.store.artifacts import Draft, Provenance, Result, artifact_id, seed_for, writing
from gtrturbo.store.safetensors_files import INDEX, Entry, Files, read_layout

CARD = "README.md"
MEGABYTE = 1_000_000
RECURSIVE = ("ties", "linear")


def run(config: MergeConfig) -> Result:
    """Write the merged checkpoint: full weights, also of adapters, unless an adapter is asked for."""
    assert config.base is not None
    given = _Given(config)
    with writing(config.out, given, overwrite=config.overwrite) as draft:
        if config.compat == RELEASE:
            stderr.print("--compat release: the first checkpoint, shrunken, as in the paper's published code.", style="yellow")
        if config.checkpoints:
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
    if not config.checkpoints:
        return f"no checkpoints: {config.base} is copied"
    with tempfile.TemporaryDirectory() as folder:
        inputs = _inputs(config, config.base)
        plan = make_plan(_settings(config), len(config.checkpoints), borrowed=borrows_layout(config))
        sources = inputs.sources(plan, Path(folder))
    entries = sum(target.entry.entries for target in sources.targets)
    kind = "adapters" if inputs.adapters else "checkpoints"
    lines = [
        f"method       {config.method} of {len(config.checkpoints)} {kind} around {config.base}",
        f"tensors      {len(sources.targets)} merged ({entries:,} parameters), {len(sources.copied)} copied",
        f"reads        {_gigabytes(sources.bytes_read)}, {'twice' if plan.measures else 'once'}",
        f"writes       {_gigabytes(sources.base.size)} to {config.out}",
        f"memory       about {_gigabytes(_memory(config, sources))} beside the interpreter, {_threads(config)} threads",
    ]
    return "\n".join(lines)


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _memory(config: MergeConfig, sources: Sources) -> int:
    """One tile of the output and pieces of the inputs per thread, the counters and gathered entries of a measurement, and factors
    and products of adapters."""
    step = max((target.step for target in sources.targets), default=0)
    widest = max((target.entry.width for target in sources.targets), default=0)
    tiles = widest * (step + 2 * CHUNK * (len(config.checkpoints) + 1))
    factors = max((a.entries + b.entries for adapter in sources.adapters for a, b in adapter.factors.values()), default=0)
    measured = 4 * 4 * 65536 + 8 * MANY
    products = (factors * 4 + step * 12) * len(config.checkpoints) if sources.adapters else 0
    kept = room_for_products(_threads(config)) if sources.adapters else 0
    return _threads(config) * (tiles + measured + products) + kept


def _threads(config: MergeConfig) -> int:
    return config.threads or default_threads()


def _copy(config: MergeConfig, base: Path, draft: Draft) -> None:
    copy_checkpoint(base, draft.folder)
    if is_adapter(base):
        point_to_base(draft.folder, rebased(base, config.out))
    draft.metrics = {"checkpoints": 0, "delta_norm": 0.0, "mean_delta_norm": 0.0, "norm_ratio": 1.0, "cosine": 1.0}


def _inputs(config: MergeConfig, base: Path) -> Inputs:
    return read_inputs(
        base,
        config.checkpoints,
        rank=config.rank,
        factors=config.adapter_space == "factors",
        only=config.only,
        exclude=config.exclude,
    )


def _settings(config: MergeConfig) -> Settings:
    return Settings(
        method=config.method,
        weights=config.weights,
        density=str(config.density),
        scale=released_scale(factors=config.adapter_space == "factors") if config.compat == RELEASE else config.scale,
        normalize=config.normalize,
        sign=config.sign,
        gamma=config.gamma,
    )


def _merge(config: MergeConfig, base: Path, draft: Draft, given: _Given) -> None:
    try:
        _write(config, base, draft, given)
    except OSError as error:
        file = error.filename or config.out.parent
        raise GtrTurboError(f"{file} cannot be read or written: {error.strerror}.", "see to it, then run it again.") from error


def _write(config: MergeConfig, base: Path, draft: Draft, given: _Given) -> None:
    inputs = _inputs(config, base)
    as_adapter = bool(config.rank) or config.adapter_space == "factors"
    _require_room(config, inputs, as_adapter=as_adapter)
    _copy_beside(base, inputs.under, draft.folder, weights=not as_adapter)
    if config.recursive:
        outcome = _fold(config, inputs, draft.folder)
    elif config.state:
        outcome = _accumulate(config, inputs, draft.folder, given())
    else:
        plan = make_plan(_settings(config), len(config.checkpoints), borrowed=borrows_layout(config))
        sources = inputs.sources(plan, draft.folder)
        outcome = _stream(config, plan, sources, draft.folder, inputs, lambda: given().inputs, beside=given.jobs)
    ids = given().inputs["checkpoints"]
    draft.metrics = {"checkpoints": len(ids), **outcome.metrics(len(config.checkpoints)), **outcome.extra}
    _tell_of_density(config, outcome, draft.metrics)
    draft.hashes = {} if config.rank else outcome.hashes
    draft.timing = {"kernel": outcome.kernel, "threads": _threads(config)}
    if as_adapter:
        point_to_base(draft.folder, rebased_name(str(inputs.under), config.out))
    card = Card(
        base=given().inputs["base"],
        inputs=list(zip(ids, outcome.weights or [None] * len(ids), strict=True)),
        settings=_chosen(given()),
        metrics=draft.metrics,
        moved=[(report.name, share) for report, share in most_moved(outcome.reports)],
    )
    (draft.folder / CARD).write_text(card.markdown(), encoding="utf-8")


def _tell_of_density(config: MergeConfig, outcome: Outcome, metrics: dict[str, float]) -> None:
    if outcome.complete and outcome.idle and metrics["changed"] < 1:
        stderr.print(
            f"density {config.density} trims nothing in {outcome.idle} tensors: {1 - metrics['changed']:.0%} of all entries "
            "are as in the base.",
            style="yellow",
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


def _require_room(config: MergeConfig, inputs: Inputs, *, as_adapter: bool) -> None:
    """Refuse at once where the disk is too full for the output."""
    if as_adapter:
        return  # Small; a full disk is found while writing.
    needed = read_layout(inputs.under).size * (2 if config.recursive else 1)
    free = shutil.disk_usage(config.out.parent).free
    if free < needed:
        raise GtrTurboError(
            f"{config.out.parent} has {_gigabytes(free)} free, the merge needs {_gigabytes(needed)}.", "free some disk space."
        )


def _copy_beside(base: Path, under: Path, folder: Path, *, weights: bool) -> None:
    """Copy what belongs to the model from the model, and what renders prompts from the base, which may be an adapter."""
    if weights:
        copy_side_files(under, folder)
        if (under / INDEX).is_file():
            shutil.copyfile(under / INDEX, folder / INDEX)
    copy_renderer(base, folder)


def _stream(
    config: MergeConfig,
    plan: Plan,
    sources: Sources,
    folder: Path,
    inputs: Inputs,
    ids: Callable[[], dict[str, Any]],
    accumulators: Callable[[Files], Accumulators] | None = None,
    beside: Sequence[Job] = (),
) -> Outcome:
    """Merge what `sources` lay out into `folder`, show progress, remember what was measured, verify."""
    kernel = _kernel(config.device)
    with closing(Files()) as files:
        sources.open(files)
        kept = config.cache if plan.measures == "ranks" and not config.recursive else None
        questions = _questions(plan, ids()) if kept else []
        known = _recall(kept, questions, sources)
        before = set(known)
        merge = Merge(plan, sources, kernel, files, folder, seeds=_seeds(config), thresholds=known, beside=beside)
        merge.accumulators = accumulators(files) if accumulators else None
        with progress_bar("merge (MB)", sources.base.size // MEGABYTE) as bar:
            merge.told = _Throughput(bar)
            reports = merge.run(_threads(config))
        if kept:
            _remember(kept, questions, merge.thresholds, before)
        if config.verify and not accumulators:
            _verify(config, plan, sources, files, folder)
        extra: dict[str, float] = {}
        if config.rank:
            cut = write_adapter(files, sources, inputs.origin, inputs.adapters[0].folder, folder, rank=config.rank)
            extra["rank_error"] = rounded(cut.relative)
        elif config.adapter_space == "factors":
            write_factors(inputs.adapters[0].folder, folder)
    idle = sum(low == 0 for low, _ in merge.thresholds.values())
    shares = [weight / math.fsum(plan.weights) for weight in plan.weights] if abs(math.fsum(plan.weights)) > 0 else None
    return Outcome(reports, kernel.name, merge.hashes, shares, idle=idle, extra=extra)


def _verify(config: MergeConfig, plan: Plan, sources: Sources, files: Files, folder: Path) -> None:
    from gtrturbo.merging.verify import verify  # Takes seconds to import torch, which the compiled loops do without.

    def written(entry: Entry) -> Entry:
        return replace(entry, file=folder / entry.file.name)

    compared = verify(plan, sources, files, written, _seeds(config), count=config.verify)
    stderr.print(f"verified: {compared} tensors equal the reference to one unit in the last place.")


def _kernel(device: str) -> Kernel:
    if device == "cpu":
        if kernel := compiled_kernel():
            return kernel
        stderr.print("no C compiler: merging with torch, which is several times slower.", style="yellow")
    from gtrturbo.distributed.devices import require_device  # They take seconds to import, and are rarely needed.
    from gtrturbo.merging.tiles import TorchKernel

    return TorchKernel(require_device(device))


class _Throughput:
    """Tells a progress bar of bytes, from many threads."""

    def __init__(self, bar: Bar) -> None:
        self._bar, self._lock, self._started, self._bytes, self._shown = bar, threading.Lock(), time.monotonic(), 0, 0

    def __call__(self, count: int) -> None:
        with self._lock:
            self._bytes += count
            steps = self._bytes // MEGABYTE - self._shown
            if steps:
                self._shown += steps
                rate = self._bytes / max(1e-9, time.monotonic() - self._started)
                self._bar.advance(steps, note=f"{rate / 1e9:.2f} GB/s written")


def _seeds(config: MergeConfig) -> Callable[[str, int], int]:
    if not config.method.startswith("dare"):
        return lambda name, index: 0
    return lambda name, index: seed_for(config.seed, "dare", index, name)


def _questions(plan: Plan, ids: dict[str, Any]) -> list[Question]:
    return [
        Question(checkpoint=identity, base=ids["base"], method=plan.method, density=density, gamma=plan.gamma)
        for identity, density in zip(ids["checkpoints"], plan.densities, strict=False)
    ]


def _recall(cache: Path | None, questions: Sequence[Question], sources: Sources) -> Thresholds:
    """Read what was measured before of the tensors at hand."""
    if cache is None:
        return {}
    known: Thresholds = {}
    names = {target.name for target in sources.targets}
    for index, question in enumerate(questions):
        known |= {(name, index): bounds for name, bounds in recall(cache, question).items() if name in names}
    return known


def _remember(cache: Path, questions: Sequence[Question], thresholds: Thresholds, before: set[tuple[str, int]]) -> None:
    for index, question in enumerate(questions):
        measured = {name: bounds for (name, number), bounds in thresholds.items() if number == index}
        if any((name, index) not in before for name in measured):
            remember(cache, question, recall(cache, question) | measured)


def _fold(config: MergeConfig, inputs: Inputs, folder: Path) -> Outcome:
    """Merge the first checkpoint, then each next with the last teacher, which counts as a checkpoint of its own."""
    if config.rank or config.adapter_space == "factors" or config.method not in RECURSIVE or config.state:
        raise GtrTurboError(
            "--recursive is for full teachers by ties or linear.", "leave out --rank, --adapter-space and --state."
        )
    whole = make_plan(_settings(config), len(config.checkpoints))
    every = inputs.sources(whole, folder)
    previous: Path | None = None
    outcome: Outcome | None = None
    for number in range(len(config.checkpoints)):
        last = number == len(config.checkpoints) - 1
        into = folder if last else Path(tempfile.mkdtemp(prefix=".teacher-", dir=folder))
        targets = tuple(_pair(target, number, previous) for target in every.targets)
        plan = make_plan(_pair_settings(config, previous), 2 if previous else 1)
        teacher = (replace(every.base, folder=previous),) if previous else ()
        sources = replace(every, targets=targets, layouts=(*every.layouts, *teacher))
        outcome = _stream(config, plan, sources, into, inputs, dict)
        if previous:
            shutil.rmtree(previous)
        previous = into
    assert outcome is not None
    return replace(outcome, weights=None, complete=False)


def _pair(target: Target, number: int, previous: Path | None) -> Target:
    teacher = (Full(previous, replace(target.entry, file=previous / target.entry.file.name)),) if previous else ()
    return replace(target, parts=(*teacher, target.parts[number]))


def _pair_settings(config: MergeConfig, previous: Path | None) -> Settings:
    """Teacher and new checkpoint count alike, or by α with ema:α."""
    if config.weights == "sma" or not previous:
        return replace(_settings(config), weights="sma")
    alpha = ema_alpha(config.weights) if config.weights.startswith("ema:") else None
    if alpha is None:
        raise GtrTurboError(f"--recursive takes weights sma or ema:ALPHA, got {config.weights}.")
    return replace(_settings(config), weights=f"{1 - alpha:.17g},{alpha:.17g}" if alpha < 1 else "sma")


def _accumulate(config: MergeConfig, inputs: Inputs, folder: Path, given: Provenance) -> Outcome:
    """Add the checkpoints that the running sums do not hold yet."""
    assert config.state is not None
    settings = state_settings(config)
    with claimed(config.state) as following:
        return _add(config, inputs, folder, given, settings, following)


def _add(
    config: MergeConfig, inputs: Inputs, folder: Path, given: Provenance, settings: dict[str, str], following: Path
) -> Outcome:
    assert config.state is not None
    old = read_state(config.state)
    require_unchanged(config.state, old, given.inputs["checkpoints"])
    if old:
        require_same(config.state, old, base=given.inputs["base"], settings=settings)
    held = set(old.checkpoints) if old else set()
    fresh = [index for index, path in enumerate(config.checkpoints) if artifact_id(path) not in held]
    ids = given.inputs["checkpoints"]
    if len(ids) > MOST:
        raise GtrTurboError(f"a state holds {MOST} checkpoints at most.", "merge from scratch, without --state.")
    everything = make_plan(_settings(config), max(1, len(config.checkpoints)))
    every = inputs.sources(everything, folder)
    plan = make_plan(_settings(config), max(1, len(fresh)))
    targets = tuple(replace(target, parts=tuple(target.parts[index] for index in fresh)) for target in every.targets)
    sources = replace(every, targets=targets)
    alpha = ema_alpha(config.weights) if config.weights.startswith("ema:") else None
    decay = (1 - alpha) ** len(fresh) if alpha is not None else 1.0
    kept: list[Accumulators] = []
    state = config.state

    def accumulators(files: Files) -> Accumulators:
        entries = [target.entry for target in targets]
        kept.append(Accumulators(state, following, old, entries, files, decay=decay, counted=alpha is None))
        return kept[0]

    fresh_ids = {"base": given.inputs["base"], "checkpoints": [artifact_id(config.checkpoints[index]) for index in fresh]}
    outcome = _stream(config, plan, sources, folder, inputs, lambda: fresh_ids, accumulators)
    kept[0].finish(State(format=FORMAT, base=given.inputs["base"], checkpoints=ids, settings=settings))
    return replace(outcome, weights=None, complete=False)
