"""Adapters and the model under them, matched tensor by tensor: what is merged, and what of each adapter goes into it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from gtrturbo.config.choices import Missing
from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.adapters import Adapter
from gtrturbo.merging.changes import Change, Replaced, Shape, Tokens
from gtrturbo.merging.factored import Directed, Experts, Product, Residual
from gtrturbo.merging.matching import Pattern, names_in_memory
from gtrturbo.merging.naming import Tensors, require_ties
from gtrturbo.merging.parts import BaseWithAdapter, Full, LowRank
from gtrturbo.merging.sources import BLOCK, TILE, Sources, Target, require_numbers
from gtrturbo.models.layer_ways import surely_straight
from gtrturbo.store.names import ADAPTER_CONFIG
from gtrturbo.store.safetensors_files import Layout, TensorEntry

Names = Callable[[Tensors], dict[str, str]]
Changes = dict[str, Change]  # by the base's name of a tensor


def adapter_sources(
    base: Layout,
    adapters: Sequence[Adapter],
    origin: Adapter | None,
    names: Names,
    *,
    pattern: Pattern,
    whole: bool,
    scales: bool = False,
    missing: Missing = "dropped",
    tell: Callable[[str], None] = lambda note: None,
) -> Sources:
    """Match adapters with the tensors of the model under them; what an adapter does not change it leaves as it is.

    Args:
        base: the model under the adapters.
        adapters: one per checkpoint.
        origin: the adapter that they were trained from, where it has a change of its own.
        names: gives the base's name for each tensor that the adapters change, from its name in memory and its shapes.
        pattern: which of the base's tensors are merged.
        whole: take W + ΔW as vectors of their own.
        scales: merging equal weights gives others, so tensors that no adapter changes are merged too.
        missing: what to do about modules that an adapter's config names without factors of it; see `require_factors_of_all`.
        tell: takes what a user has to know.

    Raises:
        GtrTurboError: the adapters change tensors that the base does not hold, or in another shape, or lack factors.
    """
    adapters = [as_stored(adapter, base) for adapter in adapters]
    origin = as_stored(origin, base) if origin else None
    used = (*adapters, *([origin] if origin else []))
    stored = stored_by_name(used, names)
    found = [bound(adapter, base, stored) for adapter in used]
    for adapter, each in zip(used, found, strict=True):
        require_factors_of_all(adapter, base, each, missing=missing, tell=tell)
    changes, under = found[: len(adapters)], found[len(adapters)] if origin else {}
    changed = {name for each in found for name in each}
    pattern.require_used(base.entries)
    require_numbers(base, pattern)
    selected = pattern.chosen(base.entries)
    targets, copied = [], []
    for name, entry in base.entries.items():
        if origin and name in under and name not in selected:
            raise GtrTurboError(f"--include and --exclude leave out {name}, which the base {origin.folder} itself changes.")
        if name in selected and (name in changed or (scales and entry.is_float and entry.entries)):
            pairs = [(adapter.folder, each.get(name)) for adapter, each in zip(adapters, changes, strict=True)]
            targets.append(_target(base.folder, entry, pairs, under.get(name), whole=whole))
        else:
            copied.append(entry)
    return Sources(base, tuple(targets), tuple(copied), (base,), used)


def as_stored(adapter: Adapter, base: Layout) -> Adapter:
    """Say what an adapter changes of what is one in memory and several on disk, or the other way round, by what is on disk."""
    return by_stored_parts(without_copies(adapter, base), base)


def without_copies(adapter: Adapter, base: Layout) -> Adapter:
    """Leave out what an adapter holds twice and the base once: a head that is tied to the embedding, and was trained so."""
    tails = {_tail(name) for name in base.entries}
    kept = {name: choice for name, choice in adapter.choices.items() if _tail(name) in tails}
    copies = {
        name
        for name, choice in adapter.choices.items()
        if name not in kept and any(_same_change(each, held[0]) for held in kept.values() for each in choice)
    }
    left = {name: choice for name, choice in adapter.choices.items() if name not in copies}
    return replace(adapter, choices=left, untied=() if copies else adapter.untied)


def by_stored_parts(adapter: Adapter, base: Layout) -> Adapter:
    """Take an adapter's change of a stack of experts apart, where the base stores each expert by itself."""
    tails = {_tail(name) for name in base.entries}
    stacked = [name for name, choice in adapter.choices.items() if isinstance(choice[0], Experts) and _tail(name) not in tails]
    known = names_in_memory(base.folder) if stacked else None
    choices, parts = dict(adapter.choices), set[str]()
    for name in stacked:
        if known is None:
            break
        made = known.stacks.get(name, ())
        columns = base.entries[made[0].stored].shape[1] if made else 0
        shape = (len({part.expert for part in made}), sum(base.entries[p.stored].shape[0] for p in made if not p.expert), columns)
        if fitting := [change for change in choices[name] if isinstance(change, Experts) and change.shape == shape]:
            del choices[name]
            for part in made:
                own = base.entries[part.stored].shape
                choices[part.stored] = tuple(replace(each, shape=own, first=part.expert, top=part.top) for each in fitting)
                parts.add(part.stored)
    return replace(adapter, choices=choices, by_stored=frozenset(parts))


def _tail(name: str) -> str:
    return ".".join(name.split(".")[-2:])


def _same_change(one: Change, other: Change) -> bool:
    """Tell whether two changes give the same tensor: equal weights, or the factors of a head that are an embedding's, turned."""
    if isinstance(one, Replaced) and isinstance(other, Replaced):
        above = one.above is other.above is None or (one.above and other.above and _same_change(one.above, other.above))
        return bool(above) and _same(one.entry, other.entry)
    if not isinstance(one, Product) or not isinstance(other, Product):
        return False
    if one.embedding == other.embedding or one.scale != other.scale or one.shape != other.shape or one.diagonal:
        return False
    return _same(one.a, other.b, turned=True) and _same(one.b, other.a, turned=True)


def _same(one: TensorEntry, other: TensorEntry, *, turned: bool = False) -> bool:
    """Tell whether two tensors of a file are equal, bit by bit; turned: whether one is the other's transpose."""
    shape = tuple(reversed(other.shape)) if turned else other.shape
    if (one.dtype, one.shape) != (other.dtype, shape):
        return False
    first, second = (np.memmap(each.file, np.uint8, "r", each.start, each.size) for each in (one, other))
    if turned:
        second = second.reshape(*other.shape, -1).swapaxes(0, 1).reshape(-1)
    return np.array_equal(first, second)


def stored_by_name(adapters: Sequence[Adapter], names: Names) -> dict[str, str]:
    """Ask once for the base's name of every tensor that any adapter changes, by its name in memory."""
    shapes: dict[str, list[Shape]] = {}
    for adapter in adapters:
        for name, choice in adapter.choices.items():
            if name not in adapter.by_stored:
                shapes.setdefault(name, []).extend(change.shape for change in choice)
    own = {name: name for adapter in adapters for name in adapter.by_stored}
    return own | (names(list(shapes.items())) if shapes else {})


def bound(adapter: Adapter, base: Layout, stored: dict[str, str]) -> Changes:
    """Take, of what an adapter may do to a tensor, that which fits the base's shape.

    Args:
        adapter, base: what there is.
        stored: the base's names by names in memory.

    Raises:
        GtrTurboError: none fits, or two, or the adapter ends a tie that the base is stored with.
    """
    require_ties(base, adapter.folder, adapter.untied)
    fitting = {name: _fitting(choice, base.entries[stored[name]].shape) for name, choice in adapter.choices.items()}
    taken = {found[0].entries[0].name for found in fitting.values() if len(found) == 1}
    left = {
        name: [each for each in found if len(found) == 1 or each.entries[0].name not in taken] for name, found in fitting.items()
    }
    clear = {_transposed(found[0]) for found in left.values() if len(found) == 1 and _is_matrix(found[0])}
    way = _Way(base.folder, clear, flipped=adapter.flipped)
    return {stored[name]: way.choose(adapter, name, found) for name, found in left.items()}


def require_factors_of_all(
    adapter: Adapter, base: Layout, changes: Changes, *, missing: Missing, tell: Callable[[str], None]
) -> None:
    """Refuse an adapter that holds nothing of modules that its config names, as every other stage does.

    Those that transformers does not load, or of a base that it does not know, stay as they are, and so do all with `missing`
    "base"; that is told.

    Raises:
        GtrTurboError: names the first.
    """
    absent = without_tensors(adapter, base, changes)
    known = names_in_memory(base.folder) if absent and missing != "base" else None
    if known:
        places = {module: known.in_memory.get(f"{module}.weight", "") for module in absent}
        loaded = [module for module, place in places.items() if place in known.places]
        if lost := [module for module in loaded if adapter.named.adapts(places[module].removesuffix(".weight")) is not False]:
            raise GtrTurboError(
                f"{adapter.folder} holds no factors of {_first_of(lost)}, named in its {ADAPTER_CONFIG}.",
                "fetch or write the adapter again; if it is to leave them as they are in the base: --missing base",
            )
        absent = [module for module in absent if module not in loaded]
    if absent:
        tell(f"{adapter.folder} names {_first_of(absent)} in its config and holds no factors of it: it stays as it is.")


def _first_of(modules: Sequence[str]) -> str:
    return f"{modules[0]} and {len(modules) - 1} more" if len(modules) > 1 else modules[0]


def without_tensors(adapter: Adapter, base: Layout, changes: Changes) -> list[str]:
    """List modules of the base that an adapter's config names, and of which it holds nothing; see `Named.without_tensors`."""
    matrices = [name for name, entry in base.entries.items() if len(entry.shape) > 1 and entry.is_float]
    return adapter.named.without_tensors(matrices, changes)


def _fitting(choice: Sequence[Change], shape: Shape) -> list[Change]:
    found = [replace(change, shape=shape) if isinstance(change, Tokens) else change for change in choice]
    return [change for change in found if change.shape == shape]


def _transposed(change: Change) -> bool:
    inner = change.product if isinstance(change, Residual | Directed) else change
    return isinstance(inner, Product | Experts) and inner.transposed


def _is_matrix(change: Change) -> bool:
    """A layer of which there are two ways to store it: neither an embedding nor a convolution."""
    inner = change.product if isinstance(change, Residual | Directed) else change
    return isinstance(inner, Experts) or (isinstance(inner, Product) and len(inner.shape) == 2 and not inner.embedding)


@dataclass
class _Way:
    """Which way round square matrices are stored: as [out, in], or as [in, out] like transformers' Conv1D.

    `clear`: of the layers whose shapes tell, whether they are transposed; `flipped`: what the adapter's config says, which PEFT
    writes of the last layer alone.
    """

    folder: Path
    clear: set[bool]
    flipped: bool
    _known: list[set[str] | None] = field(default_factory=list)

    def choose(self, adapter: Adapter, name: str, found: list[Change]) -> Change:
        if not found:
            raise GtrTurboError(
                f"{adapter.folder} changes {name} in another shape than {self.folder} has.", "give its own base with --base."
            )
        chosen = (
            found if len(found) == 1 else [change for change in found if _transposed(change) == self._transposes(name, found)]
        )
        if len(chosen) != 1:
            raise GtrTurboError(
                f"which way round {adapter.folder} changes {name}, its shape does not tell.",
                "write full weights with PEFT's merge_and_unload and merge those.",
            )
        return chosen[0]

    def _transposes(self, name: str, found: list[Change]) -> bool | None:
        if surely_straight(self.folder):
            return False
        if not self._known:
            from gtrturbo.models.stored_names import transposed_layers  # Takes seconds to import, and is rarely needed.

            self._known.append(transposed_layers(self.folder))
        if (layers := self._known[0]) is None:  # Of a model that transformers does not know, linear layers are taken to be alike.
            alike = self.clear | {self.flipped} == {False} and not any(isinstance(change, Experts) for change in found)
            return False if alike else None
        return any(name.removesuffix(".weight").endswith(layer) for layer in layers)


def _target(
    folder: Path,
    entry: TensorEntry,
    changes: Sequence[tuple[Path, Change | None]],
    origin: Change | None,
    *,
    whole: bool,
) -> Target:
    """Lay out a tensor: as whole tensors where all adapters replace it, else row by row."""
    below = Full(folder, entry)
    given = [change for change in (*(change for _, change in changes), origin) if change]
    if all(isinstance(change, Replaced) and not change.above for change in given):
        start = Full(folder, origin.entry) if isinstance(origin, Replaced) else below
        full = [Full(at, change.entry if isinstance(change, Replaced) else entry, whole) for at, change in changes]
        return Target(entry, start, tuple(full), TILE)
    width = next(change.width for change in given if not isinstance(change, Replaced) or change.above)
    under = BaseWithAdapter(entry, origin, width) if origin else below
    before = None if whole else origin
    parts = [
        LowRank(at, change, below, width, origin=before, whole=whole) if change or before else Full(folder, entry, whole)
        for at, change in changes
    ]
    return Target(entry, under, tuple(parts), max(1, BLOCK // width) * width, row=width)
