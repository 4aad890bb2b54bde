"""mergekit's YAML, read for the methods that gtrturbo has: its users change one word of their command."""

from pathlib import Path
from typing import Any

import yaml

from gtrturbo.console import stderr
from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.methods import METHODS, MergeMethod

OURS = {method.mergekit: name for name, method in METHODS.items() if method.mergekit}
TOP = {"merge_method", "base_model", "models", "parameters", "dtype", "out_dtype", "name"}
SHARED = {"normalize", "lambda", "t", "int8_mask", "select_topk", "density", "weight", "gamma", "rescale", "normalize_weights",
          "nuslerp_flatten"}  # fmt: skip
OWN = {"weight", "density", "gamma"}
# mergekit's density where a recipe gives none.
WHOLE = 1.0


def read_recipe(file: Path) -> dict[str, Any]:
    """Turn a recipe into options of `merge`: checkpoints, base, method, weights and what else it sets.

    Raises:
        GtrTurboError: it cannot be read, or asks for what merge does not do; each by name.
    """
    try:
        recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise GtrTurboError(f"{file} cannot be read: {error}") from None
    if not isinstance(recipe, dict) or "merge_method" not in recipe:
        raise GtrTurboError(f"{file} is no recipe of mergekit: it has no merge_method.")
    _refuse(file, recipe.keys() - TOP, "")
    ours = OURS.get(str(recipe["merge_method"]))
    if ours is None:
        raise GtrTurboError(f"{file} asks for {recipe['merge_method']}.", f"methods that merge has: {', '.join(OURS)}")
    method = METHODS[ours]
    if dtype := recipe.get("out_dtype") or recipe.get("dtype"):
        stderr.print(
            f"dtype {dtype} of {file} is not read: sums are float64, and the output has the base's types.", style="yellow"
        )
    models = _models(file, recipe)
    shared = recipe.get("parameters") or {}
    _refuse(file, shared.keys() - SHARED, "parameters.")
    for name in ("normalize_weights", "nuslerp_flatten"):
        if shared.get(name) is False:
            raise GtrTurboError(f"{file} sets {name} to false, which merge does not do.", "leave it out if you can.")
    if "rescale" in shared and bool(shared["rescale"]) != (method.keeps == "random"):
        raise GtrTurboError(f"{file}: rescale {shared['rescale']} is not what {ours} does here.", "leave rescale out.")
    options = _two(recipe, models, shared) if method.whole == "always" else _many(file, recipe, models, shared, method)
    return {"method": ours, **options} | ({"scale": float(shared["lambda"])} if "lambda" in shared else {})


def _models(file: Path, recipe: dict[str, Any]) -> list[dict[str, Any]]:
    models = recipe.get("models")
    if not isinstance(models, list) or not models:
        raise GtrTurboError(f"{file} has no list of models.", "recipes of slices or modules are not read.")
    for model in models:
        if not isinstance(model, dict) or not isinstance(model.get("model"), str):
            raise GtrTurboError(f"{file}: an entry of models names no model.")
        if "+" in model["model"]:
            raise GtrTurboError(f"{file}: {model['model']} is a model with an adapter.", "name the adapter folders alone.")
        _refuse(file, (model.get("parameters") or {}).keys() - OWN, f"parameters of {model['model']}: ")
    return models


def _refuse(file: Path, names: set[str], where: str) -> None:
    if names:
        raise GtrTurboError(f"{file} sets {where}{min(names)}, which merge does not read.", "leave it out if you can.")


def _two(recipe: dict[str, Any], models: list[dict[str, Any]], shared: dict[str, Any]) -> dict[str, Any]:
    """A merge of whole weights goes from the base to the other model by t."""
    base = recipe.get("base_model")
    others = [model["model"] for model in models if model["model"] != base]
    if base is None or len(others) != 1 or not isinstance(shared.get("t"), int | float):
        raise GtrTurboError("slerp needs base_model, one other model and a number t.", "t by layer or by filter is not read.")
    t = float(shared["t"])
    return {"base": Path(base), "checkpoints": (Path(base), Path(others[0])), "weights": _text([1 - t, t])}


def _many(
    file: Path, recipe: dict[str, Any], models: list[dict[str, Any]], shared: dict[str, Any], method: MergeMethod
) -> dict[str, Any]:
    base = recipe.get("base_model")
    # Where weights may be summed instead of averaged, mergekit knows no base: one that is listed is a model like the others.
    kept = [model for model in models if model["model"] != base or method.whole == "summed"]
    options: dict[str, Any] = {"checkpoints": tuple(Path(model["model"]) for model in kept)}
    if base is not None:
        options["base"] = Path(base)
    weights = _numbers(file, kept, shared, "weight", None)
    if weights:
        options["weights"] = _text(weights)
    if method.keeps == "varied":
        options["density"] = _text([float(shared.get("select_topk", WHOLE))])
    elif method.keeps:
        densities = _numbers(file, kept, shared, "density", WHOLE)
        options["density"] = _text(densities[:1] if len(set(densities)) == 1 else densities)
    if method.keeps == "middle":
        options["gamma"] = _one(file, _numbers(file, kept, shared, "gamma", 0.01), "gamma")
    if "normalize" in shared:
        options["normalize"] = bool(shared["normalize"])
    return options


def _numbers(file: Path, models: list[dict[str, Any]], shared: dict[str, Any], name: str, default: float | None) -> list[float]:
    values = [(model.get("parameters") or {}).get(name, shared.get(name, default)) for model in models]
    if all(value is None for value in values):
        return []
    if not all(isinstance(value, int | float) for value in values):
        raise GtrTurboError(f"{file}: {name} must be one number per model.", "values by layer or by filter are not read.")
    return [float(value) for value in values]


def _one(file: Path, values: list[float], name: str) -> float:
    if len(set(values)) > 1:
        raise GtrTurboError(f"{file} gives models different {name}.", "merge takes one for all.")
    return values[0]


def _text(numbers: list[float]) -> str:
    """Write numbers as a user would."""
    return ",".join(repr(number).removesuffix(".0") for number in numbers)
