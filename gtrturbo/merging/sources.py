"""Where the tiles of a merge come from: full weights, adapters as dense deltas, or both ends of a difference."""

import fnmatch
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.adapters import Adapter
from gtrturbo.merging.parts import BaseWithAdapter, Full, LowRank, Zeros
from gtrturbo.merging.plan import MergePlan
from gtrturbo.store.open_files import Files
from gtrturbo.store.safetensors_files import Layout, TensorEntry

TILE = 1 << 20  # entries
SPOT = 1 << 18  # entries of a tile where all its vectors are in memory, or where a sample takes a part of it
# Products B A are made in blocks of so many entries, whatever the tile, so that their bytes do not depend on it.
BLOCK = 1 << 18


@dataclass(frozen=True)
class Target:
    """One tensor to merge: where it goes, what it is measured from, and one part per checkpoint that moved it.

    `step`: entries per tile; `row`: entries of a row, where products are made of whole ones; `plan`: of this tensor, where it
    has one of its own.
    """

    entry: TensorEntry
    base: Full | BaseWithAdapter | Zeros
    parts: tuple[Full | LowRank, ...]
    step: int
    row: int = 1
    plan: MergePlan | None = None

    @property
    def name(self) -> str:
        return self.entry.name

    def tiles(self, first: int, last: int, share: int = 1) -> list[tuple[int, int]]:
        """Cut entries [first, last) into tiles, and take the first such part of each, in whole rows where products need them."""
        step = self.step if share == 1 or self.row > 1 else min(self.step, SPOT)
        size = -(-step // share // self.row) * self.row
        return [(start, min(start + size, last)) for start in range(first, last, step)]


@dataclass(frozen=True)
class Sources:
    """All that a merge reads and where it writes: merged tensors, and those that are copied from the base."""

    base: Layout
    targets: tuple[Target, ...]
    copied: tuple[TensorEntry, ...]
    layouts: tuple[Layout, ...]
    adapters: tuple[Adapter, ...]

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
    checkpoints: Sequence[Layout],
    *,
    include: Sequence[str],
    exclude: Sequence[str],
    whole: bool,
    vectors: bool = False,
) -> Sources:
    """Match full checkpoints with their base, tensor by tensor.

    Args:
        base, checkpoints: what there is.
        include, exclude: patterns over the base's tensors.
        whole: take weights as vectors of their own.
        vectors: all vectors of a tile will lie in memory at once, in float64.

    Raises:
        GtrTurboError: names, shapes or types that do not fit; the tensor is named.
    """
    for other in checkpoints:
        _require_same(base, other)
    selected = select(base.entries, include=include, exclude=exclude)
    targets, copied = [], []
    for name, entry in base.entries.items():
        if entry.is_float and entry.entries and name in selected:
            parts = tuple(Full(other.folder, other.entries[name], whole) for other in checkpoints)
            targets.append(Target(entry, Full(base.folder, entry), parts, min(TILE, SPOT) if vectors else TILE))
        else:
            copied.append(entry)
    return Sources(base, tuple(targets), tuple(copied), (base, *checkpoints), ())


def _require_same(base: Layout, other: Layout) -> None:
    extra = sorted(other.entries.keys() - base.entries.keys())
    missing = sorted(base.entries.keys() - other.entries.keys())
    hint = "merge needs checkpoints of one base."
    for names, relation in ((extra, "that the base lacks"), (missing, "fewer than the base")):
        if names:
            raise GtrTurboError(f"checkpoint {other.folder} has {len(names)} tensors {relation} (first: {names[0]}).", hint)
    for name, entry in base.entries.items():
        found = other.entries[name]
        if found.shape != entry.shape:
            raise GtrTurboError(f"{name} in {other.folder} has shape {list(found.shape)}, in the base {list(entry.shape)}.", hint)
        if found.is_float != entry.is_float:
            raise GtrTurboError(f"{name} in {other.folder} is of type {found.dtype}, in the base {entry.dtype}.", hint)


def select(names: Sequence[str] | dict[str, TensorEntry], *, include: Sequence[str], exclude: Sequence[str]) -> set[str]:
    """Choose tensors by shell patterns.

    Raises:
        GtrTurboError: a pattern fits no tensor.
    """
    for pattern in (*include, *exclude):
        if not fnmatch.filter(names, pattern):
            raise GtrTurboError(
                f"no tensor is called {pattern}.", f"the first is {next(iter(names), 'none')}; * stands for any text."
            )
    chosen = {name for pattern in include for name in fnmatch.filter(names, pattern)} if include else set(names)
    return chosen - {name for pattern in exclude for name in fnmatch.filter(names, pattern)}


def in_whole_rows(sources: Sources, plan: MergePlan) -> Sources:
    """Cut tiles between rows, where a rule wants whole ones."""
    rule = plan.method.rule
    if rule is None or rule.rows is None:
        return sources
    targets = [(target, math.lcm(max(1, rule.row_width(target.entry.shape)), target.row)) for target in sources.targets]
    return replace(sources, targets=tuple(replace(each, step=max(1, each.step // width) * width) for each, width in targets))
