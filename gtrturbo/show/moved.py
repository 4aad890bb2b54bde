"""What a merge moved, as `show` draws it: a row per module, a block per layer."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from gtrturbo.analysis.moved import pictures, short_names
from gtrturbo.show.text import Row
from gtrturbo.store.moved import read_moved

BLOCKS = "▁▂▃▄▅▆▇█"
MISSING = "·"  # The module has no such layer, or there is nothing to say of it.
MOST = 36  # blocks of a row: with names and numbers a row fits a terminal of 80 columns


def moved_sections(folder: Path) -> Iterator[tuple[str, list[Row]]]:
    """Yield a title and rows for each picture of a merge; none where it is no merge, or an earlier version's."""
    for picture in pictures(read_moved(folder)):
        several = -(-max(map(len, picture.rows.values())) // MOST)
        names = short_names(list(picture.rows))
        rows: list[Row] = [
            (name, f"{blocks(largest(row, several), picture.top)}  {_range(row)}")
            for name, row in zip(names, picture.rows.values(), strict=True)
        ]
        each = f"; a block is the largest of {several} layers" if several > 1 else ""
        yield f"{picture.title}, by module and layer ({BLOCKS[0]} 0, {BLOCKS[-1]} {picture.top:.3g}{each})", rows


def largest(values: Sequence[float | None], several: int) -> list[float | None]:
    """The largest of each so many neighbours that there are."""
    parts = [values[first : first + several] for first in range(0, len(values), several)]
    return [max((value for value in part if value is not None), default=None) for part in parts]


def blocks(values: Sequence[float | None], top: float) -> str:
    """Draw each value as one of eight blocks, by its share of the largest."""
    most = len(BLOCKS) - 1
    return "".join(MISSING if value is None else BLOCKS[min(most, int(value / top * len(BLOCKS)))] for value in values)


def _range(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    return f"{low:.3g}" if low == high else f"{low:.3g} … {high:.3g}"
