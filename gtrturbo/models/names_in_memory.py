"""Names of a model's tensors, on disk and in memory; `stored_names` finds them."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StackPart:
    """A stored matrix that in memory is a part of a stack of experts: of one of them, the rows from `top` on."""

    stored: str
    expert: int
    top: int


@dataclass(frozen=True)
class ModelNames:
    """Names of a model's tensors.

    Attributes:
        in_memory: the name in memory for each name that the folder stores, also where the model has no such tensor.
        places: names of the model's own tensors.
        tied: for a tensor that shares its memory with another, the name of that.
        stacks: for a tensor [experts, rows, columns] in memory whose experts are stored apart, what it is made of.
        changed: stored names of tensors that are cut, turned or joined in any other way.
    """

    in_memory: dict[str, str]
    places: frozenset[str]
    tied: dict[str, str]
    stacks: dict[str, tuple[StackPart, ...]] = field(default_factory=dict)
    changed: frozenset[str] = frozenset()

    def stored_alone(self) -> dict[str, str]:
        """Stored names by names in memory, for tensors in memory that are one that is stored."""
        counts = Counter(self.in_memory.values())
        return {place: stored for stored, place in self.in_memory.items() if counts[place] == 1}

    def tied_with(self, place: str) -> list[str]:
        """Name the other tensors in memory that are the same as one of them."""
        source = self.tied.get(place, place)
        group = [source, *(name for name, other in self.tied.items() if other == source)]
        return [name for name in group if name != place]
