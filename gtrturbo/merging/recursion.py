"""The paper's recursion, an approximation of its merge: each checkpoint with the last teacher, which counts as one of its own."""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from gtrturbo.algorithms.weights import ema_alpha
from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.inputs import Inputs
from gtrturbo.merging.outcome import Outcome
from gtrturbo.merging.parts import Full
from gtrturbo.merging.plan import MergeSettings, make_plan
from gtrturbo.merging.sources import Target
from gtrturbo.merging.stream import Streaming, stream


def merge_recursively(inputs: Inputs, settings: MergeSettings, folder: Path, how: Streaming) -> Outcome:
    """Merge the first checkpoint, then each next with the last teacher.

    Raises:
        GtrTurboError: the method has no recursion, or the weights say how much all checkpoints count at once.
    """
    count = len(inputs.checkpoints)
    whole = make_plan(settings, count)
    every = inputs.sources(whole, folder)
    previous: Path | None = None
    outcome: Outcome | None = None
    for number in range(count):
        into = folder if number == count - 1 else Path(tempfile.mkdtemp(prefix=".teacher-", dir=folder))
        targets = tuple(_pair(target, number, previous) for target in every.targets)
        plan = make_plan(_pair_settings(settings, previous), 2 if previous else 1)
        teacher = (replace(every.base, folder=previous),) if previous else ()
        sources = replace(every, targets=targets, layouts=(*every.layouts, *teacher))
        outcome = stream(plan, inputs, sources, into, how)
        if previous:
            shutil.rmtree(previous)
        previous = into
    assert outcome is not None
    return replace(outcome, weights=None, complete=False)


def _pair(target: Target, number: int, previous: Path | None) -> Target:
    teacher = (Full(previous, replace(target.entry, file=previous / target.entry.file.name)),) if previous else ()
    return replace(target, parts=(*teacher, target.parts[number]))


def _pair_settings(settings: MergeSettings, previous: Path | None) -> MergeSettings:
    """Teacher and new checkpoint count alike, or by α with ema:α."""
    if settings.weights == "sma" or not previous:
        return replace(settings, weights="sma")
    alpha = ema_alpha(settings.weights) if settings.weights.startswith("ema:") else None
    if alpha is None:
        raise GtrTurboError(f"--recursive takes weights sma or ema:ALPHA, got {settings.weights}.")
    return replace(settings, weights=f"{1 - alpha:.17g},{alpha:.17g}" if alpha < 1 else "sma")
