"""The k-th largest magnitude of a task vector too large for memory, exactly: count by 16 bits, then look inside one bin.

Magnitudes of floating-point numbers order as their bits do, so each pass narrows the search to one of 65,536 bins. As soon as
a bin holds few entries they are gathered and selected from; after four passes the bin is the number itself.
"""

import threading
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.operands import TABLES, Kernel, Operand, Search, Tile

SHIFTS = (47, 31, 15, 0)  # of a double without its sign: 16 + 16 + 16 + 15 bits
FEW = 1 << 14  # entries that are gathered
MANY = 1 << 21  # entries that are gathered rather than starting again, 16 MiB
WORTH_SAMPLING = 1 << 18  # entries
SHARE = 64  # one entry of so many
SAMPLE = 1 << 16  # entries at least
MARGIN = 0.004  # of the entries: a sample's rank is surer than that unless parts of a tensor differ much

Tiles = Callable[..., Iterator[tuple[Tile, Operand]]]


_scratch = threading.local()


class NotFinite(Exception):
    """A NaN or an infinity among the entries."""


def kth_largest(kernel: Kernel, tiles: Tiles, n: int, ranks: list[int]) -> list[float]:
    """Return the magnitudes of the given ranks, 1 being the largest, of n entries.

    Args:
        kernel: counts and gathers.
        tiles: starts a pass over all tiles: (base, operand); with a number, over the first such part of each.
        n: number of entries.
        ranks: each in [1, n].

    Raises: NotFinite: an entry is a NaN or an infinity.
    """
    if n <= FEW:
        values = _gathered(kernel, tiles, n, prefix=0, prefix_shift=64)
        return [_select(values, rank) for rank in ranks]
    found = {rank: _where_sampled(kernel, tiles, n, rank) for rank in ranks} if n >= WORTH_SAMPLING else {}
    left = [rank for rank in ranks if found.get(rank) is None]
    if left:
        counts, _ = _counts(kernel, tiles, prefix=0, prefix_shift=64, shift=SHIFTS[0])
        found |= {rank: _narrow(kernel, tiles, counts, rank) for rank in left}
    return [value for rank in ranks if (value := found[rank]) is not None]


def _where_sampled(kernel: Kernel, tiles: Tiles, n: int, rank: int) -> float | None:
    """Look only where a sample says that the magnitude is, in one pass instead of two; None where it is not."""
    sample = _sampled(kernel, partial(tiles, max(1, min(SHARE, n // SAMPLE))))
    at_least = sample[::-1].cumsum()  # From the highest bin down.
    places = at_least.searchsorted([(rank / n + off) * at_least[-1] for off in (MARGIN, -MARGIN)])
    first, last = (max(0, len(sample) - 1 - int(place)) for place in places)
    if last - first >= TABLES:
        return None
    search = Search(first, _tables(kernel), np.empty(min(n, MANY)), width=last - first + 1)
    for base, operand in tiles():
        if not kernel.span(base, operand, search):
            raise NotFinite
    # From the highest bin down, first as a whole, then by the next 16 bits.
    rank -= search.above
    bin_ = search.width - 1
    totals = search.tables[: search.width].sum(axis=1).tolist()
    while bin_ >= 0 and rank > totals[bin_]:
        rank -= totals[bin_]
        bin_ -= 1
    if rank < 1 or bin_ < 0:
        return None
    low, rank = _bin(search.tables[bin_], rank)
    prefix = (first + bin_ << 16) + low
    if search.found <= len(search.rest):
        # Those without more bits are equal, and the smallest of their bin.
        rest = search.rest[: search.found]
        rest = rest[rest.view(np.uint64) >> np.uint64(SHIFTS[1]) == prefix]
        return _select(rest, rank) if rank <= len(rest) else _number(prefix << SHIFTS[1])
    count = int(search.tables[bin_, low])
    if count > MANY:
        return None
    return _select(_gathered(kernel, tiles, count, prefix=prefix, prefix_shift=SHIFTS[1]), rank)


def _narrow(kernel: Kernel, tiles: Tiles, counts: np.ndarray, rank: int) -> float:
    prefix, more = 0, True
    for level, shift in enumerate(SHIFTS):
        if level:
            counts, more = _counts(kernel, tiles, prefix=prefix, prefix_shift=SHIFTS[level - 1], shift=shift)
        chosen, rank = _bin(counts, rank)
        prefix = prefix << (SHIFTS[level - 1] - shift if level else 16) | chosen
        if not more:  # As in differences of 16-bit weights: all bits are known.
            return _number(prefix << shift)
        if shift and counts[chosen] <= FEW:
            return _select(_gathered(kernel, tiles, int(counts[chosen]), prefix=prefix, prefix_shift=shift), rank)
    return _number(prefix)


def _bin(counts: np.ndarray, rank: int) -> tuple[int, int]:
    """Return the bin that holds a rank, counted from the highest one down, and the rank within it."""
    at_least = counts[::-1].cumsum(dtype=np.int64)
    place = int(np.searchsorted(at_least, rank))
    return len(counts) - 1 - place, rank - int(at_least[place] - counts[::-1][place])


def _number(bits: int) -> float:
    return float(np.uint64(bits).view(np.float64))


def _counts(kernel: Kernel, tiles: Tiles, *, prefix: int, prefix_shift: int, shift: int) -> tuple[np.ndarray, bool]:
    """Count by 16 bits, and tell whether any entry that was counted has bits below them."""
    tables, more = _tables(kernel), False
    for base, operand in tiles():
        found = kernel.histogram(base, operand, prefix=prefix, prefix_shift=prefix_shift, shift=shift, tables=tables)
        if not found:
            raise NotFinite
        more |= found == 2
    counts = tables[0].astype(np.int64)
    for row in tables[1:]:
        counts += row
    return counts, more


def _sampled(kernel: Kernel, tiles: Tiles) -> np.ndarray:
    """Count by the first 16 bits, without the care that a count of all needs: its sums fit its counters."""
    tables = _tables(kernel)
    for base, operand in tiles():
        if not kernel.histogram(base, operand, prefix=0, prefix_shift=64, shift=SHIFTS[0], tables=tables):
            raise NotFinite
    counts = tables[0] + tables[1]
    for row in tables[2:]:
        counts += row
    return counts


def _tables(kernel: Kernel) -> np.ndarray:
    """Counters of this thread, all 0, which the next call uses again: fresh memory takes longer than to clear it."""
    kept: dict[Kernel, np.ndarray] = _scratch.__dict__.setdefault("tables", {})
    if kernel not in kept:
        kept[kernel] = kernel.tables()
    else:
        kept[kernel].fill(0)
    return kept[kernel]


def _gathered(kernel: Kernel, tiles: Tiles, count: int, *, prefix: int, prefix_shift: int) -> np.ndarray:
    found = np.empty(0)
    done = 0
    for base, operand in tiles():
        if not done:  # The first tile is the longest. Room for one more keeps a file that changes meanwhile from overflowing it.
            found = np.empty(count + len(operand.data))
        if done > count:
            raise GtrTurboError("a file changed while it was read.", "run it again when nothing writes there.")
        got = kernel.gather(base, operand, prefix=prefix, prefix_shift=prefix_shift, out=found[done:])
        if got < 0:
            raise NotFinite
        done += got
    return found[:done]


def _select(values: np.ndarray, rank: int) -> float:
    return float(np.partition(values, len(values) - rank)[len(values) - rank])
