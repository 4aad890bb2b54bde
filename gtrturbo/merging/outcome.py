"""What came of a merge, in numbers: how far the weights moved, and where."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from gtrturbo.algorithms.weights import LEAST
from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.operands import SUMS

# Sums over millions of terms differ in later digits between the compiled loops and torch.
DIGITS = 6
COUNTED = ("entries", "merged_square", "mean_square", "dot", "conflicts", "kept", "changed", "touched")
MOVED = 5


@dataclass(frozen=True)
class TensorReport:
    """What became of one tensor: squared norms of merged vector, mean and base, their product, and counts over entries.

    `vectors`: how many were merged.
    """

    name: str
    entries: int
    merged_square: float
    mean_square: float
    dot: float
    base_square: float
    conflicts: float
    kept: float
    changed: float
    touched: float
    vectors: int


def report_of(name: str, entries: int, sums: Sequence[np.ndarray], weights: Sequence[float], vectors: int) -> TensorReport:
    """Add up what a combiner returned for a tensor's tiles, in any order. `weights`: of its checkpoints, so many `vectors`."""
    rows = np.concatenate([np.zeros((0, SUMS)), *sums])
    totals = [math.fsum(column) for column in rows.T.tolist()]  # Exact, hence the same in any order.
    merged, square, dot, base, conflicts, kept, changed, touched = totals
    total = math.fsum(weights)  # From the sum to the mean, where there is one.
    total = total if abs(total) > LEAST * math.fsum(map(abs, weights)) else 1.0
    mean_square, mean_dot = square / total / total, dot / total
    return TensorReport(name, entries, merged, mean_square, mean_dot, base, conflicts, kept, changed, touched, vectors)


@dataclass(frozen=True)
class Outcome:
    """What came of a merge.

    `weights` are shares, where there is one per checkpoint; `complete`: all checkpoints were read; `idle`: tensors and
    checkpoints of which the density trims nothing; `unmeasured`: metrics that such a merge does not have; `hashes`, `sums`: of
    the files that were written, and of running sums.
    """

    reports: list[TensorReport]
    kernel: str
    hashes: dict[str, str] = field(default_factory=dict)
    weights: list[float] | None = None
    complete: bool = True
    idle: int = 0
    unmeasured: frozenset[str] = frozenset()
    extra: dict[str, float] = field(default_factory=dict)
    sums: dict[str, str] = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        """norm_ratio: ‖ΔW_merged‖ / ‖mean ΔW‖; cosine: between the two. Both 1 where there was nothing to merge.

        conflicts: share of entries with votes for both signs. kept, changed: shares of the merged vectors' entries that count
        after trimming, and that differ from the base at all. Where not all checkpoints were read, only what the output tells.
        """
        total = {name: math.fsum(getattr(report, name) for report in self.reports) for name in COUNTED}
        entries = max(1.0, total["entries"])
        metrics = {"delta_norm": total["merged_square"] ** 0.5, "conflicts": total["conflicts"] / entries}
        if self.complete:
            read = max(1, sum(report.entries * report.vectors for report in self.reports))
            moved = total["mean_square"] > 0 and total["merged_square"] > 0
            product = (total["merged_square"] * total["mean_square"]) ** 0.5
            metrics |= {
                "mean_delta_norm": total["mean_square"] ** 0.5,
                "norm_ratio": (total["merged_square"] / total["mean_square"]) ** 0.5 if moved else 1.0,
                "cosine": total["dot"] / product if moved else 1.0,
                "kept": total["kept"] / read,
                "changed": total["changed"] / read,
            }
        if not all(map(math.isfinite, metrics.values())):
            raise GtrTurboError(
                "the norms of what was merged are beyond float64.", "merge with a smaller --scale, or smaller weights."
            )
        return {name: rounded(value) for name, value in metrics.items() if name not in self.unmeasured}


def most_moved(reports: Sequence[TensorReport]) -> list[tuple[TensorReport, float]]:
    """Name the tensors that moved most, by ‖ΔW‖ / ‖W‖, with that share."""
    shares = [(report, (report.merged_square / report.base_square) ** 0.5 if report.base_square else 0.0) for report in reports]
    return [(report, rounded(share)) for report, share in sorted(shares, key=lambda pair: -pair[1])[:MOVED] if share > 0]


def rounded(value: float) -> float:
    """Keep the digits that do not depend on the order of a sum."""
    return float(f"{value:.{DIGITS}g}")
