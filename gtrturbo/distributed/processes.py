"""Several processes on one stage, as torchrun starts them: which one this is, and how they keep step.

Nothing heavy is imported here. `stages.execute` makes the group of models/parallel.py the current one where there are several
processes; everywhere else the current group is this process alone, and the same code runs.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from gtrturbo.errors import GtrTurboError

MOST_DIGITS = 9
UNSET = "start several processes with torchrun, which sets it; of one alone: unset RANK WORLD_SIZE LOCAL_RANK"


@dataclass(frozen=True)
class World:
    """Which process this is: `rank` of `size`, and `local_rank` among those of its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Tell whether this is the process that claims, seals and prints."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Return the indices of this process among `count`: every size-th from its rank on."""
        return range(self.rank, count, self.size)


def world() -> World:
    """Read RANK, WORLD_SIZE and LOCAL_RANK, which torchrun sets; without them the process is alone.

    Raises:
        GtrTurboError: they are no numbers, or not those of one of several processes.
    """
    rank, size, local_rank = _counted("RANK", 0), _counted("WORLD_SIZE", 1), _counted("LOCAL_RANK", 0)
    if not rank < size:
        raise GtrTurboError(f"RANK is {rank} and WORLD_SIZE {size}, which is no process of theirs.", UNSET)
    return World(rank, size, local_rank)


def _counted(name: str, alone: int) -> int:
    text = os.environ.get(name, str(alone))
    if not (text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS):
        raise GtrTurboError(f"the environment variable {name} is {text!r:.60}, which is no number.", UNSET)
    return int(text)


class Group(Protocol):
    """Processes that do one stage together. Each calls the same methods in the same order; values are JSON."""

    @property
    def world(self) -> World: ...

    def barrier(self) -> None:
        """Wait until all processes are here."""
        ...

    def broadcast(self, value: Any) -> Any:
        """Return the first process's value in every process."""
        ...

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, by rank, in every process."""
        ...


class Alone:
    """The group of one process."""

    world = World()

    def barrier(self) -> None:
        pass

    def broadcast(self, value: Any) -> Any:
        return value

    def gather(self, value: Any) -> list[Any]:
        return [value]


_current: list[Group] = [Alone()]


def group() -> Group:
    """Return the group that the current stage is done by."""
    return _current[-1]


@contextmanager
def working_in(group: Group) -> Iterator[Group]:
    """Make `group` the current one for as long as the block runs."""
    _current.append(group)
    try:
        yield group
    finally:
        _current.pop()
