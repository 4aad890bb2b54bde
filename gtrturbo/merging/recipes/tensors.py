"""Which tensors come out of a recipe, and of which tensors of which models each is made."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.recipes.layers import LayerPlace, comes_first, module_of, place_of
from gtrturbo.merging.recipes.models import Model
from gtrturbo.merging.recipes.recipe import ModelRef, Module, Recipe, Slice, Source
from gtrturbo.merging.recipes.values import filters


@dataclass(frozen=True)
class MadeTensor:
    """One tensor that comes out.

    Attributes:
        name: of it.
        like: the tensor of the first source, whose name and type it has where nothing else is said.
        inputs: each source with the name that the tensor has there.
        part, module: the slice and module whose parameters count.
        t: place of its layer among those of its slice, in [0, 1].
    """

    name: str
    like: str
    inputs: tuple[tuple[Source, str], ...]
    part: Slice
    module: Module
    t: float


@dataclass(frozen=True)
class Restacked:
    """A stack with other layers than before: for each, the first source of its slice and the number that it had there."""

    stack: str
    layers: tuple[int, ...]
    sources: tuple[ModelRef, ...]


def made_tensors(
    recipe: Recipe, models: Mapping[ModelRef, Model], lead: Model
) -> tuple[list[MadeTensor], list[Restacked], list[str]]:
    """Lay out a recipe.

    Args:
        models: by name in the recipe.
        lead: the model whose tensors are listed: the base, or the first.

    Returns: tensors that are merged, stacks whose layers are others, and names of the lead's tensors that are left as they are.

    Raises:
        GtrTurboError: modules, layers or tensors that are not there.
    """
    modules = _by_name(recipe, lead)
    made: list[MadeTensor] = []
    restacked: list[Restacked] = []
    left: list[str] = []
    names: dict[str, list[str]] = {}
    for name in lead.layout.entries:
        names.setdefault(module_of(name) if "" not in modules else "", []).append(name)
    for key, own in names.items():
        if key not in modules:
            left += own
        elif modules[key].restacks:
            tensors, stack, others = _restack(modules[key], own, models, lead)
            made += tensors
            restacked.append(stack)
            left += others
        else:
            made += _as_it_is(modules[key], own, lead)
    return made, restacked, left


def unused_filters(made: Sequence[MadeTensor], recipe: Recipe, spellings: Callable[[str], tuple[str, ...]]) -> list[str]:
    """Name the filters that fit none of the tensors whose parameters they stand among."""
    left: dict[int, set[str]] = {id(scope): filters(scope) for scope in recipe.scopes()}
    if not any(left.values()):
        return []
    for each in made:
        names = spellings(each.name) + tuple(name for _, at in each.inputs if at != each.name for name in spellings(at))
        scopes = (
            recipe.parameters,
            each.module.parameters,
            each.part.parameters,
            *(source.parameters for source, _ in each.inputs),
        )
        for scope in scopes:
            left[id(scope)] = {wanted for wanted in left[id(scope)] if not any(wanted in name for name in names)}
    return sorted(set().union(*left.values()))


def _by_name(recipe: Recipe, lead: Model) -> dict[str, Module]:
    known = sorted({module_of(name) for name in lead.layout.entries})
    if "" in recipe.modules:
        return dict(recipe.modules)
    if set(recipe.modules) == {"default"}:
        return {"": recipe.modules["default"]}
    for name in recipe.modules:
        if name not in known:
            raise GtrTurboError(f"the recipe names a module {name}.", f"the model has: {', '.join(known)}.")
    return dict(recipe.modules)


def _as_it_is(module: Module, names: list[str], lead: Model) -> Iterator[MadeTensor]:
    """Each tensor of that name of all sources; a list of numbers runs over the layers of its own stack."""
    (part,) = module.slices
    for name in names:
        place = place_of(name)
        count = lead.depths.get(place.stack, 1)
        t = (place.layer / (count - 1) if count > 1 else 1.0) if place.stack else 0.0
        yield MadeTensor(name, name, tuple((source, name) for source in part.sources), part, module, t)


def _restack(
    module: Module, names: list[str], models: Mapping[ModelRef, Model], lead: Model
) -> tuple[list[MadeTensor], Restacked, list[str]]:
    """Stack the layers of the slices on each other; what lies before them is of the first slice, what after of the last."""
    stack = _stack_of(names, lead)
    made, kept, left = [], [], []
    sources: list[ModelRef] = []
    for name in names:
        place = place_of(name)
        if not place.stack:
            part = module.slices[0 if comes_first(name) else -1]
            made.append(MadeTensor(name, name, tuple((source, name) for source in part.sources), part, module, 0.0))
        elif place.stack != stack:
            left.append(name)
    for part in module.slices:
        first = part.sources[0]
        spans = [_span(source, models[source.model], stack) for source in part.sources]
        for offset in range(spans[0][1] - spans[0][0]):
            t = offset / (spans[0][1] - spans[0][0] - 1) if spans[0][1] - spans[0][0] > 1 else 1.0
            layer = spans[0][0] + offset
            rests = [p.rest for p in map(place_of, models[first.model].layout.entries) if (p.stack, p.layer) == (stack, layer)]
            for rest in rests:
                inputs = [
                    (source, LayerPlace(stack, span[0] + offset, rest).name)
                    for source, span in zip(part.sources, spans, strict=True)
                ]
                made.append(MadeTensor(LayerPlace(stack, len(kept), rest).name, inputs[0][1], tuple(inputs), part, module, t))
            kept.append(layer)
            sources.append(first.model)
    return made, Restacked(stack, tuple(kept), tuple(sources)), left


def _stack_of(names: list[str], lead: Model) -> str:
    """The stack with the most layers among some tensors."""
    stacks = {place.stack for place in map(place_of, names) if place.stack}
    if not stacks:
        raise GtrTurboError(f"{lead.given} has no numbered layers to slice.", "name models instead of slices.")
    return max(sorted(stacks), key=lambda stack: lead.depths[stack])


def _span(source: Source, model: Model, stack: str) -> tuple[int, int]:
    if source.layers is None:
        raise GtrTurboError(f"a slice names no layer_range of {model.given}.", "write layer_range: [first, last).")
    if source.layers[1] > (count := model.depths.get(stack, 0)):
        raise GtrTurboError(
            f"layer_range {list(source.layers)} of {model.given}: it has {count} layers.", "count from 0 to their number."
        )
    return source.layers
