"""Recipes that options of `merge` can say: whoever uses mergekit changes one word of the command."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gtrturbo.config.yaml_files import read_yaml
from gtrturbo.console import stderr
from gtrturbo.errors import GtrTurboError, of_system
from gtrturbo.merging.method import MergeMethod
from gtrturbo.merging.methods import METHODS
from gtrturbo.merging.recipes.parsing import parse_recipe
from gtrturbo.merging.recipes.recipe import OF_A_MODEL, SWITCHES, ModelRef, Recipe, Source
from gtrturbo.merging.recipes.values import settle, varies

OURS = {method.mergekit: name for name, method in METHODS.items() if method.mergekit}
# mergekit's density and gamma where a recipe gives none.
WHOLE, GAMMA = 1.0, 0.01
# Recipes that stack single layers name models and filters by alias, several times for each.
MOST_ALIASES, MOST_VALUES = 2_000, 100_000
# Says how mergekit keeps signs in memory.
READ_BY_NONE = {"int8_mask"}


def read_recipe(file: Path) -> Recipe:
    """Read a recipe.

    Raises:
        GtrTurboError: it cannot be read, says what no recipe says, or asks for a method that merge has not.
    """
    recipe = parse_recipe(_content(file), str(file))
    if recipe.method not in OURS:
        raise GtrTurboError(f"{file} asks for {recipe.method}.", f"methods that merge has: {', '.join(OURS)}")
    method = METHODS[OURS[recipe.method]]
    if bool(setting_of(recipe, "rescale")) and "rescale" not in method.settings:
        raise GtrTurboError(f"{file}: rescale is for dare and della, not for {recipe.method}.", "leave it out.")
    unread = {name for name in recipe.named() - READ_BY_NONE if name not in method.reads | method.settings.keys()}
    if unread:
        stderr.print(f"{file}: {recipe.method} does not read {', '.join(sorted(unread))}.", style="yellow")
    return recipe


def _content(file: Path) -> Any:
    try:
        content = read_yaml(file, aliases=MOST_ALIASES)
        if _size(content) > MOST_VALUES:
            raise GtrTurboError(f"{file} holds more than {MOST_VALUES:,} values, aliases included.", "write a shorter recipe.")
        return content
    except OSError as error:
        raise of_system(error) from None
    except GtrTurboError as error:
        if "another document" not in error.what:
            raise
        fix = "write each to a file of its own, merge them in turn, and name the folder that each made (documentation: merge)."
        raise GtrTurboError(f"{file} holds several documents, and a merge is one.", fix) from None


def _size(content: Any) -> int:
    """Count values, those of an alias as often as it is used, to just beyond what is allowed."""
    left, count = [content], 0
    while left and count <= MOST_VALUES:
        value = left.pop()
        count += 1
        left += value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return count


def our_method(name: str, setting: Callable[[str], Any]) -> str:
    """Name the method that stands for mergekit's, given its settings."""
    if name == "nuslerp" and setting("nuslerp_flatten") is False:
        return "nuslerp-columns" if setting("nuslerp_row_wise") else "nuslerp-rows"
    return "model-stock-rows" if name == "model_stock" and setting("filter_wise") else OURS[name]


def setting_of(recipe: Recipe, name: str) -> Any:
    """A parameter of the recipe as a whole, where it is one for all tensors; None where it is not there."""
    value = recipe.parameters.get(name)
    return None if varies(value) else settle(name, [recipe.parameters], tensors=(), t=0, truth=name in SWITCHES)


def operands(
    sources: tuple[Source, ...], base: ModelRef | None, method: MergeMethod, parameters: dict[str, Any], *, fixed: bool = False
) -> list[Source]:
    """Choose the models that are merged, the base being one of them where mergekit knows no task vectors.

    There it is added where it is not listed and has a weight, unless the list is `fixed`.
    """
    if not method.takes_base:
        return [source for source in sources if source.model != base]
    if fixed or base is None or any(source.model == base for source in sources):
        return list(sources)
    weighs = "weight" in parameters if "weight" in method.reads else method.most != 1
    return [*sources, Source(base)] if weighs else list(sources)


def as_options(recipe: Recipe) -> dict[str, Any] | None:
    """Say a recipe in options of `merge`: checkpoints, base, method, weights and what else it sets; None where they cannot.

    Raises:
        GtrTurboError: it lacks what its method needs.
    """
    module = recipe.modules.get("")
    if module is None or module.restacks or recipe.tokens or recipe.chat_template or len(module.slices) > 1:
        return None
    part = next(iter(module.slices))
    scopes = [recipe.parameters, part.parameters, *(source.parameters for source in part.sources)]
    if part.base or part.parameters or any(varies(value) for scope in scopes for value in scope.values()):
        return None
    if any(ref.lora for ref in recipe.models()):
        return None
    name = our_method(recipe.method, lambda key: setting_of(recipe, key))
    kept = operands(part.sources, recipe.base, METHODS[name], recipe.parameters)
    options = {"method": name, **_options(recipe, METHODS[name], name, kept)}
    return None if options.pop("impossible", False) else options


def _options(recipe: Recipe, method: MergeMethod, name: str, kept: list[Source]) -> dict[str, Any]:
    if name == "slerp":
        return _two(recipe, kept)
    options: dict[str, Any] = {"checkpoints": tuple(Path(source.model.model) for source in kept)}
    if recipe.base is not None:
        options["base"] = Path(recipe.base.model)
    if method.reads & {"weight", "scale"} and (
        weights := _numbers(recipe, kept, "scale" if name == "passthrough" else "weight", None)
    ):
        options["weights"] = _text(weights)
    if method.keeps == "varied":
        options["density"] = _text(_numbers(recipe, kept[:1], "select_topk", WHOLE))
    elif method.keeps:
        densities = [min(1.0, density) for density in _numbers(recipe, kept, "density", WHOLE)]
        options["density"] = _text(densities[:1] if len(set(densities)) == 1 else densities)
        options |= {"impossible": True} if min(densities, default=1) <= 0 else {}
    if method.keeps == "middle":
        gammas = _numbers(recipe, kept, "gamma", GAMMA)
        options |= {"gamma": gammas[0]} if len(set(gammas)) == 1 else {"impossible": True}
    if (normalize := setting_of(recipe, "normalize")) is not None and "normalize" in method.reads:
        options["normalize"] = normalize
    if own := _own(recipe, method, kept):
        options["parameters"] = own
    if "lambda" in recipe.parameters and "lambda" in method.reads:
        scale = setting_of(recipe, "lambda")
        options |= {"scale": scale} if scale > 0 else {"impossible": True}
    return options


def _own(recipe: Recipe, method: MergeMethod, kept: list[Source]) -> tuple[str, ...]:
    found = []
    for name in method.settings:
        value = [setting_of(recipe, name)]
        if name in OF_A_MODEL and any(name in source.parameters for source in kept):
            value = _numbers(recipe, kept, name, None)
        if value[0] is not None:
            found.append(f"{name}={_text(value) if name not in SWITCHES else str(value[0]).lower()}")
    return tuple(found)


def _two(recipe: Recipe, kept: list[Source]) -> dict[str, Any]:
    """A merge of whole weights goes from the base to the other model by t."""
    others = [source.model for source in kept if source.model != recipe.base]
    t = setting_of(recipe, "t")
    if recipe.base is None or len(others) != 1 or t is None:
        raise GtrTurboError("slerp needs base_model, one other model and a parameter t.", "for more models take multislerp.")
    base = Path(recipe.base.model)
    return {"base": base, "checkpoints": (base, Path(others[0].model)), "weights": _text([1 - t, t])}


def _numbers(recipe: Recipe, sources: list[Source], name: str, default: float | None) -> list[float]:
    values = [settle(name, [source.parameters, recipe.parameters], tensors=(), t=0) for source in sources]
    if all(value is None for value in values) and default is None:
        return []
    values = [default if value is None else value for value in values]
    if None in values:
        missing = next(source.model for source, value in zip(sources, values, strict=True) if value is None)
        raise GtrTurboError(f"the recipe gives {missing} no {name}, and others one.", f"give it under parameters: {name}.")
    return [float(value) for value in values if value is not None]


def _text(numbers: list[Any]) -> str:
    """Write numbers as a user would."""
    return ",".join(repr(number).removesuffix(".0") for number in numbers)
