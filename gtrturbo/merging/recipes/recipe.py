"""What a recipe of mergekit says: models, slices, modules, parameters, types and tokens."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

SWITCHES = {"normalize", "int8_mask", "rescale", "normalize_weights", "nuslerp_flatten", "nuslerp_row_wise", "filter_wise"}
OF_A_MODEL = {"weight", "density", "gamma", "epsilon", "scale"}
Settings = dict[str, Any]


@dataclass(frozen=True)
class ModelRef:
    """A model as a recipe names it: a folder or hub id, and maybe an adapter on top."""

    model: str
    lora: str | None = None

    def __str__(self) -> str:
        return f"{self.model}+{self.lora}" if self.lora else self.model


@dataclass(frozen=True)
class Source:
    """A model with its parameters; `layers`: [first, last) of its layers, all where None."""

    model: ModelRef
    parameters: Settings = field(default_factory=dict)
    layers: tuple[int, int] | None = None


@dataclass(frozen=True)
class Slice:
    """Layers that are stacked on those of the slice before it."""

    sources: tuple[Source, ...]
    parameters: Settings = field(default_factory=dict)
    base: ModelRef | None = None


@dataclass(frozen=True)
class Module:
    """A part of a model, such as its text decoder: one slice without a range of layers, or several with one."""

    slices: tuple[Slice, ...]
    parameters: Settings = field(default_factory=dict)

    @property
    def restacks(self) -> bool:
        """It says itself which layers there are."""
        return any(source.layers for part in self.slices for source in part.sources)


@dataclass(frozen=True)
class WantedToken:
    """Where the embedding of a token is from: a model's own, that of another of its tokens, or zeros.

    `force`: also in models that have the token.
    """

    model: ModelRef | None = None
    token: str | int | None = None
    zero: bool = False
    force: bool = False


@dataclass(frozen=True)
class WantedTokens:
    """Which tokenizer comes out. `source`: union, base, or a model."""

    source: Literal["union", "base"] | ModelRef
    tokens: Mapping[str, WantedToken] = field(default_factory=dict)
    multiple: int | None = None


@dataclass(frozen=True)
class Recipe:
    """A recipe. `modules` by name; one called "" is all there is."""

    method: str
    modules: Mapping[str, Module]
    base: ModelRef | None = None
    parameters: Settings = field(default_factory=dict)
    dtype: str | None = None
    tokens: WantedTokens | None = None
    chat_template: str | None = None
    content: Mapping[str, Any] = field(default_factory=dict)

    def models(self) -> list[ModelRef]:
        """Name all models once, in the order in which they are named; the base is the first."""
        slices = [part for module in self.modules.values() for part in module.slices]
        named = [self.base, *(ref for part in slices for ref in (part.base, *(source.model for source in part.sources)))]
        if self.tokens:
            named += [self.tokens.source if isinstance(self.tokens.source, ModelRef) else None]
            named += [token.model for token in self.tokens.tokens.values()]
        return list(dict.fromkeys(ref for ref in named if ref))

    def scopes(self) -> list[Settings]:
        """The parameters of the recipe, of its modules, slices and models."""
        slices = [part for module in self.modules.values() for part in module.slices]
        sources = [source for part in slices for source in part.sources]
        return [holder.parameters for holder in (self, *self.modules.values(), *slices, *sources)]

    def named(self) -> set[str]:
        """Name all parameters that are set anywhere."""
        return {key for scope in self.scopes() for key in scope}
