"""Names of a model's tensors, on disk and in memory; `stored_names` finds them."""

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True)
class ModelNames:
    """Names of a model's tensors.

    Attributes:
        in_memory: the name in memory for each name that the folder stores, also where the model has no such tensor.
        places: names of the model's own tensors.
        tied: for a tensor that shares its memory with another, the name of that.
    """

    in_memory: dict[str, str]
    places: frozenset[str]
    tied: dict[str, str]

    def stored_alone(self) -> dict[str, str]:
        """Stored names by names in memory, for tensors in memory that are one that is stored."""
        counts = Counter(self.in_memory.values())
        return {place: stored for stored, place in self.in_memory.items() if counts[place] == 1}

    def tied_with(self, place: str) -> list[str]:
        """Name the other tensors in memory that are the same as one of them."""
        source = self.tied.get(place, place)
        group = [source, *(name for name, other in self.tied.items() if other == source)]
        return [name for name in group if name != place]
