"""Where the tiles of a merge come from: full weights, adapters as dense deltas, or both ends of a difference."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.adapters import Adapter
from gtrturbo.merging.matching import Match, Pattern
from gtrturbo.merging.methods import MergeRule
from gtrturbo.merging.parts import BaseWithAdapter, Full, LowRank, Zeros
from gtrturbo.merging.plan import MergePlan
from gtrturbo.merging.rearranged import Adapted, Gathered
from gtrturbo.store.open_files import Files
from gtrturbo.store.safetensors_files import Layout, TensorEntry

TILE = 1 << 20  # entries
SPOT = 1 << 18  # entries of a tile where all its vectors are in memory, or where a sample takes a part of it
# Products B A are made in blocks of so many entries, whatever the tile, so that their bytes do not depend on it.
BLOCK = 1 << 18


@dataclass(frozen=True)
class Target:
    """One tensor to merge: where it goes, what it is measured from, and one part per checkpoint that moved it.

    `step`: entries per tile. `plan`: of this tensor, where it has one of its own. `drawn_as`: another tensor, which it is tied
    to, and for which random drops are drawn.
    """

    entry: TensorEntry
    base: Full | BaseWithAdapter | Zeros | Adapted | Gathered
    parts: tuple[Full | LowRank | Adapted | Gathered, ...]
    step: int
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
        low_rank = any(isinstance(part, LowRank | Adapted | Gathered) for part in (self.base, *self.parts))
        row = self.entry.shape[-1] if low_rank else 1
        step = self.step if share == 1 or low_rank else min(self.step, SPOT)
        size = -(-step // share // row) * row
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
        factors = sum(a.size + b.size for adapter in self.adapters for a, b in adapter.factors.values())
        return sum(layout.size for layout in self.layouts) + factors

    def open(self, files: Files) -> None:
        for layout in self.layouts:
            for name in layout.headers:
                files.open(layout.folder / name)
        for adapter in self.adapters:
            for a, _ in adapter.factors.values():
                files.open(a.file)
            for entry in adapter.replaced.values():
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


def adapter_sources(
    base: Layout,
    adapters: Sequence[Adapter],
    origin: Adapter | None,
    names: Callable[[list[tuple[str, tuple[int, ...]]]], dict[str, str]],
    *,
    pattern: Pattern,
    whole: bool,
) -> Sources:
    """Match adapters with the tensors of the model under them.

    Args:
        base: the model under the adapters.
        adapters: one per checkpoint.
        origin: the adapter that they were trained from, where it has a change of its own.
        names: gives the base's name for each tensor that the adapters change, from its name in memory and its shape.
        pattern: which of the base's tensors are merged.
        whole: take W + ΔW as vectors of their own.

    Raises:
        GtrTurboError: the adapters change different modules, or tensors that the base has in another shape.
    """
    _require_same_modules(adapters, origin)
    first = adapters[0]
    shapes = {f"{module}.weight": (b.shape[0], a.shape[1]) for module, (a, b) in first.factors.items()}
    stored = names([*shapes.items(), *((name, entry.shape) for name, entry in first.replaced.items())])
    modules = {stored[f"{module}.weight"]: module for module in first.factors}
    saved = {stored[name]: name for name in first.replaced}
    pattern.require_used(base.entries)
    selected = pattern.chosen(base.entries)
    targets, copied = [], []
    for name, entry in base.entries.items():
        if name in modules and name in selected:
            targets.append(_low_rank_target(base.folder, entry, modules[name], adapters, origin, whole=whole))
        elif name in saved and name in selected:
            targets.append(_replaced_target(base.folder, entry, saved[name], adapters, origin, whole=whole))
        elif origin and (name in modules or name in saved):
            raise GtrTurboError(f"--include and --exclude leave out {name}, which the base {origin.folder} itself changes.")
        else:
            copied.append(entry)
    used = (*adapters, *([origin] if origin else []))
    return Sources(base, tuple(targets), tuple(copied), (base,), used)


def _require_same_modules(adapters: Sequence[Adapter], origin: Adapter | None) -> None:
    first = adapters[0]
    for adapter in [*adapters[1:], *([origin] if origin else [])]:
        odd = sorted(adapter.factors.keys() ^ first.factors.keys()) or sorted(adapter.replaced.keys() ^ first.replaced.keys())
        if odd:
            raise GtrTurboError(f"{adapter.folder} adapts other modules than {first.folder} (first: {odd[0]}).")


def _low_rank_target(
    folder: Path, entry: TensorEntry, module: str, adapters: Sequence[Adapter], origin: Adapter | None, *, whole: bool
) -> Target:
    """Lay out a tensor that the adapters change by a product."""
    under = BaseWithAdapter(entry, origin, module) if origin else Full(folder, entry)
    below, start = (Full(folder, entry), None) if whole else (None, origin)
    parts = tuple(LowRank(adapter.folder, adapter, module, origin=start, under=below) for adapter in adapters)
    width = entry.shape[1]
    return Target(entry, under, parts, max(1, BLOCK // width) * width)


def _replaced_target(
    folder: Path, entry: TensorEntry, name: str, adapters: Sequence[Adapter], origin: Adapter | None, *, whole: bool
) -> Target:
    """Lay out a tensor that the adapters replace as a whole."""
    start = Full(origin.folder, origin.replaced[name]) if origin else Full(folder, entry)
    parts = tuple(Full(adapter.folder, _replacement(adapter, name, entry), whole) for adapter in adapters)
    return Target(entry, start, parts, TILE)


def _replacement(adapter: Adapter, name: str, entry: TensorEntry) -> TensorEntry:
    found = adapter.replaced[name]
    if found.shape != entry.shape or not found.is_float:
        raise GtrTurboError(f"{name} in {adapter.folder} has shape {list(found.shape)}, in the base {list(entry.shape)}.")
    return found


def in_whole_rows(sources: Sources, plan: MergePlan) -> Sources:
    """Cut tiles between rows, where a rule wants whole ones."""
    return replace(
        sources, targets=tuple(_in_whole_rows(target, (target.plan or plan).method.rule) for target in sources.targets)
    )


def _in_whole_rows(target: Target, rule: MergeRule | None) -> Target:
    width = rule.row_width(target.entry.shape) if rule else 0
    return replace(target, step=max(1, target.step // width) * width) if width else target
