"""Merges of adapters whose products are made in float32, tile by tile, twice: nothing of ΔW is kept, and the bytes are float64's.

`products.c` proves what float32 is off, and makes in float64 what that could decide. What it does not know (DoRA, initial states,
running sums, other types than bfloat16) goes the way of all tiles.
"""

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np

from gtrturbo.merging import magnitudes
from gtrturbo.merging.factored import Product
from gtrturbo.merging.kernel import CompiledKernel, rule_struct
from gtrturbo.merging.magnitudes import NotFinite
from gtrturbo.merging.operands import Kernel, TileRule
from gtrturbo.merging.parts import Full, LowRank
from gtrturbo.merging.plan import MergePlan
from gtrturbo.merging.product_kernel import PackedFactors, ProductKernel, takes
from gtrturbo.merging.sources import Target
from gtrturbo.store.open_files import Files
from gtrturbo.store.safetensors_files import TensorEntry

PACKED = 1 << 25  # bytes of factors that stay from the measurement of a tensor until it is merged
MARGINS = (0.006, 0.05)  # of the entries: how far a sample's rank may be off
DOUBTFUL = 1 << 16  # entries that are made again for one threshold
PLACES = 2**31  # entries of a tensor


@dataclass
class Singles:
    """The products of one merge. Threads may share it."""

    kernel: CompiledKernel
    products: ProductKernel
    files: Files
    _packed: OrderedDict[tuple[str, int], PackedFactors] = field(default_factory=OrderedDict)
    _bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def threshold(self, target: Target, index: int, rank: int) -> float | None:
        """Return the magnitude of a rank, 1 being the largest, of one product; None where it has to be found otherwise."""
        if not isinstance(target.parts[index], LowRank) or not _is_plain(target, index):
            return None
        factors = self._factors(target, index)
        return threshold(self.products, factors, rank) if factors.bounded else None

    def merge(
        self, target: Target, plan: MergePlan, rule: TileRule, lows: list[float], first: int, out: np.ndarray
    ) -> np.ndarray | None:
        """Merge entries from `first` on, whole rows, into `out`; return what a combiner does, None where it has to do it.

        Raises: NotFinite: an entry of the base is a NaN or an infinity.
        """
        factors = [self._factors(target, index) for index in range(len(target.parts))]
        if not all(each.bounded for each in factors):
            return None
        assert isinstance(target.base, Full)
        last = first + len(out)
        origin, _ = target.base.reader(self.files)(first, last)
        rows = (first // target.row, last // target.row)
        with self.kernel.in_memory(origin) as base:
            found = self.products.combine(base, factors, rows, rule_struct(rule), weights=plan.weights, lows=lows, out=out)
        if found is None:
            raise NotFinite
        return found

    def merges(self, target: Target, plan: MergePlan) -> bool:
        """Whether a tensor may be merged so."""
        return (
            takes(plan.rule, plan.weights)
            and plan.measures in (None, "ranks")
            and plan.method.keeps != "middle"
            and not plan.method.rule
            and any(isinstance(part, LowRank) for part in target.parts)
            and all(_is_plain(target, index) for index in range(len(target.parts)))
        )

    def _factors(self, target: Target, index: int) -> PackedFactors:
        key = (target.name, index)
        with self._lock:
            if key in self._packed:
                self._packed.move_to_end(key)
                return self._packed[key]
        made = self._pack(target, index)
        with self._lock:
            if key not in self._packed:  # Two threads may make the same.
                self._packed[key] = made
                self._bytes += made.size
            while len(self._packed) > 1 and self._bytes > PACKED:
                self._bytes -= self._packed.popitem(last=False)[1].size
        return made

    def _pack(self, target: Target, index: int) -> PackedFactors:
        part = target.parts[index]
        if isinstance(part, LowRank):
            assert isinstance(part.change, Product)
            left, right = part.change.singles(self.files)
            return self.products.pack(left, right, part.change.scale)
        rows = target.entry.entries // target.row  # As in the base: an adapter that does not change it.
        return self.products.pack(np.empty((rows, 0), np.float32), np.empty((0, target.row), np.float32), 0.0)


def singles_of(kernel: Kernel, files: Files) -> Singles | None:
    """Return them where the compiled loops have them."""
    if not isinstance(kernel, CompiledKernel) or kernel.products is None:
        return None
    return Singles(kernel, kernel.products, files)


def _is_plain(target: Target, index: int) -> bool:
    """Whether a checkpoint changes a bfloat16 tensor by a product of stored factors, or not at all."""
    part, base = target.parts[index], target.base
    if not isinstance(base, Full) or base.whole or (base.entry.dtype, target.entry.dtype) != ("BF16", "BF16"):
        return False
    if target.row == 1 or target.entry.entries >= PLACES:
        return False
    if isinstance(part, Full):
        return part.entry == base.entry and not part.whole
    if not isinstance(part, LowRank) or not isinstance(part.change, Product) or part.origin or part.whole:
        return False
    return not part.change.diagonal and all(_is_single(entry) for entry in part.change.entries)


def _is_single(entry: TensorEntry) -> bool:
    return entry.dtype in ("F32", "BF16", "F16")


def threshold(products: ProductKernel, factors: PackedFactors, rank: int) -> float | None:
    """Return the magnitude of a rank of scale · L R in float64, exactly; None where too many entries lie about it."""
    if factors.nothing:
        return 0.0
    entries = factors.rows * factors.width
    if entries < magnitudes.WORTH_SAMPLING:
        return _within(products, factors, rank, 0.0, math.inf, entries)
    sample = _sampled(factors)
    for margin in MARGINS:
        low, high = _bracket(sample, rank / entries, margin)
        found = _within(products, factors, rank, low, high, int(4 * margin * entries) + magnitudes.SAMPLE)
        if found is not None:
            return found
    return None


def _sampled(factors: PackedFactors) -> np.ndarray:
    """Make some entries, of all columns and of many rows, as norms differ; not by powers of two, in which heads come."""
    entries = factors.rows * factors.width
    step = max(1, math.isqrt(min(magnitudes.SHARE, entries // magnitudes.SAMPLE))) | 1
    down = math.isqrt(step) | 1
    across = step * step // down | 1
    columns = factors.right.transpose(0, 2, 1).reshape(-1, factors.rank)[: factors.width]
    made = [factors.left[first * down :: across * down] @ columns[first::across].T for first in range(across)]
    return np.abs(np.concatenate(made, axis=None)) * np.float32(abs(factors.scale))


def _bracket(sample: np.ndarray, share: float, margin: float) -> tuple[float, float]:
    """Magnitudes that such a share of the entries, or a little less or more, is above: [low, high)."""
    places = [len(sample) - math.ceil((share + off) * len(sample)) for off in (margin, -margin)]
    inside = [place for place in places if 0 <= place < len(sample)]
    ordered = np.partition(sample, inside) if inside else sample
    low, high = (float(ordered[place]) if place in inside else None for place in places)
    return (0.0 if low is None else low), (math.inf if high is None else high)


def _within(products: ProductKernel, factors: PackedFactors, rank: int, low: float, high: float, room: int) -> float | None:
    """Look for it in [low, high)."""
    gathered = products.gather(factors, low, high, room)
    rank -= gathered.above
    if not 1 <= rank <= gathered.found <= room:
        return None
    values, place = gathered.values, len(gathered.values) - rank
    middle = np.partition(values, place)[place]
    # The magnitude of a rank moves no farther than any entry is off: those that lie twice as far from it stay on their side.
    off = 2.001 * factors.off + float(middle) * 2.0**-22
    low_doubt, high_doubt = np.float32(middle - off), np.float32(middle + off)
    near = gathered.places[(values >= low_doubt) & (values <= high_doubt)]
    if len(near) > DOUBTFUL:
        return None
    rank -= int(np.count_nonzero(values > high_doubt))
    exact = products.magnitudes(factors, near)
    found = float(np.partition(exact, len(exact) - rank)[len(exact) - rank])
    return found if low <= found < high else None
