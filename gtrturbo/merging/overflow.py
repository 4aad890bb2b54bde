"""Results that the output's type cannot hold: refused, or set to the largest number that it can.

Entries are looked at only where the norms that a tile's merge returns allow one that is too large, which costs nothing elsewhere:
|b·θ₀ + s·m| ≤ |b|·‖θ₀‖ + ‖s·m‖ over any chunk of entries.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from gtrturbo.errors import GtrTurboError
from gtrturbo.store.safetensors_files import TensorEntry

# By type: the largest number, and its name. bfloat16 has 8 bits of precision.
LARGEST = {
    "F64": (float(np.finfo(np.float64).max), "float64"),
    "F32": (float(np.finfo(np.float32).max), "float32"),
    "BF16": ((2 - 2.0**-7) * 2.0**127, "bfloat16"),
    "F16": (float(np.finfo(np.float16).max), "float16"),
}
# Of bfloat16, whose bits a tile holds: those of an infinity, and of its largest number.
INFINITY, FINITE, SIGN = 0x7F80, 0x7F7F, 0x8000
SAFE = 0.99  # of the largest: norms are rounded


@dataclass
class OutOfRange:
    """Counts entries beyond the range of the output's type, by tensor; `saturate` sets them to its end. Threads may share it."""

    saturate: bool = False
    counts: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def look(self, entry: TensorEntry, rows: np.ndarray, out: np.ndarray) -> None:
        """Look at one merged tile.

        Args:
            entry: its tensor.
            rows: what the combiner returned for it. [chunks, SUMS]
            out: the tile as it is to be written. [n]
        """
        with np.errstate(over="ignore", invalid="ignore"):
            bound = np.sqrt(rows[:, 3]) + np.sqrt(rows[:, 0])
        if (bound < SAFE * LARGEST[entry.dtype][0]).all():
            return
        beyond = _infinite(out)
        if count := int(np.count_nonzero(beyond)):
            self.counts[entry.name].append(count)
            if self.saturate:
                _saturate(out, beyond)

    def require_none(self, entries: Sequence[TensorEntry]) -> None:
        """Refuse what is beyond, unless it was set to the end of the range.

        Raises:
            GtrTurboError: names the first file and tensor, and the share of its entries.
        """
        found = [entry for entry in entries if entry.name in self.counts]
        if not found or self.saturate:
            return
        first = found[0]
        count, (largest, dtype) = sum(self.counts[first.name]), LARGEST[first.dtype]
        others = f", and {len(found) - 1} more tensors have such" if len(found) > 1 else ""
        raise GtrTurboError(
            f"{first.name} of {first.file.name}: {count} of {first.entries} entries ({count / first.entries:.2g} of all) are "
            f"beyond what {dtype} of the base can hold ({largest:.5g}){others}.",
            "merge around a base of a wider type, with a smaller --scale or smaller weights, or with --saturate.",
        )

    @property
    def total(self) -> int:
        return sum(map(sum, self.counts.values()))


def _infinite(out: np.ndarray) -> np.ndarray:
    """Which entries are no finite numbers; uint16 stands for bfloat16."""
    return (out & INFINITY) == INFINITY if out.dtype == np.uint16 else ~np.isfinite(out)


def _saturate(out: np.ndarray, beyond: np.ndarray) -> None:
    if out.dtype == np.uint16:
        out[beyond] = (out[beyond] & SIGN) | FINITE
    else:
        out[beyond] = np.copysign(np.finfo(out.dtype).max, out[beyond])
