"""What a merge moved, laid out to be drawn: by module and layer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gtrturbo.store.moved import Moved, MovedTensor, conflict_share, moved_share, overlap


@dataclass(frozen=True)
class MovedPicture:
    """One quantity of a merge: its title, and by module the values of its layers, in their order; None where there is none."""

    title: str
    rows: dict[str, list[float | None]]

    @property
    def top(self) -> float:
        """The largest value."""
        return max((value for row in self.rows.values() for value in row if value is not None), default=0.0)


def pictures(moved: Moved | None) -> list[MovedPicture]:
    """Lay out ‖ΔW‖ / ‖W‖, sign conflicts and overlap of a merge; what was not measured, or is 0 everywhere, is left out."""
    if moved is None:
        return []
    found = [
        MovedPicture("‖ΔW‖ / ‖W‖", _values(moved, moved_share)),
        MovedPicture("share of entries with both signs", _values(moved, conflict_share)),
        MovedPicture("overlap of what the checkpoints changed", _values(moved, lambda some: overlap(some, moved.checkpoints))),
    ]
    return [picture for picture in found if picture.top]


def _values(moved: Moved, measure: Callable[[list[MovedTensor]], float | None]) -> dict[str, list[float | None]]:
    grid = moved.grid()
    layers = sorted({layer for row in grid.values() for layer in row if layer is not None})
    return {
        name: [measure(row[layer]) if layer in row else None for layer in ([None] if None in row else layers)]
        for name, row in grid.items()
    }


def short_names(names: Sequence[str]) -> list[str]:
    """Leave out what comes before a module of a layer, and that it is a weight, unless two would have one name."""
    short = [name.rpartition("*.")[2].removesuffix(".weight") for name in names]
    return short if len(set(short)) == len(short) else list(names)
