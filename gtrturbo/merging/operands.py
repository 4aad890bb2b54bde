"""What one tile of a merge is made of, for the compiled kernel and for torch alike."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from gtrturbo.config.choices import Sign
from gtrturbo.errors import GtrTurboError
from gtrturbo.store.open_files import StoredTile

# Entries in memory, or still in a file: the kernel reads them then.
Tile = np.ndarray | StoredTile
CHUNK = 1 << 14  # entries per row of sums, so that what is reported does not depend on how the work was cut
SUMS = 8
TABLES = 4
BINS = 1 << 16


@dataclass(frozen=True)
class Operand:
    """A tile of one checkpoint.

    Attributes:
        data: float64, float32, float16, or uint16 for bfloat16's bits. [n]
        difference: the values are a task vector already, not weights to subtract the base from.
        weight: relative to the largest, or a coefficient.
        low, high: entries count where low ≤ |d| ≤ high.
        key: decides which entries a random drop keeps.
        sample: (part, step): of each `step` entries only the first `part` are counted by a histogram.
    """

    data: Tile
    difference: bool = False
    weight: float = 1.0
    low: float = 0.0
    high: float = math.inf
    key: int = 0
    sample: tuple[int, int] | None = None


@dataclass(frozen=True)
class RuleInputs:
    """What a rule in Python may ask for besides task vectors and weights.

    Attributes:
        settings: its own parameters, by name.
        densities: share that each checkpoint keeps.
        normalize: the weights were asked to be divided by.
        width: entries of a row of the tensor, where it wants whole rows.
        measured: what it measured of the whole tensor.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    densities: tuple[float, ...] = ()
    normalize: bool = True
    width: int = 0
    measured: np.ndarray | None = None


@dataclass(frozen=True)
class TileRule:
    """How tiles become one.

    vote None:             m = Σ w_i d_i / divisor
    vote total, count:     the sum over the entries that agree with the elected sign, divided by their weights (average) or by
                           divisor; the sign is that of Σ w_i d_i (total), or of the number of votes (count); 0 counts as +
    Then out = base_factor · base + scale · m.

    `keep` below 1 drops entries at random and divides the others by it. `given` is for a rule in Python.
    """

    vote: Sign | None = None
    average: bool = False
    divisor: float = 1.0
    keep: float = 1.0
    scale: float = 1.0
    base_factor: float = 1.0
    trims: bool = False
    given: RuleInputs = field(default_factory=RuleInputs)


@dataclass
class Search:
    """A pass that looks at a few bins of 16 bits, from `first` on.

    Attributes:
        first: the lowest bin.
        tables: how many entries of each bin have which next 16 bits. [TABLES, BINS]
        rest: entries of these bins that have bits below those, as far as there is room.
        above: number of entries above the bins.
        found: number of entries that `rest` is for.
        width: number of bins, at most TABLES.
    """

    first: int
    tables: np.ndarray
    rest: np.ndarray
    above: int = 0
    found: int = 0
    width: int = TABLES


def loaded(tile: Tile) -> np.ndarray:
    """Read a tile that still lies in a file."""
    return tile.load() if isinstance(tile, StoredTile) else tile


class RuleFailed(Exception):
    """The user's rule raised, or returned what is no merged tensor: what it did, and the line of theirs that did it."""

    def __init__(self, what: str, line: str = "") -> None:
        super().__init__(what)
        self.what, self.line = what, line

    def at(self, tensor: str, *, rule: str) -> GtrTurboError:
        """Name the tensor and the rule."""
        return GtrTurboError(f"{rule} fails at {tensor}: {self.what}", self.line)


class Combiner(Protocol):
    """Makes one tile of several."""

    def combine(
        self,
        base: Tile,
        operands: Sequence[Operand],
        rule: TileRule,
        *,
        offset: int,
        out: np.ndarray,
        state: np.ndarray | None = None,
        decay: float = 1.0,
    ) -> np.ndarray | None:
        """Merge one tile into `out`, of the base's dtype.

        Args:
            offset: the tile's first entry within its tensor, a multiple of CHUNK.
            state: sums of earlier checkpoints, of + and − entries and of the weights behind each; multiplied by `decay`,
                extended, written back. [4, n] float64

        Returns: per chunk, with s = Σ w_i d_i: ‖m‖², ‖s‖², ⟨m, s⟩, ‖base‖², entries with both signs, entries kept and entries
        changed (both over all operands), and entries that any operand changed [chunks, SUMS]; None if an entry is not finite.

        Raises:
            RuleFailed: a rule of the user's own does.
        """
        ...


class Kernel(Combiner, Protocol):
    """The inner loops, compiled or in torch; both give the same bytes."""

    name: str

    def tables(self) -> np.ndarray:
        """Counters for `histogram`, all 0. [TABLES, BINS]"""
        ...

    def histogram(self, base: Tile, operand: Operand, *, prefix: int, prefix_shift: int, shift: int, tables: np.ndarray) -> int:
        """Count magnitudes by 16 of their bits, those alone whose bits above `prefix_shift` are `prefix` (64: all).

        Returns: 0 if an entry is not finite, 1 if none of those that were counted has bits below `shift`, else 2. A pass over all
        does not look, and returns 2.
        """
        ...

    def span(self, base: Tile, operand: Operand, search: Search) -> bool:
        """Count by 32 bits what lies in the bins of 16 bits that are searched; returns False if an entry is not finite."""
        ...

    def gather(self, base: Tile, operand: Operand, *, prefix: int, prefix_shift: int, out: np.ndarray) -> int:
        """Copy such magnitudes into `out`, float64; return how many, or −1 if an entry is not finite."""
        ...
