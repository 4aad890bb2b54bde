"""One merge from open files to an outcome: the loops it runs in, what is known already, progress, and a check at the end."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np

from gtrturbo.console import Bar, progress_bar, stderr
from gtrturbo.merging.accumulators import Accumulators
from gtrturbo.merging.engine import Merge
from gtrturbo.merging.global_trim import bounds_of, with_global_thresholds
from gtrturbo.merging.inputs import Inputs
from gtrturbo.merging.kernel import compiled_kernel
from gtrturbo.merging.method import MergeRule
from gtrturbo.merging.operands import Combiner, Kernel
from gtrturbo.merging.outcome import Outcome, rounded
from gtrturbo.merging.plan import MergePlan
from gtrturbo.merging.recipes.inputs import RecipeInputs
from gtrturbo.merging.sources import Sources, Target, drawn_once, in_whole_rows
from gtrturbo.merging.thresholds import ThresholdCache
from gtrturbo.merging.workers import Job
from gtrturbo.store.ids import seed_for
from gtrturbo.store.open_files import Files
from gtrturbo.store.safetensors_files import TensorEntry

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Streaming:
    """Where and how a merge is computed: `seed` of a random drop, threads, device, and how many tensors are verified.

    `saturate`: results beyond the output's type become its largest numbers.
    """

    seed: int
    threads: int
    device: str
    verify: int
    saturate: bool = False


def stream(
    plan: MergePlan,
    inputs: Inputs | RecipeInputs,
    sources: Sources,
    folder: Path,
    how: Streaming,
    *,
    cache: ThresholdCache | None = None,
    accumulators: Callable[[Files], Accumulators] | None = None,
    extra_jobs: Sequence[Job] = (),
) -> Outcome:
    """Merge what `sources` lay out into `folder`, show progress, remember what was measured, verify.

    Args:
        plan, inputs, sources: of the merge.
        folder: where to.
        how: threads, device and the like.
        cache: what was measured before.
        accumulators: opens running sums that the merge adds to.
        extra_jobs: for the same threads.
    """
    kernel = kernel_of(how.device)
    sources = drawn_once(in_whole_rows(sources, plan), plan)
    with closing(Files()) as files:
        sources.open(files)
        known = cache.recall(target.name for target in sources.targets) if cache else {}
        if plan.trim == "global" and plan.measures == "ranks":
            plan = with_global_thresholds(plan, sources, kernel, files, threads=how.threads)
            known = bounds_of(plan, sources)
        seeds = seeds_of(plan, how.seed)
        merge = Merge(plan, sources, kernel, combiners(kernel, how.device), files, folder, seeds, known)
        merge.accumulators = accumulators(files) if accumulators else None
        merge.extra_jobs = extra_jobs
        merge.range.saturate = how.saturate
        merge.measurer = partial(measured, kernel=kernel, files=files, seeds=seeds, device=how.device)
        with progress_bar("merge (MB)", sources.base.size // MEGABYTE) as bar:
            merge.on_progress = _Throughput(bar)
            reports = merge.run(how.threads)
        if cache:
            cache.remember(merge.thresholds)
        if merge.range.total:
            inputs.tell(f"{merge.range.total} entries were beyond the output's type and are now its largest numbers.")
        if how.verify and not accumulators:
            _verify(plan, sources, files, folder, seeds, count=how.verify)
        error = inputs.finish(files, sources, folder)
    idle = sum(low == 0 for low, _ in merge.thresholds.values())
    extra = {} if error is None else {"rank_error": rounded(error)}
    return Outcome(
        reports,
        kernel.name,
        merge.hashes,
        plan.shares,
        idle=idle,
        unmeasured=plan.unmeasured,
        extra=extra,
        sums=merge.sums,
    )


def verify_written(plan: MergePlan, sources: Sources, folder: Path, how: Streaming) -> None:
    """Compare tensors of a merge that was written before with the reference; see `verify.verify`."""
    sources = drawn_once(in_whole_rows(sources, plan), plan)
    with closing(Files()) as files:
        sources.open(files)
        for name in sources.base.headers:
            files.open(folder / name)
        if plan.trim == "global" and plan.measures == "ranks":
            plan = with_global_thresholds(plan, sources, kernel_of(how.device), files, threads=how.threads)
        _verify(plan, sources, files, folder, seeds_of(plan, how.seed), count=how.verify)


def _verify(
    plan: MergePlan, sources: Sources, files: Files, folder: Path, seeds: Callable[[str, int], int], *, count: int
) -> None:
    from gtrturbo.merging.verify import verify  # Takes seconds to import torch, which the compiled loops do without.

    def written(entry: TensorEntry) -> TensorEntry:
        return replace(entry, file=folder / entry.file.name)

    compared = verify(plan, sources, files, written, seeds, count=count)
    stderr.print(f"verified: {compared} tensors equal the reference to one unit in the last place.")


def kernel_of(device: str) -> Kernel:
    """The compiled loops, or those in torch on a GPU and where there is no compiler."""
    if device == "cpu":
        if kernel := compiled_kernel():
            return kernel
        stderr.print("merging with torch, which is several times slower than the compiled loops.", style="yellow")
    from gtrturbo.distributed.devices import require_device  # They take seconds to import, and are rarely needed.
    from gtrturbo.merging.tiles import TorchKernel

    return TorchKernel(require_device(device))


def combiners(kernel: Kernel, device: str) -> Callable[[MergePlan], Combiner]:
    """Merge by the kernel, or by a rule in Python: thresholds are measured by the kernel all the same."""

    @cache
    def by_rule(rule: MergeRule) -> Combiner:
        from gtrturbo.distributed.devices import require_device  # They take seconds to import, and are rarely needed.
        from gtrturbo.merging.custom import RuleCombiner

        return RuleCombiner(rule, require_device(device))

    return lambda plan: by_rule(plan.method.rule) if plan.method.rule else kernel


def measured(
    target: Target, plan: MergePlan, *, kernel: Kernel, files: Files, seeds: Callable[[str, int], int], device: str
) -> np.ndarray:
    """Let a rule in Python measure one tensor."""
    from gtrturbo.distributed.devices import require_device  # As above.
    from gtrturbo.merging.measured_rules import measured_by

    return measured_by(target, plan, kernel=kernel, files=files, seeds=seeds, device=require_device(device))


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


def seeds_of(plan: MergePlan, seed: int) -> Callable[[str, int], int]:
    """Keys of the random drop, by tensor and checkpoint."""
    if plan.method.keeps != "random":
        return lambda name, index: 0
    return lambda name, index: seed_for(seed, "dare", index, name)
