"""A merge plan for each tensor of a recipe: its parameters settled, and which models are merged around what."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.method import MergeMethod
from gtrturbo.merging.methods import METHODS
from gtrturbo.merging.plan import MergePlan, MergeSettings, make_plan
from gtrturbo.merging.recipes.options import GAMMA, WHOLE, operands, our_method
from gtrturbo.merging.recipes.recipe import OF_A_MODEL, SWITCHES, ModelRef, Recipe, Source
from gtrturbo.merging.recipes.tensors import MadeTensor
from gtrturbo.merging.recipes.values import settle


@dataclass(frozen=True)
class Merged:
    """How one tensor is made: the models that are merged, in order, each with the tensor's name there; and the base, if any."""

    plan: MergePlan
    inputs: tuple[tuple[ModelRef, str], ...]
    base: tuple[ModelRef, str] | None


Spellings = Callable[[str], tuple[str, ...]]


def merged(
    recipe: Recipe, made: MadeTensor, base: ModelRef | None, given: Mapping[ModelRef, Path], spellings: Spellings
) -> Merged:
    """Settle one tensor.

    Args:
        spellings: gives all names of a tensor that filters look at, from the one that it is stored under.
        given: the folders that a user knows the models by.

    Raises:
        GtrTurboError: a parameter or the base is missing, or the method takes another number of models.
    """
    return _Settling(recipe, made, made.part.base or base, given, spellings).merged()


@dataclass(frozen=True)
class _Settling:
    recipe: Recipe
    made: MadeTensor
    base: ModelRef | None
    given: Mapping[ModelRef, Path]
    spellings: Spellings

    def merged(self) -> Merged:
        name = our_method(self.recipe.method, self.shared)
        method = METHODS[name]
        kept = operands(self.made.part.sources, self.base, method, self.recipe.parameters, fixed=self.made.module.restacks)
        if method.needs_base and self.base is None:
            raise GtrTurboError(f"{self.recipe.method} needs base_model.", "name it in the recipe.")
        if method.whole == "always" and not method.takes_base:
            return self._two(name)
        if not kept:
            into = self.given[self.base] if self.base else "nothing"
            raise GtrTurboError(f"{self.recipe.method} has no model to merge into {into}.", "name another than base_model.")
        around = None if method.takes_base else self.base
        plan = make_plan(self._settings(name, method, kept), len(kept), whole=_whole(method, around))
        gammas = tuple(self.number(source, "gamma", GAMMA) for source in kept) if method.keeps == "middle" else None
        names = dict((source.model, at) for source, at in self.made.inputs)
        return Merged(
            replace(plan, gammas=gammas),
            tuple((source.model, names.get(source.model, self.made.name)) for source in kept),
            (around, self._in_base(names)) if around else None,
        )

    def _in_base(self, names: Mapping[ModelRef, str]) -> str:
        """The name that the tensor has in the base; where layers are stacked anew, a slice must name the base's."""
        assert self.base is not None
        if self.base not in names and self.made.module.restacks:
            raise GtrTurboError(
                f"a slice names no layers of base_model {self.given[self.base]}.", "list it among the slice's sources."
            )
        return names.get(self.base, self.made.name)

    def _two(self, name: str) -> Merged:
        """From the base to the other model by t."""
        others = [(source.model, at) for source, at in self.made.inputs if source.model != self.base]
        t = self.shared("t")
        if self.base is None or len(others) != 1 or t is None:
            raise GtrTurboError("slerp needs base_model, one other model and a parameter t.", "for more models take multislerp.")
        start = (self.base, self._in_base(dict((source.model, at) for source, at in self.made.inputs)))
        settings = MergeSettings(name, weights=f"{1 - t!r},{t!r}")
        return Merged(make_plan(settings, 2, whole=True), (start, others[0]), None)

    def _settings(self, name: str, method: MergeMethod, kept: list[Source]) -> MergeSettings:
        settings: dict[str, Any] = {}
        weight = "scale" if "scale" in method.reads else "weight"
        if weight in method.reads:
            default = (
                1.0 if weight == "scale" or not any(self.number(source, weight, None) is not None for source in kept) else None
            )
            weights = [self.number(source, weight, default) for source in kept]
            if None in weights:
                missing = self.given[kept[weights.index(None)].model]
                raise GtrTurboError(
                    f"the recipe gives {missing} no {weight} for {self.made.name}.", f"give it under parameters: {weight}."
                )
            settings["weights"] = ",".join(map(repr, weights))
        if method.keeps:
            shares = (
                [self.shared("select_topk")] if method.keeps == "varied" else [self.number(s, "density", WHOLE) for s in kept]
            )
            settings["density"] = ",".join(repr(min(1.0, max(0.0, WHOLE if share is None else share))) for share in shares)
        if "normalize" in method.reads:
            settings["normalize"] = self.shared("normalize")
        if "lambda" in method.reads and (scale := self.shared("lambda")) is not None:
            settings["scale"] = scale
        return MergeSettings(name, **settings, own=self._own(method, kept))

    def _own(self, method: MergeMethod, kept: list[Source]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in method.settings:
            if name in OF_A_MODEL:
                values = tuple(self.number(source, name, None) for source in kept)
                if None not in values:
                    found[name] = values[0] if len(set(values)) == 1 else values
            elif (value := self.shared(name)) is not None:
                found[name] = value
        return found

    def shared(self, name: str) -> Any:
        """A parameter that all models share."""
        scopes = [self.made.part.parameters, self.made.module.parameters, self.recipe.parameters]
        return settle(name, scopes, tensors=self.spellings(self.made.name), t=self.made.t, truth=name in SWITCHES)

    def number(self, source: Source, name: str, default: float | None) -> Any:
        """A parameter of one model; filters look at the name that the tensor has there."""
        scopes = [source.parameters, self.made.part.parameters, self.made.module.parameters, self.recipe.parameters]
        at = next((at for each, at in self.made.inputs if each.model == source.model), self.made.name)
        value = settle(name, scopes, tensors=self.spellings(at), t=self.made.t)
        return default if value is None else value


def _whole(method: MergeMethod, around: ModelRef | None) -> bool:
    return method.takes_base or method.whole == "always" or (method.whole == "borrowed" and around is None)
