"""Products B A that are kept from the measurement of a tensor until it is merged, as far as there is room: they are made once."""

from dataclasses import dataclass, field

import numpy as np


class BufferPool:
    """Blocks of one size in one piece of memory, which is touched as it is used. Threads may share it.

    Args:
        size: of all blocks, in bytes.
        step: entries of a block.
    """

    def __init__(self, size: int, step: int) -> None:
        self._free = list(np.empty((size // (8 * step), step)))

    def take(self) -> np.ndarray | None:
        """Return a block [step] float64, or None where all are taken."""
        try:
            return self._free.pop()
        except IndexError:
            return None

    def give(self, block: np.ndarray) -> None:
        self._free.append(block)


@dataclass
class ProductCache:
    """Tiles of one tensor's product that are kept.

    `step`, `entries`: of a whole tile, and of the tensor. Parts of tiles, as samples are, are not kept.
    """

    pool: BufferPool
    step: int
    entries: int
    _blocks: dict[int, np.ndarray] = field(default_factory=dict)

    def find(self, first: int, last: int) -> np.ndarray | None:
        """Entries [first, last) as they were kept, None where they were not."""
        return self._blocks[first][: last - first] if first in self._blocks and self._whole(first, last) else None

    def place(self, first: int, last: int) -> np.ndarray | None:
        """Where entries [first, last) are to be written, for `find` to return them; None where they cannot be kept."""
        block = self.pool.take() if self._whole(first, last) else None
        if block is None:
            return None
        self._blocks[first] = block
        return block[: last - first]

    def drop(self, first: int) -> None:
        """Let others have the room of the tile from `first` on."""
        if first in self._blocks:
            self.pool.give(self._blocks.pop(first))

    def _whole(self, first: int, last: int) -> bool:
        return last - first == min(self.step, self.entries - first)
