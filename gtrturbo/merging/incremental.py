"""A merge with running sums on disk: only the checkpoints that they do not hold yet are read."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from gtrturbo.algorithms.weights import ema_alpha
from gtrturbo.console import stderr
from gtrturbo.distributed.escapes import visible
from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.accumulators import MOST, Accumulators, parts_of, replace_sums, sums_files
from gtrturbo.merging.inputs import Inputs
from gtrturbo.merging.methods import method_of
from gtrturbo.merging.outcome import Outcome
from gtrturbo.merging.plan import MergeSettings, make_plan
from gtrturbo.merging.sources import Sources
from gtrturbo.merging.state import (
    STATE_FORMAT,
    RunningSums,
    claimed,
    read_state,
    require_intact,
    require_order,
    require_same,
    require_unchanged,
)
from gtrturbo.merging.stream import Streaming, stream
from gtrturbo.merging.thresholds import cache_of
from gtrturbo.store.open_files import Files


def add_to_state(
    state: Path,
    inputs: Inputs,
    settings: MergeSettings,
    folder: Path,
    how: Streaming,
    *,
    base: str,
    expected: list[str],
    given: Sequence[str],
    begun_with: dict[str, str],
    cache: Path | None,
) -> Outcome:
    """Add the checkpoints that the running sums do not hold yet, and write the merge of all.

    Args:
        state: folder of the sums.
        inputs, settings, how: of the merge.
        folder: where the merge goes.
        base: id of the base.
        expected: ids of all checkpoints that the sums are then of.
        given: ids of the checkpoints of `inputs`.
        begun_with: what the sums depend on.
        cache: folder of thresholds.

    Raises:
        GtrTurboError: the sums are of something else, are not what was written, or another process is adding to them.
    """
    if len(expected) > MOST:
        raise GtrTurboError(f"a state holds {MOST} checkpoints at most.", "merge from scratch, without --state.")
    rule = method_of(settings.method).rule
    parts = parts_of(rule.sums if rule else 0)
    with claimed(state) as following:
        old = read_state(state)
        require_unchanged(state, old, expected)
        if old:
            require_same(state, old, base=base, settings=begun_with)
            ordered = settings.weights != "sma" or rule is not None  # What a rule of one's own adds may depend on it.
            unnamed = require_order(state, old.checkpoints, list(given), ordered=ordered)
            require_intact(state, old, sums_files(parts))
            _tell_of_unnamed(state, unnamed)
        held = set(old.checkpoints) if old else set()
        fresh = [index for index, identity in enumerate(given) if identity not in held]
        plan = make_plan(settings, max(1, len(fresh)))
        sources = _of_fresh(inputs.sources(make_plan(settings, max(1, len(given))), folder), fresh)
        sums = partial(_open_sums, state, following, old, sources, parts=parts, weights=settings.weights, count=len(fresh))
        known = cache_of(cache, plan, base=base, checkpoints=[given[index] for index in fresh]) if cache else None
        outcome = stream(plan, inputs, sources, folder, how, cache=known, accumulators=sums)
        begun = RunningSums(format=STATE_FORMAT, base=base, checkpoints=expected, settings=begun_with)
        replace_sums(state, following, begun, outcome.sums)
    return replace(outcome, weights=None, complete=False)


def _tell_of_unnamed(state: Path, unnamed: int) -> None:
    if unnamed:
        stderr.print(f"{visible(str(state))} holds {unnamed} older checkpoints that are not named: they are merged too.")


def _of_fresh(sources: Sources, checkpoints: Sequence[int]) -> Sources:
    targets = tuple(replace(each, parts=tuple(each.parts[index] for index in checkpoints)) for each in sources.targets)
    return replace(sources, targets=targets)


def _open_sums(
    state: Path,
    following: Path,
    old: RunningSums | None,
    sources: Sources,
    files: Files,
    *,
    parts: Sequence[str],
    weights: str,
    count: int,
) -> Accumulators:
    """Open the sums, which decay by so many new checkpoints where the newest weighs most."""
    alpha = ema_alpha(weights) if weights.startswith("ema:") else None
    decay = (1 - alpha) ** count if alpha is not None else 1.0
    entries = [target.entry for target in sources.targets]
    return Accumulators(state, following, old, entries, files, decay=decay, counted=alpha is None, parts=parts)
