"""A merge with running sums on disk: only the checkpoints that they do not hold yet are read."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gtrturbo.algorithms.weights import ema_alpha
from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.accumulators import MOST, Accumulators
from gtrturbo.merging.inputs import Inputs
from gtrturbo.merging.outcome import Outcome
from gtrturbo.merging.plan import MergeSettings, make_plan
from gtrturbo.merging.state import FORMAT, RunningSums, claimed, read_state, require_same, require_unchanged
from gtrturbo.merging.stream import Streaming, stream
from gtrturbo.merging.thresholds import cache_of
from gtrturbo.store.safetensors_files import Files


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
        GtrTurboError: the sums are of something else, or another process is adding to them.
    """
    if len(expected) > MOST:
        raise GtrTurboError(f"a state holds {MOST} checkpoints at most.", "merge from scratch, without --state.")
    with claimed(state) as following:
        old = read_state(state)
        require_unchanged(state, old, expected)
        if old:
            require_same(state, old, base=base, settings=begun_with)
        held = set(old.checkpoints) if old else set()
        fresh = [index for index, identity in enumerate(given) if identity not in held]
        every = inputs.sources(make_plan(settings, max(1, len(given))), folder)
        plan = make_plan(settings, max(1, len(fresh)))
        targets = tuple(replace(target, parts=tuple(target.parts[index] for index in fresh)) for target in every.targets)
        alpha = ema_alpha(settings.weights) if settings.weights.startswith("ema:") else None
        decay = (1 - alpha) ** len(fresh) if alpha is not None else 1.0
        opened: list[Accumulators] = []

        def open_sums(files: Files) -> Accumulators:
            entries = [target.entry for target in targets]
            opened.append(Accumulators(state, following, old, entries, files, decay=decay, counted=alpha is None))
            return opened[0]

        known = cache_of(cache, plan, base=base, checkpoints=[given[index] for index in fresh]) if cache else None
        sources = replace(every, targets=targets)
        outcome = stream(plan, inputs, sources, folder, how, cache=known, accumulators=open_sums)
        opened[0].finish(RunningSums(format=FORMAT, base=base, checkpoints=expected, settings=begun_with))
    return replace(outcome, weights=None, complete=False)
