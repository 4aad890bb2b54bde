"""The running sums of an incremental merge on disk: adding a checkpoint costs one pass over that checkpoint alone.

After trimming, TIES needs of the past only four numbers per entry: the sums of its positive and of its negative values, and
the weight behind each. Sums are float64 as in a merge from scratch, so for equal weights both give the same bytes; weights are
counts (uint16) then, and float64 for EMA: 20 and 32 bytes per parameter. A rule of the user's own says
how many sums it needs, each float64.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.hashing import Hasher
from gtrturbo.merging.state import RunningSums, save_state
from gtrturbo.store.claims import put_in_place
from gtrturbo.store.hashes import new_hash
from gtrturbo.store.open_files import Files
from gtrturbo.store.safetensors_files import TensorEntry, header_of, read_header

PARTS = ("positive", "negative", "positive_weight", "negative_weight")
MOST = 65535  # checkpoints, of the counts


def parts_of(count: int) -> tuple[str, ...]:
    """Name the sums: those of TIES, or so many of a rule of the user's own."""
    return tuple(f"sum{number}" for number in range(count)) if count else PARTS


def sums_files(parts: Sequence[str]) -> list[str]:
    """Name the files of sums."""
    return [f"{part}.safetensors" for part in parts]


class Accumulators:
    """Reads the sums of a state and writes those of the next, which takes its place when it is whole."""

    def __init__(
        self,
        folder: Path,
        following: Path,
        old: RunningSums | None,
        targets: Sequence[TensorEntry],
        files: Files,
        *,
        decay: float,
        counted: bool,
        parts: Sequence[str] = PARTS,
    ) -> None:
        self.folder = folder
        self._parts = tuple(parts)
        self.decay = decay
        self._old = old
        self._files = files
        self._counts = counted
        self._following = following
        self._places: dict[str, dict[str, TensorEntry]] = {}
        begun = [self._create(part, targets) for part in self._parts]
        self._hashers = {path: Hasher(files, path, size, new_hash()) for path, _, size in begun}
        for path, header, _ in begun:
            self._hashers[path].wrote(0, header)

    def _create(self, part: str, targets: Sequence[TensorEntry]) -> tuple[Path, int, int]:
        """Make a file of the next state; return it with the sizes of its header and of all of it."""
        dtype = "U16" if part.endswith("weight") and self._counts else "F64"
        header = header_of({target.name: (dtype, target.shape) for target in targets})
        width = 2 if dtype == "U16" else 8
        size = len(header) + sum(target.entries * width for target in targets)
        path = self._following / f"{part}.safetensors"
        self._files.create(path, header, size)
        start = len(header)
        self._places[part] = {}
        for target in targets:
            self._places[part][target.name] = TensorEntry(target.name, path, dtype, target.shape, start, target.entries * width)
            start += target.entries * width
        if self._old:
            existing = {entry.name: entry for entry in read_header(self.folder / path.name)[1]}
            if {(e.name, e.dtype, e.shape, e.start) for e in existing.values()} != {
                (e.name, e.dtype, e.shape, e.start) for e in self._places[part].values()
            }:
                raise GtrTurboError(f"{self.folder} holds sums of other tensors.", "choose another --state.")
            self._files.open(self.folder / path.name)
        return path, len(header), size

    def read(self, target: TensorEntry, start: int, stop: int) -> np.ndarray:
        """Read the sums of entries [start, stop), 0 at the beginning. [4, n] float64, or [m, n]"""
        sums = np.zeros((len(self._parts), stop - start))
        if self._old:
            for row, part in zip(sums, self._parts, strict=True):
                place = self._places[part][target.name]
                values = np.empty(stop - start, _NUMPY[place.dtype])
                source = self.folder / place.file.name
                self._files.read_bytes(source, place.start + start * values.itemsize, values)
                row[:] = values
        return sums

    def write(self, target: TensorEntry, start: int, stop: int, sums: np.ndarray) -> None:
        """Write the sums of entries [start, stop) for the next state."""
        for row, part in zip(sums, self._parts, strict=True):
            place = self._places[part][target.name]
            values = np.ascontiguousarray(row, _NUMPY[place.dtype])
            at = place.start + start * values.itemsize
            self._files.write(place.file, at, values)
            self._hashers[place.file].wrote(at, at + values.nbytes)

    def hashes(self) -> dict[str, str]:
        """Wait for the ends of the files, and return the hash of each by its name."""
        return {path.name: hasher.digest() for path, hasher in self._hashers.items()}

    def give_up(self) -> None:
        """End the threads that hash before the files are whole."""
        for hasher in self._hashers.values():
            hasher.give_up()


def replace_sums(folder: Path, following: Path, state: RunningSums, hashes: Mapping[str, str]) -> None:
    """Put the new state in the place of the old one, which is whole until then."""
    save_state(following, state, hashes)
    put_in_place(following, folder)


_NUMPY = {"F64": np.float64, "U16": np.uint16}
