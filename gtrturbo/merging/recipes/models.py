"""The models that a recipe names, on disk: where each tensor lies, and what an adapter on top changes of it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gtrturbo.config.choices import Missing
from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.adapted import as_stored, bound, require_factors_of_all, stored_by_name
from gtrturbo.merging.adapters import Adapter, read_adapter
from gtrturbo.merging.changes import Change
from gtrturbo.merging.lineage import on_disk
from gtrturbo.merging.matching import SAVE_ANEW
from gtrturbo.merging.naming import tensors_of
from gtrturbo.merging.parts import BaseWithAdapter, Full
from gtrturbo.merging.quantised import require_plain
from gtrturbo.merging.rearranged import Adapted
from gtrturbo.merging.recipes.layers import depths
from gtrturbo.merging.recipes.recipe import ModelRef
from gtrturbo.models.checkpoint_files import is_adapter
from gtrturbo.models.under_adapter import base_here, base_to_fetch
from gtrturbo.store.names import ADAPTER_CONFIG, MODEL_CONFIG
from gtrturbo.store.safetensors_files import Layout, TensorEntry, read_layout


@dataclass(frozen=True, eq=False)
class Model:
    """A model: its own folder, that of its weights, and an adapter on top.

    `given`: the folder that a user knows it by, which holds its tokenizer. `missing`: what to do about factors that the adapter
    lacks; see `require_factors_of_all`.
    """

    given: Path
    layout: Layout
    adapter: Adapter | None
    missing: Missing = "dropped"

    @cached_property
    def depths(self) -> dict[str, int]:
        """Layers of each stack."""
        return depths(self.layout.entries)

    @cached_property
    def config(self) -> dict[str, Any]:
        """Read the config of the weights.

        Raises:
            GtrTurboError: it is damaged.
        """
        file = self.layout.folder / MODEL_CONFIG
        try:
            found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        except ValueError as error:
            raise GtrTurboError(f"{file} is damaged: {error}", "fetch or write the checkpoint again.") from None
        return found if isinstance(found, dict) else {}

    @cached_property
    def changes(self) -> dict[str, Change]:
        """What the adapter does, by the stored name of a tensor."""
        if self.adapter is None:
            return {}
        adapter = as_stored(self.adapter, self.layout)
        found = bound(adapter, self.layout, stored_by_name([adapter], lambda tensors: tensors_of(self.layout, tensors)))
        require_factors_of_all(adapter, self.layout, found, missing=self.missing, tell=lambda note: None)
        return found

    def part(self, entry: TensorEntry, *, whole: bool) -> Full | Adapted:
        """Read a tensor as the model has it, its adapter added."""
        change = self.changes.get(entry.name)
        if self.adapter is None or change is None:
            return Full(self.layout.folder, entry, whole)
        if entry.part:
            raise GtrTurboError(
                f"{self.layout.folder} stores {entry.name} as a stack, other models of the recipe each expert by itself.",
                SAVE_ANEW,
            )
        return Adapted(self.adapter.folder, BaseWithAdapter(entry, change, change.width), whole)


def models_of(refs: list[ModelRef], folder_of: Callable[[str], Path], *, missing: Missing) -> dict[ModelRef, Model]:
    """Read where the tensors of models lie. A folder that is an adapter stands for the model under it with the adapter.

    The model under an adapter that names none, or one that is not here, is the base of the recipe, number 0.

    Raises:
        GtrTurboError: one is not there or damaged, or an adapter on top is none.
    """
    layouts: dict[Path, Layout] = {}
    base = folder_of("0")
    found = {}
    for ref in refs:
        given = folder_of(ref.model)
        own = is_adapter(given)
        if own and ref.lora:
            raise GtrTurboError(
                f"{given} is an adapter, and so is {ref.lora}: one goes on a model.", "merge one into the model first."
            )
        lora = given if own else folder_of(ref.lora) if ref.lora else None
        if lora and not is_adapter(lora):
            raise GtrTurboError(f"{lora} is no adapter: it has no {ADAPTER_CONFIG}.", f"after + names the adapter of {given}.")
        under = _under(given, base) if own else given
        if under not in layouts:
            require_plain(under)
            layouts[under] = read_layout(under)
        found[ref] = Model(given, layouts[under], read_adapter(lora) if lora else None, missing)
    return found


def _under(adapter: Path, base: Path) -> Path:
    here = base_here(adapter)
    if here is None and not is_adapter(base):
        return base
    return here or on_disk(Path(base_to_fetch(adapter)))
