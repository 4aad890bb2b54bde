"""What a merge reads, by what its checkpoints are: full weights, or LoRA adapters and the model under them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path

from rich.text import Text

from gtrturbo.config.choices import Missing
from gtrturbo.console import stderr
from gtrturbo.distributed.escapes import shell_word, visible
from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.adapted import adapter_sources
from gtrturbo.merging.adapters import Adapter, changes_nothing, read_adapter
from gtrturbo.merging.factors_apart import factor_sources, write_factors
from gtrturbo.merging.lineage import on_disk, same_model
from gtrturbo.merging.lowrank import module_sources, write_adapter
from gtrturbo.merging.matching import Ask, Pattern, match, names_in_memory, parts_alike, tied_copies
from gtrturbo.merging.naming import tensors_of
from gtrturbo.merging.plan import MergePlan
from gtrturbo.merging.quantised import require_plain
from gtrturbo.merging.sources import Sources, full_sources
from gtrturbo.models.checkpoint_files import is_adapter
from gtrturbo.models.under_adapter import base_here, base_to_fetch, named_base
from gtrturbo.store.ids import same_artifact
from gtrturbo.store.names import ADAPTER_CONFIG, ADAPTER_WEIGHTS, MODEL_INDEX, MODEL_WEIGHTS
from gtrturbo.store.open_files import Files
from gtrturbo.store.safetensors_files import Layout, read_layout


@dataclass(frozen=True)
class Inputs:
    """Full checkpoints; or adapters, the adapter that they started from, and the model under them.

    `rank`, `factors`: an adapter is to come out, of that rank or of the factors merged apart. `pattern`: which of the base's
    tensors are merged. `missing`: what to do about a tensor that only one of base and checkpoint has; see `matching.match`.
    `notes`: what was told of them.
    """

    under: Path
    checkpoints: tuple[Path, ...]
    adapters: tuple[Adapter, ...]
    origin: Adapter | None
    rank: int
    factors: bool
    pattern: Pattern
    missing: Missing = "dropped"
    notes: list[str] = field(default_factory=list)
    around = True

    def sources(self, plan: MergePlan, folder: Path) -> Sources:
        """Lay out what is merged tensor by tensor, `folder` taking what is written on the way."""
        if not self.adapters:
            return self._full(plan)
        if self.factors:
            return factor_sources(self.adapters, folder, plan)
        for adapter in self.adapters:
            if changes_nothing(adapter):
                self.tell(f"{adapter.folder} changes nothing: it counts as the base, with its weight.")
        base, ask = self._read(self.under), cache(names_in_memory)
        names = partial(tensors_of, base)
        told = {"missing": self.missing, "tell": self.tell}
        if self.rank:
            if plan.scales_base:
                raise GtrTurboError(
                    f"weights that sum to {math.fsum(plan.weights):g} scale the whole model here: no adapter stands for it.",
                    "leave out --rank or --no-normalize, or give weights that sum to 1.",
                )
            return module_sources(base, self.adapters, self.origin, names, folder, whole=plan.whole, **told)
        chosen = {"pattern": self._pattern(base, ask), "whole": plan.whole, "scales": plan.scales_base, **told}
        return adapter_sources(base, self.adapters, self.origin, names, **chosen)

    def tell(self, note: str) -> None:
        """Say something that a user has to know, once. No artifact says it: it names folders of the machine."""
        if note not in self.notes:
            self.notes.append(note)
            stderr.print(Text(visible(note), style="yellow"), soft_wrap=True)

    def _full(self, plan: MergePlan) -> Sources:
        base, layouts = self._read(self.under), [self._read(path) for path in self.checkpoints]
        ask = cache(names_in_memory)
        pattern = self._pattern(base, ask)
        matches = [match(base, layout, pattern, missing=self.missing, ask=ask) for layout in layouts]
        for note in (note for found in matches for note in found.notes):
            self.tell(note)
        pairs = list(zip(layouts, matches, strict=True))
        return full_sources(base, pairs, pattern, whole=plan.whole, vectors=plan.method.needs_vectors)

    def _pattern(self, base: Layout, ask: Ask) -> Pattern:
        """What is merged, by names on disk; patterns may be of transformers' names."""

        def in_memory() -> dict[str, str]:
            known = ask(base.folder)
            return known.in_memory if known else {}

        if not self.pattern.include and not self.pattern.exclude:
            return self.pattern
        pattern = self.pattern.by_stored(base.entries, in_memory)
        if not parts_alike(base, pattern.chosen(base.entries)):
            return pattern
        pattern = replace(pattern, tied=tied_copies(base, ask(base.folder)))
        for name in pattern.split(base.entries):
            self.tell(f"{name} is tied to {pattern.tied[name]}, and merged where that is.")
        return pattern

    def _read(self, folder: Path) -> Layout:
        require_plain(folder)
        layout = read_layout(folder)
        if layout.unread:
            read = layout.index or next(iter(layout.headers))
            self.tell(f"{folder} is read as transformers does, by {read}; {', '.join(layout.unread)} beside it is left out.")
        return layout

    @property
    def count(self) -> int:
        """Checkpoints that are merged."""
        return len(self.checkpoints)

    @property
    def as_adapter(self) -> bool:
        """An adapter comes out, not full weights."""
        return bool(self.rank) or self.factors

    def finish(self, files: Files, sources: Sources, folder: Path) -> float | None:
        """Turn what was merged into an adapter, where one is to come out; return the error of a cut to a rank."""
        if not self.as_adapter:
            return None
        like = next(adapter.folder for adapter in self.adapters if adapter.choices)
        if self.rank:
            return write_adapter(files, sources, like, folder, rank=self.rank).relative
        write_factors(like, folder)
        return None


def read_inputs(
    base: Path,
    checkpoints: tuple[Path, ...],
    *,
    rank: int,
    factors: bool,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    missing: Missing = "dropped",
) -> Inputs:
    """Find out of which kind the checkpoints are.

    Raises:
        GtrTurboError: of both kinds, of more than one base, or of a kind that the output does not go with.
    """
    pattern = Pattern(include, exclude)
    adapters = [path for path in checkpoints if is_adapter(path)]
    under = on_disk(Path(base_to_fetch(base))) if is_adapter(base) and adapters else base
    for path in (base, *checkpoints):
        _require_one_kind(path)
    if not adapters:
        if is_adapter(base):
            raise GtrTurboError(f"the base {base} is a LoRA adapter, the checkpoints have full weights.")
        if rank or factors:
            raise GtrTurboError(
                "--rank and --parameters factors=true are for LoRA adapters, the checkpoints have full weights.",
                "leave it out: full weights come out.",
            )
        return Inputs(base, checkpoints, (), None, rank, factors, pattern, missing)
    if full := [path for path in checkpoints if path not in adapters and not same_artifact(path, under)]:
        words = " ".join(shell_word(str(path)) for path in ("--base", base, "--out", "FULL", adapters[0]))
        raise GtrTurboError(
            f"{adapters[0]} is a LoRA adapter and {full[0]} has full weights.",
            f"write each adapter's full weights first, and merge those: gtrturbo merge --method linear {words}",
        )
    if rank and factors:
        raise GtrTurboError("--parameters factors=true keeps the rank that the factors have.", "leave out --rank.")
    if (rank or factors) and (include or exclude):
        raise GtrTurboError("--include and --exclude are for full weights as output.", "leave out --rank and factors=true.")
    if not factors:  # These are merged without a look at what they change.
        require_plain(under)
    origin = read_adapter(base) if is_adapter(base) else None
    read = tuple(read_adapter(path) if path in adapters else Adapter(path) for path in checkpoints)
    inputs = Inputs(under, checkpoints, read, origin, rank, factors, pattern, missing)
    for note in _other_bases(adapters, base):
        inputs.tell(note)
    return inputs


def _require_one_kind(folder: Path) -> None:
    """Refuse an adapter beside full weights: transformers adds the one to the other, PEFT adds it to the base that it names."""
    full = [name for name in (MODEL_WEIGHTS, MODEL_INDEX) if (folder / name).is_file()]
    if is_adapter(folder) and full:
        raise GtrTurboError(
            f"{folder} holds an adapter and full weights ({full[0]}): what it stands for depends on who loads it.",
            f"move one of both to a folder of its own: {ADAPTER_CONFIG} with {ADAPTER_WEIGHTS}, or {full[0]}.",
        )


def _other_bases(checkpoints: Sequence[Path], base: Path) -> list[str]:
    """Say of adapters which other base they name: that of the user counts, and shapes decide whether it can be."""
    under = base_to_fetch(base) if is_adapter(base) else str(base)
    said = []
    for path in checkpoints:
        named = named_base(path)
        here = base_here(path)
        if named is None or named == under or (here is not None and same_model(str(here), under)):
            continue
        other = "others than those" if here else "not here to be compared with those"
        said.append(f"{path} names {named} as its base, whose weights are {other} of {under}: that is what is merged around.")
    return said
