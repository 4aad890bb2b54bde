"""What a merge moved, tensor by tensor: written beside its weights, outside its id, to look at."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from gtrturbo.config.regular_files import read_regular
from gtrturbo.errors import GtrTurboError
from gtrturbo.store.files import save_json
from gtrturbo.store.hashes import sealed_by
from gtrturbo.store.names import MOVED

MOVED_FORMAT = 1
NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class MovedTensor:
    """One merged tensor.

    Attributes:
        name: of the tensor.
        entries: how many it has.
        delta_square, base_square: ‖ΔW‖² of the merge, and ‖W‖² of the base.
        conflicts: entries with votes for both signs.
        changed: entries that differ from the base, of all checkpoints together.
        touched: entries that any checkpoint changed.
    """

    name: str
    entries: int
    delta_square: float
    base_square: float
    conflicts: float
    changed: float
    touched: float


@dataclass(frozen=True)
class Moved:
    """What a merge moved.

    `checkpoints`: how many were read together; 0 where running sums stand for the older ones. `seal`: hash of the
    rest, so that nobody looks at other numbers than were written.
    """

    format: int
    checkpoints: int
    tensors: tuple[MovedTensor, ...]
    seal: str = ""

    @property
    def overlap(self) -> float | None:
        return overlap(self.tensors, self.checkpoints)

    def grid(self) -> dict[str, dict[int | None, list[MovedTensor]]]:
        """Sort by module, whose name has * for its numbers, and by layer, the first of them; None where there is none."""
        found: dict[str, dict[int | None, list[MovedTensor]]] = {}
        for tensor in self.tensors:
            number = NUMBER.search(tensor.name)
            layers = found.setdefault(NUMBER.sub("*", tensor.name), {})
            layers.setdefault(int(number[0]) if number else None, []).append(tensor)
        return found


def moved_share(tensors: Iterable[MovedTensor]) -> float:
    """Return ‖ΔW‖ / ‖W‖ over some tensors; 0 where the base is 0."""
    delta, base = (math.fsum(column) for column in zip(*((t.delta_square, t.base_square) for t in tensors), strict=True))
    return math.sqrt(delta / base) if base else 0.0


def conflict_share(tensors: Iterable[MovedTensor]) -> float:
    """Return the share of entries with votes for both signs."""
    conflicts, entries = (math.fsum(column) for column in zip(*((t.conflicts, t.entries) for t in tensors), strict=True))
    return conflicts / entries if entries else 0.0


def overlap(tensors: Sequence[MovedTensor], checkpoints: int) -> float | None:
    """Return how far the checkpoints changed the same entries: 0, no entry was changed by two; 1, each by all.

    With k checkpoints, c changed entries of all together and u of any: (c / u − 1) / (k − 1). Of two it is the Jaccard index
    |A ∩ B| / |A ∪ B|. None where there are fewer than two, or where nothing was changed.
    """
    changed, touched = math.fsum(t.changed for t in tensors), math.fsum(t.touched for t in tensors)
    return (changed / touched - 1) / (checkpoints - 1) if checkpoints > 1 and touched else None


def save_moved(folder: Path, tensors: Iterable[MovedTensor], *, checkpoints: int) -> None:
    """Write moved.json."""
    moved = Moved(MOVED_FORMAT, checkpoints, tuple(tensors))
    save_json(folder / MOVED, asdict(replace(moved, seal=sealed_by(asdict(moved)))))


def read_moved(folder: Path) -> Moved | None:
    """Read moved.json; None where there is none, as in merges of earlier versions.

    Raises:
        GtrTurboError: it is damaged.
    """
    file = folder / MOVED
    if not file.is_file():
        return None
    try:
        found = TypeAdapter(Moved).validate_json(read_regular(file))
    except ValidationError:
        raise _damaged(file) from None
    if found.format != MOVED_FORMAT:
        return None
    if found.seal != sealed_by(asdict(replace(found, seal=""))):
        raise _damaged(file)
    return found


def _damaged(file: Path) -> GtrTurboError:
    return GtrTurboError(f"{file} is damaged.", "delete it: nothing but pictures is made of it.")
