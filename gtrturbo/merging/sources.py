"""Where the tiles of a merge come from: full weights, adapters as dense deltas, or both ends of a difference."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.adapters import Adapter
from gtrturbo.merging.matching import Match, Pattern
from gtrturbo.merging.method import MergeRule
from gtrturbo.merging.parts import BaseWithAdapter, Full, LowRank, Zeros
from gtrturbo.merging.plan import MergePlan
from gtrturbo.merging.rearranged import Adapted, Gathered, Held
from gtrturbo.store.open_files import Files, same_bytes
from gtrturbo.store.safetensors_files import Layout, TensorEntry

TILE = 1 << 20  # entries
SPOT = 1 << 18  # entries of a tile where all its vectors are in memory, or where a sample takes a part of it
# Products B A are made in blocks of so many entries, whatever the tile, so that their bytes do not depend on it.
BLOCK = 1 << 19


@dataclass(frozen=True)
class Target:
    """One tensor to merge: where it goes, what it is measured from, and one part per checkpoint that moved it.

    `step`: entries per tile; `row`: entries of a row, where products are made of whole ones; `plan`: of this tensor, where it
    has one of its own; `drawn_as`: another tensor, which it is tied to, and for which random drops are drawn.
    """

    entry: TensorEntry
    base: Full | BaseWithAdapter | Zeros | Adapted | Gathered | Held
    parts: tuple[Full | LowRank | Adapted | Gathered | Held, ...]
    step: int
    row: int = 1
    plan: MergePlan | None = None
    drawn_as: str = ""

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def draw(self) -> str:
        """The tensor that random drops are drawn for."""
        return self.drawn_as or self.name

    def tiles(self, first: int, last: int, share: int = 1) -> list[tuple[int, int]]:
        """Cut entries [first, last) into tiles, and take the first such part of each, in whole rows where products need them."""
        step = self.step if share == 1 or self.row > 1 else min(self.step, SPOT)
        size = -(-step // share // self.row) * self.row
        return [(start, min(start + size, last)) for start in range(first, last, step)]


@dataclass(frozen=True)
class Sources:
    """All that a merge reads and where it writes: merged tensors, those that are copied from the base, and those that are copied
    to another place: (from, to)."""

    base: Layout
    targets: tuple[Target, ...]
    copied: tuple[TensorEntry, ...]
    layouts: tuple[Layout, ...]
    adapters: tuple[Adapter, ...]
    moved: tuple[tuple[TensorEntry, TensorEntry], ...] = ()

    @property
    def bytes_read(self) -> int:
        """Bytes of all inputs, each counted once."""
        held = sum(entry.size for adapter in self.adapters for entry in adapter.entries)
        return sum(layout.size for layout in self.layouts) + held

    def open(self, files: Files) -> None:
        for layout in self.layouts:
            for name in layout.headers:
                files.open(layout.folder / name)
        for adapter in self.adapters:
            for entry in adapter.entries:
                files.open(entry.file)


def full_sources(
    base: Layout,
    checkpoints: Sequence[tuple[Layout, Match]],
    pattern: Pattern,
    *,
    whole: bool,
    vectors: bool = False,
) -> Sources:
    """Lay out the merge of full checkpoints around their base, tensor by tensor.

    What a checkpoint lacks is as in the base; what all lack is copied from there.

    Args:
        base: what there is.
        checkpoints: with what each holds of the base's tensors.
        pattern: which tensors are merged.
        whole: take weights as vectors of their own.
        vectors: all vectors of a tile will lie in memory at once, in float64.
    """
    pattern.require_used({name for layout in (base, *(layout for layout, _ in checkpoints)) for name in layout.entries})
    require_numbers(base, pattern)
    selected = pattern.chosen(base.entries)
    shared = {name: source for _, match in checkpoints for name, source in match.shared}
    targets, copied = [], []
    for name, entry in base.entries.items():
        held = any(name in match.entries for _, match in checkpoints) or not checkpoints
        if entry.is_float and entry.entries and name in selected and held:
            parts = tuple(
                Full(layout.folder, match.entries[name], whole) if name in match.entries else Full(base.folder, entry, whole)
                for layout, match in checkpoints
            )
            step = min(TILE, SPOT) if vectors else TILE
            targets.append(Target(entry, Full(base.folder, entry), parts, step, drawn_as=shared.get(name, "")))
        else:
            copied.append(entry)
    return Sources(base, tuple(targets), tuple(copied), (base, *(layout for layout, _ in checkpoints)), ())


def require_numbers(base: Layout, pattern: Pattern) -> None:
    """Refuse a merge in which no tensor could change.

    Raises:
        GtrTurboError: the base holds no floating-point numbers, or all are left out.
    """
    numbers = {name for name, entry in base.entries.items() if entry.is_float and entry.entries}
    if not numbers:
        raise GtrTurboError(f"there is nothing to merge: {base.folder} holds no floating-point numbers.", "name another model.")
    if not pattern.chosen(base.entries) & numbers:
        raise GtrTurboError(
            "--include and --exclude leave nothing of the model to be merged.", "leave them out to merge all, or copy the base."
        )


def in_whole_rows(sources: Sources, plan: MergePlan) -> Sources:
    """Cut tiles between rows, where a rule wants whole ones."""
    return replace(
        sources, targets=tuple(_in_whole_rows(target, (target.plan or plan).method.rule) for target in sources.targets)
    )


def _in_whole_rows(target: Target, rule: MergeRule | None) -> Target:
    width = math.lcm(rule.row_width(target.entry.shape), target.row) if rule else 0
    return replace(target, step=max(1, target.step // width) * width) if width else target


def drawn_once(sources: Sources, plan: MergePlan) -> Sources:
    """Let random drops hit the same entries of matrices that are copies in all inputs, as of a tied embedding stored twice.

    Copies that came out different no stage would load: the model says that they are one.
    """
    targets: list[Target] = []
    for target in sources.targets:
        could = (target.plan or plan).method.keeps == "random" and not target.drawn_as and _could_be_tied(target)
        source = next((each for each in targets if could and _are_copies(target, each)), None)
        targets.append(replace(target, drawn_as=source.draw) if source else target)
    return replace(sources, targets=tuple(targets))


def _could_be_tied(target: Target) -> bool:
    return len(target.entry.shape) == 2 and not any(map(str.isdigit, target.name.split(".")))


def _are_copies(one: Target, other: Target) -> bool:
    if not _could_be_tied(other) or (one.entry.dtype, one.entry.shape) != (other.entry.dtype, other.entry.shape):
        return False
    return all(_same_numbers(*pair) for pair in zip((one.base, *one.parts), (other.base, *other.parts), strict=True))


def _same_numbers(one: object, other: object) -> bool:
    if isinstance(one, Full) and isinstance(other, Full):
        return same_bytes(one.entry, other.entry)
    if isinstance(one, Held) and isinstance(other, Held):
        return np.array_equal(one.values, other.values)
    if isinstance(one, Gathered) and isinstance(other, Gathered):
        plain = not one.mixed and not other.mixed
        return plain and np.array_equal(one.rows, other.rows) and _same_numbers(one.part, other.part)
    return isinstance(one, Zeros) and one == other
