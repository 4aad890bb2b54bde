"""Which tensor of a checkpoint stands for which of the base: that of its name, or the one that transformers loads in its place.

transformers drops tensors that a model has no place for (`mtp.*`, `inv_freq`, value heads), leaves out one that is tied to
another (`lm_head`), and has stored models under other names in other versions. It is asked only where names differ, as that
takes seconds.
"""

import fnmatch
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gtrturbo.config.choices import Missing
from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.unwrapped import unwrapped
from gtrturbo.models.names_in_memory import ModelNames
from gtrturbo.store.open_files import same_bytes
from gtrturbo.store.safetensors_files import Layout, TensorEntry

ONE_BASE = "merge needs checkpoints of one base."
EITHER = f"{ONE_BASE} --missing base takes from the base what a checkpoint lacks, and leaves out what the base lacks."
SAVE_ANEW = "save both anew by save_pretrained of one version of transformers."
Ask = Callable[[Path], ModelNames | None]


@dataclass(frozen=True)
class Match:
    """What a checkpoint holds of the base's tensors; those that it lacks are not in it.

    `notes`: what a user has to be told. `shared`: a tensor of the base that is tied to another of the base, and that one.
    """

    entries: dict[str, TensorEntry]
    notes: tuple[str, ...] = ()
    shared: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Pattern:
    """Which tensors are merged: all that fit an `include`, or all where there is none, but for those that fit an `exclude`.

    `tied`: stored copies of other tensors, which are merged where those are.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    tied: Mapping[str, str] = field(default_factory=dict)

    def chosen(self, names: Collection[str]) -> set[str]:
        chosen = self._fitting(names)
        held = {name: source in chosen for name, source in self.tied.items() if name in names}
        return (chosen | {name for name, fits in held.items() if fits}) - {name for name, fits in held.items() if not fits}

    def split(self, names: Collection[str]) -> list[str]:
        """Name the tied tensors that patterns part from what they are tied to."""
        chosen = self._fitting(names)
        return sorted(name for name, source in self.tied.items() if (name in chosen) != (source in chosen))

    def _fitting(self, names: Collection[str]) -> set[str]:
        fitting = {name for pattern in self.include for name in _fitting(names, pattern)} if self.include else set(names)
        return fitting - {name for pattern in self.exclude for name in _fitting(names, pattern)}

    def by_stored(self, names: Collection[str], in_memory: Callable[[], Mapping[str, str]]) -> "Pattern":
        """Take patterns that fit no stored name for patterns of transformers' names: the stored names of what they fit.

        Args:
            names: of the base's tensors, as they are stored.
            in_memory: gives transformers' names by stored names, and is asked only where it is needed.
        """

        def stored(pattern: str) -> list[str]:
            if _fitting(names, pattern):
                return [pattern]
            known = in_memory()
            return sorted(name for name in names if name in known and _fitting([known[name]], pattern)) or [pattern]

        include, exclude = ([each for pattern in given for each in stored(pattern)] for given in (self.include, self.exclude))
        return replace(self, include=include, exclude=exclude)

    def require_used(self, names: Collection[str]) -> None:
        """Refuse a pattern that fits no tensor.

        Raises:
            GtrTurboError: names it.
        """
        for pattern in (*self.include, *self.exclude):
            if not _fitting(names, pattern):
                raise GtrTurboError(
                    f"no tensor is called {pattern}.", f"the first is {next(iter(names), 'none')}; * stands for any text."
                )


def _fitting(names: Collection[str], pattern: str) -> list[str]:
    """The name that a pattern is, with all its brackets and stars, or else the names that fit it."""
    return [pattern] if pattern in names else fnmatch.filter(names, pattern)


def match(base: Layout, other: Layout, pattern: Pattern, *, missing: Missing, ask: Ask) -> Match:
    """Find what a checkpoint holds of the base's tensors.

    Args:
        base, other: what there is.
        pattern: which tensors are merged; others are not looked at.
        missing: what to do about a tensor that only one of both has: "error" refuses, "base" does as the base does; "dropped"
            does so where transformers would not load the tensor either, and else refuses.
        ask: says how transformers names a folder's tensors, where it knows the model.

    Raises:
        GtrTurboError: a tensor is missing, additional, or of another shape or type; it is named.
    """
    other, notes = unwrapped(base, other)
    wanted = pattern.chosen(base.entries)
    lacking = sorted(wanted - other.entries.keys())
    extra = sorted(pattern.chosen(other.entries.keys() - base.entries.keys()))
    found = {name: other.entries[name] for name in base.entries if name in wanted and name in other.entries}
    plain = Match(found)
    if lacking or extra:
        if missing == "error":
            raise _differing(other.folder, lacking, extra, ONE_BASE)
        known = (lambda folder: None if folder == other.folder else ask(folder)) if notes else ask
        plain = _Pairing(base, other, missing, known).resolve(found, lacking, extra)
    if wanted and not plain.entries:
        raise _differing(other.folder, lacking, extra, ONE_BASE)
    for name, entry in plain.entries.items():
        _require_alike(base.entries[name], entry, other.folder)
    return replace(plain, notes=notes + plain.notes)


def _differing(folder: Path, lacking: Sequence[str], extra: Sequence[str], fix: str) -> GtrTurboError:
    names, relation = (extra, "that the base lacks") if extra else (lacking, "fewer than the base")
    return GtrTurboError(f"checkpoint {folder} has {len(names)} tensors {relation} (first: {names[0]}).", fix)


def _require_alike(wanted: TensorEntry, found: TensorEntry, folder: Path) -> None:
    if found.shape != wanted.shape:
        raise GtrTurboError(
            f"{wanted.name} in {folder} has shape {list(found.shape)}, in the base {list(wanted.shape)}.", ONE_BASE
        )
    if found.is_float != wanted.is_float:
        raise GtrTurboError(f"{wanted.name} in {folder} is of type {found.dtype}, in the base {wanted.dtype}.", ONE_BASE)
    if not wanted.is_float and not same_bytes(wanted, found):
        raise GtrTurboError(
            f"{wanted.name} in {folder} differs from the base's, and numbers of type {wanted.dtype} cannot be merged.",
            "if they are quantised weights, dequantise all checkpoints first; else leave the tensor to the base with --exclude.",
        )


@dataclass(frozen=True)
class _Pairing:
    """A base and a checkpoint whose tensors have not the same names."""

    base: Layout
    other: Layout
    missing: Missing
    ask: Ask

    def resolve(self, found: dict[str, TensorEntry], lacking: Sequence[str], extra: Sequence[str]) -> Match:
        """Find what transformers would load in place of what is lacking, and what of the rest it would not load at all."""
        ours, theirs = self.ask(self.base.folder), self.ask(self.other.folder)
        if ours is None and theirs is None:
            return self._settled(found, lacking, extra)
        ours, theirs = ours or _as_stored(self.base), theirs or _as_stored(self.other)
        parts = self._parts_of_stacks(lacking, ours, theirs)
        by_memory = theirs.stored_alone()
        stand_in = {name: parts.get(name) or self._stand_in(name, ours, theirs, by_memory) for name in lacking}
        entries = found | {name: entry for name, entry in stand_in.items() if entry is not None}
        used = {entry.name for entry in entries.values()} | {
            name  # A stack of experts that are none of them merged.
            for name in extra
            if (made := ours.stacks.get(theirs.in_memory[name]))
            and not any(p.stored in entries or p.stored in lacking for p in made)
        }
        unplaced = [name for name in lacking if name not in entries and ours.in_memory[name] not in ours.places]
        left = [name for name in extra if name not in used]
        dropped = [name for name in left if self._is_no_loss(name, ours, theirs)]
        gone = [name for name in lacking if name not in entries and name not in unplaced]
        self._require_whole(gone, left, ours, theirs)
        settled = self._settled(entries, gone, [name for name in left if name not in dropped])
        own = ours.stored_alone()
        sources = {name: [own[place] for place in ours.tied_with(ours.in_memory[name]) if place in own] for name in lacking}
        shared = tuple((name, tied[0]) for name, tied in sources.items() if tied)
        return Match(settled.entries, (*self._told(stand_in, unplaced, dropped), *settled.notes), shared)

    def _settled(self, entries: dict[str, TensorEntry], lacking: Sequence[str], extra: Sequence[str]) -> Match:
        """Do as the user wants about what is left."""
        if not lacking and not extra:
            return Match(entries)
        if self.missing != "base":
            raise _differing(self.other.folder, lacking, extra, EITHER if entries else ONE_BASE)
        return Match(entries, self._told({}, lacking, extra))

    def _parts_of_stacks(self, lacking: Sequence[str], ours: ModelNames, theirs: ModelNames) -> dict[str, TensorEntry]:
        """The experts that the base stores one by one, as parts of the stacks that the checkpoint stores."""
        by_memory, found = theirs.stored_alone(), {}
        for place, parts in ours.stacks.items():
            stack = self.other.entries[by_memory[place]] if place in by_memory else None
            held = {part: self.base.entries[part.stored] for part in parts}
            height = sum(entry.shape[0] for part, entry in held.items() if not part.expert)
            wanted = (parts[-1].expert + 1, height, held[parts[0]].shape[1])
            if stack is None or stack.shape != wanted:
                continue
            for part, own in held.items():
                if part.stored in lacking:
                    start = stack.start + (part.expert * height + part.top) * wanted[2] * stack.width
                    size = own.entries * stack.width
                    within = (part.expert, part.top)
                    found[part.stored] = replace(stack, shape=own.shape, start=start, size=size, part=within)
        return found

    def _require_whole(self, lacking: Sequence[str], extra: Sequence[str], ours: ModelNames, theirs: ModelNames) -> None:
        """Refuse weights that both have and store in other pieces, whatever is to be done about what only one has."""
        places = {theirs.in_memory[name]: name for name in extra}
        for name in lacking:
            if twin := places.get(ours.in_memory[name]):
                raise GtrTurboError(
                    f"{self.other.folder} stores as {twin} what the base stores as {name}, in other pieces or another shape.",
                    SAVE_ANEW,
                )

    def _stand_in(self, name: str, ours: ModelNames, theirs: ModelNames, by_memory: dict[str, str]) -> TensorEntry | None:
        """The checkpoint's tensor of the same name in memory, or of a tensor that it is tied to."""
        memory = ours.in_memory[name]
        fitting = [stored for place in (memory, *theirs.tied_with(memory)) if (stored := by_memory.get(place))]
        shape = self.base.entries[name].shape
        entries = [self.other.entries[stored] for stored in fitting if self.other.entries[stored].shape == shape]
        return entries[0] if entries else None

    def _is_no_loss(self, name: str, ours: ModelNames, theirs: ModelNames) -> bool:
        """Whether neither model has a place for it, or the base's has it by a tensor that it is tied to and equal to."""
        memory = theirs.in_memory[name]
        if memory not in ours.places:
            return memory not in theirs.places
        stored = {place: other for other, place in theirs.in_memory.items()}
        twins = [self.other.entries[stored[place]] for place in ours.tied_with(memory) if place in stored]
        return bool(twins) and all(same_bytes(self.other.entries[name], twin) for twin in twins)

    def _told(self, stand_in: dict[str, TensorEntry | None], lacking: Sequence[str], extra: Sequence[str]) -> tuple[str, ...]:
        folder, said = self.other.folder, []
        if renamed := [(name, entry.name) for name, entry in stand_in.items() if entry]:
            said.append(f"{folder} holds {_some([name for name, _ in renamed])} as {renamed[0][1]}, which is what is merged.")
        if lacking:
            said.append(f"{folder} lacks {_some(lacking)}: the base's stay as they are.")
        if extra:
            said.append(f"{folder} also holds {_some(extra)}, which the base has no place for: left out.")
        return tuple(said)


def _some(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _as_stored(layout: Layout) -> ModelNames:
    """Names of a model that transformers does not know, beside one that it does: as they are stored."""
    return ModelNames({name: name for name in layout.entries}, frozenset(layout.entries), {})


def names_in_memory(folder: Path) -> ModelNames | None:
    """Say how transformers names a folder's tensors; None where it does not know the model, or takes it for another."""
    from gtrturbo.models.stored_names import model_names  # Takes seconds to import, and is rarely needed.

    try:
        names = model_names(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # As transformers says of configs that it cannot read.
        return None
    placed = sum(place in names.places for place in names.in_memory.values())
    return names if placed * 2 > len(names.in_memory) else None


def parts_alike(base: Layout, chosen: Collection[str]) -> bool:
    """Tell whether a choice parts matrices outside of numbered layers that could be copies of each other, as heads may be."""
    outside = [
        entry for name, entry in base.entries.items() if len(entry.shape) == 2 and not any(map(str.isdigit, name.split(".")))
    ]
    ways = {(entry.dtype, entry.shape, entry.name in chosen) for entry in outside}
    return any((dtype, shape, not fits) in ways for dtype, shape, fits in ways)


def tied_copies(base: Layout, names: ModelNames | None) -> dict[str, str]:
    """Name the tensors that a base stores although they are tied to another that it stores, and that one.

    Copies that differ are none: transformers loads them as tensors of their own.
    """
    tied, stored = (names.tied, names.stored_alone()) if names else ({}, {})
    pairs = {stored[name]: stored[source] for name, source in tied.items() if name in stored and source in stored}
    return {name: source for name, source in pairs.items() if same_bytes(base.entries[name], base.entries[source])}
