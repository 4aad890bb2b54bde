"""A recipe laid out for the streaming engine: what each tensor that comes out is made of, and where it goes."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from rich.text import Text

from gtrturbo.config.choices import Missing
from gtrturbo.console import stderr, visible
from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.adapters import Adapter
from gtrturbo.merging.matching import Match, Pattern, match, names_in_memory
from gtrturbo.merging.parts import Full
from gtrturbo.merging.plan import MergePlan
from gtrturbo.merging.rearranged import Adapted, Gathered
from gtrturbo.merging.recipes.depth import require_kinds
from gtrturbo.merging.recipes.files import config_of, require_template, write_files
from gtrturbo.merging.recipes.layers import VOCABULARY, spellings
from gtrturbo.merging.recipes.layout import layout_of_new
from gtrturbo.merging.recipes.models import Model, models_of
from gtrturbo.merging.recipes.parsing import parse_recipe
from gtrturbo.merging.recipes.plans import Merged, merged
from gtrturbo.merging.recipes.recipe import ModelRef, Recipe
from gtrturbo.merging.recipes.tensors import MadeTensor, Restacked, made_tensors, unused_filters
from gtrturbo.merging.recipes.tokens import Vocabulary, vocabulary_of
from gtrturbo.merging.recipes.values import filters
from gtrturbo.merging.sources import SPOT, TILE, Sources, Target
from gtrturbo.store.open_files import Files
from gtrturbo.store.safetensors_files import Layout, TensorEntry

NAMED_ALIKE = "merge models of one architecture."


@dataclass(frozen=True, eq=False)
class RecipeInputs:
    """What a recipe reads; stands for `Inputs` where a recipe says more than options can.

    Attributes:
        recipe: its models are numbers: 0 is the base, the others are `checkpoints`.
        base, checkpoints: folders.
        missing: what to do about a tensor that only one of them has; see `matching.match`.
        notes: what was told of them.
    """

    recipe: Recipe
    base: Path
    checkpoints: tuple[Path, ...]
    missing: Missing = "dropped"
    notes: list[str] = field(default_factory=list)
    as_adapter = False

    @cached_property
    def models(self) -> dict[ModelRef, Model]:
        """The models by name in the recipe."""
        folders = (self.base, *self.checkpoints)
        return models_of([*self.recipe.models(), ModelRef("0")], lambda number: folders[int(number)], missing=self.missing)

    @cached_property
    def lead(self) -> Model:
        """The model that lends its files and the names of its tensors: the base, or the first that is merged."""
        return self.models[self.recipe.base or ModelRef("0")]

    @property
    def around(self) -> bool:
        """A base is known, and is not merely the first that is merged."""
        return self.recipe.base is not None

    @property
    def count(self) -> int:
        """Models that are merged."""
        return len(self.checkpoints) + (not self.around)

    @property
    def under(self) -> Path:
        """Where the lead's weights lie."""
        return self.lead.layout.folder

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """All adapters that are read."""
        return tuple(model.adapter for model in self.models.values() if model.adapter)

    @cached_property
    def vocabulary(self) -> Vocabulary | None:
        """The tokens that come out, where the recipe says which."""
        if self.recipe.tokens is None:
            return None
        return vocabulary_of(self.recipe.tokens, self.models, self.recipe.base or ModelRef("0"))

    @cached_property
    def _made(self) -> tuple[list[MadeTensor], list[Restacked], list[str]]:
        return made_tensors(self.recipe, self.models, self.lead)

    @cached_property
    def plan(self) -> MergePlan:
        """The plan of the first tensor, which stands for all where one is asked for."""
        made, _, _ = self._made
        if not made:
            raise GtrTurboError("the recipe merges no tensor.", "name modules that the model has.")
        return self._settled(made[0]).plan

    def _settled(self, made: MadeTensor) -> Merged:
        given = {ref: model.given for ref, model in self.models.items()}
        return merged(self.recipe, made, self.recipe.base, given, self._spellings)

    @cached_property
    def _spellings(self) -> Callable[[str], tuple[str, ...]]:
        """All names of a tensor that filters look at: that on disk and transformers', which mergekit goes by."""
        known = names_in_memory(self.lead.layout.folder) if any(map(filters, self.recipe.scopes())) else None
        return spellings(known.in_memory if known else {})

    def tell(self, note: str) -> None:
        """Say something that a user has to know, once; the card says it, too."""
        if note not in self.notes:
            self.notes.append(note)
            stderr.print(Text(visible(note), style="yellow"), soft_wrap=True)

    def sources(self, plan: MergePlan, folder: Path) -> Sources:
        """Lay out what is merged tensor by tensor."""
        made, restacked, left = self._made
        for wanted in unused_filters(made, self.recipe, self._spellings):
            self.tell(f"no tensor's name holds {wanted}, which the recipe has a filter for: the filter has no effect.")
        if left and restacked:
            self.tell(f"{left[0]} and {len(left) - 1} more lie outside of the layers that are stacked: they are the base's.")
        self._require_kinds(restacked)
        entries = {each.name: self._entry(each) for each in made} | {name: self.lead.layout.entries[name] for name in left}
        layout = self._layout(entries, folder, anew=bool(restacked))
        targets, moved = [], []
        for each in made:
            source = entries[each.name]
            if source.is_float and source.entries:
                targets.append(self._target(each, layout.entries[each.name]))
            else:
                moved.append((self._own(each), layout.entries[each.name]))
        if not targets:
            raise GtrTurboError("there is nothing to merge: the recipe's tensors hold no floating-point numbers.", "name others.")
        moved += [(self.lead.layout.entries[name], layout.entries[name]) for name in left]
        layouts = {model.layout.folder: model.layout for model in self.models.values()}
        return Sources(layout, tuple(targets), (), tuple(layouts.values()), self.adapters, tuple(moved))

    def _require_kinds(self, restacked: Sequence[Restacked]) -> None:
        """Refuse layers at places where the config has others, before any work."""
        config = config_of(self.lead, restacked=restacked, dtype=None, vocabulary=None)
        for stack in restacked if config else ():
            if note := require_kinds(config, self.lead, self.models, stack):
                self.tell(note)

    def finish(self, files: Files, sources: Sources, folder: Path) -> float | None:
        """Write what lies beside the weights as the recipe wants it."""
        _, restacked, _ = self._made
        write_files(
            folder,
            self.lead,
            sources.base,
            restacked=restacked,
            dtype=self.recipe.dtype,
            vocabulary=self.vocabulary,
            chat_template=self.recipe.chat_template,
            tokenizers=[model.given for model in self.models.values()],
        )
        return None

    def _own(self, made: MadeTensor) -> TensorEntry:
        """The tensor of the first source, or the lead's."""
        source, name = made.inputs[0]
        return self._found(source.model, name, made) or self.lead.layout.entries[made.like]

    def _entry(self, made: MadeTensor) -> TensorEntry:
        """What comes out, in name, type and shape."""
        like = self.lead.layout.entries.get(made.like) or self._own(made)
        shape = like.shape
        if self.vocabulary and self._counts_tokens(made.like, like):
            shape = (self.vocabulary.size, *shape[1:])
        dtype = self.recipe.dtype if self.recipe.dtype and like.is_float else like.dtype
        return replace(like, name=made.name, dtype=dtype, shape=shape)

    def _counts_tokens(self, name: str, entry: TensorEntry) -> bool:
        return bool(VOCABULARY.search(name)) and bool(entry.shape) and entry.is_float

    def _layout(self, entries: Mapping[str, TensorEntry], folder: Path, *, anew: bool) -> Layout:
        """Where tensors go: where the lead has them if they are the same, else into new files."""
        theirs = self.lead.layout
        same = not anew and all(
            (entry.dtype, entry.shape) == (theirs.entries[name].dtype, theirs.entries[name].shape)
            for name, entry in entries.items()
        )
        if same and entries.keys() == theirs.entries.keys():
            return theirs
        return layout_of_new(folder, {name: (entry.dtype, entry.shape) for name, entry in entries.items()})

    def _found(self, ref: ModelRef, name: str, made: MadeTensor) -> TensorEntry | None:
        """A model's own tensor, None where it has none and transformers would do without it.

        Raises:
            GtrTurboError: it lacks the tensor, or has it in another shape.
        """
        model = self.models[ref]
        if made.module.restacks:
            if name not in model.layout.entries:
                raise GtrTurboError(f"{model.given} has no {name}, which {made.name} is to be made of.", NAMED_ALIKE)
            return model.layout.entries[name]
        if self.vocabulary and name in model.layout.entries and self._counts_tokens(name, model.layout.entries[name]):
            return model.layout.entries[name]
        return self._matches[ref].entries.get(name)

    @cached_property
    def _matches(self) -> dict[ModelRef, Match]:
        ask = cache(names_in_memory)
        unlike = [
            name for name, entry in self.lead.layout.entries.items() if self.vocabulary and self._counts_tokens(name, entry)
        ]
        found = {}
        for ref, model in self.models.items():
            found[ref] = match(self.lead.layout, model.layout, Pattern(exclude=unlike), missing=self.missing, ask=ask)
            for note in found[ref].notes:
                self.tell(note)
        return found

    def _target(self, made: MadeTensor, entry: TensorEntry) -> Target:
        how = self._settled(made)
        plan = how.plan
        around = how.base or how.inputs[0]
        parts = [self._part(ref, name, made, entry, whole=plan.whole) for ref, name in how.inputs]
        base = self._part(*around, made, entry, whole=False)
        row = math.lcm(*(_row(part) for part in (base, *parts)))
        step = min(TILE, SPOT) if plan.method.needs_vectors or row > 1 else TILE
        return Target(entry, base, tuple(parts), max(1, step // row) * row, row, plan)

    def _part(self, ref: ModelRef, name: str, made: MadeTensor, entry: TensorEntry, *, whole: bool) -> Full | Adapted | Gathered:
        own = self._found(ref, name, made)
        model = self.models[ref] if own else self.lead
        own = own or self.lead.layout.entries[made.like]
        if self.vocabulary and self._counts_tokens(made.like, own):
            return self._gathered(ref, name, made, own, whole=whole)
        if own.shape != entry.shape:
            fix = "set tokenizer_source: union." if VOCABULARY.search(name) else NAMED_ALIKE
            raise GtrTurboError(f"{name} of {model.given} has shape {list(own.shape)}, and {list(entry.shape)} is needed.", fix)
        return model.part(own, whole=whole)

    def _gathered(self, ref: ModelRef, name: str, made: MadeTensor, own: TensorEntry, *, whole: bool) -> Gathered:
        assert self.vocabulary is not None
        width = int(np.prod(own.shape[1:], dtype=np.int64))
        parts: dict[ModelRef, Full | Adapted] = {}
        rows: dict[ModelRef, int] = {}
        listed = {source.model: at for source, at in made.inputs} | {ref: name}
        if base := made.part.base or self.recipe.base:
            listed.setdefault(base, made.name)
        for each in self.vocabulary.models:
            found = self._found(each, listed.get(each, made.like), made)
            if found is not None:
                parts[each], rows[each] = self.models[each].part(found, whole=False), found.shape[0]
        order, mixed = self.vocabulary.rows(ref, [each for each in listed if each in parts], rows)
        others = {row: tuple((parts[each], at) for each, at in rest) for row, rest in mixed.items()}
        return Gathered(self.models[ref].given, parts[ref], order, others, width, whole)


def recipe_inputs(text: str, base: Path, checkpoints: Sequence[Path], *, missing: Missing) -> RecipeInputs:
    """Read a recipe as a manifest holds it, its models being numbers of folders."""
    recipe = parse_recipe(json.loads(text), "the recipe", exists=lambda path: False)
    require_template(recipe.chat_template)
    return RecipeInputs(recipe, base, tuple(checkpoints), missing)


def _row(part: Full | Adapted | Gathered) -> int:
    """Entries that are read together."""
    return part.width if isinstance(part, Gathered) else part.under.width if isinstance(part, Adapted) else 1
