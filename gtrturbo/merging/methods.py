"""The merge methods by name, and the seam for a rule of the user's own.

`METHODS` is the one place that tells methods apart: the rest of the package asks a record, never for a name. The formulas, one
pure function each, are in `algorithms.merging`, `algorithms.ties` and `algorithms.geometry`.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gtrturbo.algorithms import rules
from gtrturbo.algorithms.geometry import (
    PARALLEL,
    karcher_coefficients,
    model_stock_coefficients,
    multislerp_coefficients,
    slerp_coefficients,
)
from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.method import MergeMethod, MergeRule, keywords
from gtrturbo.merging.own_rule import KIND, method_of_rule
from gtrturbo.merging.parameters import require_kind
from gtrturbo.plugins import find

REQUIRED = inspect.Parameter.empty
# Cosine above which SLERP joins two vectors by a straight line, as mergekit does.
NEARLY_PARALLEL = 0.9995


def _along_arc(lerp_above: float) -> Callable[[np.ndarray, Sequence[float]], list[float]]:
    def coefficients(gram: np.ndarray, weights: Sequence[float]) -> list[float]:
        return slerp_coefficients(gram, t=weights[1] / math.fsum(weights), lerp_above=lerp_above)

    return coefficients


SUMMED = frozenset({"weight", "normalize", "lambda"})
TRIMMED = SUMMED | {"density"}
# Which method normalises by default is as in mergekit.
METHODS: dict[str, MergeMethod] = {
    "ties": MergeMethod(
        summary="trim, elect signs, average; the paper's.",
        keeps="largest",
        votes=True,
        normalizes=True,
        running_sums=True,
        mergekit="ties",
        reads=TRIMMED,
    ),
    "linear": MergeMethod(
        summary="weighted mean.",
        normalizes=True,
        needs_base=False,
        whole="summed",
        mergekit="linear",
        reads=frozenset({"weight", "normalize"}),
        takes_base=True,
    ),
    "task-arithmetic": MergeMethod(
        summary="weighted sum.",
        mergekit="task_arithmetic",
        reads=SUMMED,
    ),
    "dare-linear": MergeMethod(
        summary="drop entries at random, then sum.",
        keeps="random",
        mergekit="dare_linear",
        reads=TRIMMED,
    ),
    "dare-ties": MergeMethod(
        summary="drop entries at random, elect signs, then sum.",
        keeps="random",
        votes=True,
        mergekit="dare_ties",
        reads=TRIMMED,
    ),
    "breadcrumbs": MergeMethod(
        summary="drop the smallest and the largest entries, then sum.",
        keeps="middle",
        mergekit="breadcrumbs",
        reads=TRIMMED | {"gamma"},
    ),
    "breadcrumbs-ties": MergeMethod(
        summary="drop the smallest and the largest entries, elect signs, then sum.",
        keeps="middle",
        votes=True,
        mergekit="breadcrumbs_ties",
        reads=TRIMMED | {"gamma"},
    ),
    "della": MergeMethod(
        summary="drop entries at random, small ones of a row rather than large ones, elect signs, average.",
        keeps="random",
        normalizes=True,
        mergekit="della",
        reads=TRIMMED,
        rule=MergeRule(rules.della, rows="last", normalizes=False),  # It divides by the weights that agree, as they are written.
    ),
    "della-linear": MergeMethod(
        summary="drop entries at random, small ones of a row rather than large ones, then sum.",
        keeps="random",
        mergekit="della_linear",
        reads=TRIMMED,
        rule=MergeRule(rules.della_linear, rows="last"),
    ),
    "ram": MergeMethod(
        summary="keep what one checkpoint alone changed, average what several did.",
        weighs=True,
        mergekit="ram",
        rule=MergeRule(rules.ram),
    ),
    "ram-plus": MergeMethod(
        summary="the same, and scale up what one alone changed.",
        weighs=True,
        mergekit="ramplus_tl",
        rule=MergeRule(rules.ram_plus, measure=rules.shared_and_unique),
    ),
    "nearswap": MergeMethod(
        summary="from the base to one checkpoint, a step of at most t per entry.",
        weighs=True,
        most=1,
        mergekit="nearswap",
        rule=MergeRule(rules.nearswap),
    ),
    "arcee-fusion": MergeMethod(
        summary="from the base to one checkpoint, in the entries that matter most.",
        weighs=True,
        most=1,
        mergekit="arcee_fusion",
        rule=MergeRule(rules.arcee_fusion, rows="last", measure=rules.importance, quantiles=(0.25, 0.5, 0.75)),
    ),
    "passthrough": MergeMethod(
        summary="one checkpoint as it is, times its weight.",
        most=1,
        needs_base=False,
        whole="always",
        mergekit="passthrough",
        reads=frozenset({"scale"}),
        takes_base=True,
    ),
    "slerp": MergeMethod(
        summary="from one checkpoint to another along the arc between them.",
        coefficients=_along_arc(NEARLY_PARALLEL),
        fewest=2,
        most=2,
        needs_base=False,
        whole="always",
        mergekit="slerp",
        reads=frozenset({"t"}),
    ),
    "nuslerp": MergeMethod(
        summary="the same, of two task vectors.",
        coefficients=_along_arc(PARALLEL),
        fewest=2,
        most=2,
        needs_base=False,
        whole="borrowed",
        mergekit="nuslerp",
        reads=frozenset({"weight", "nuslerp_flatten", "nuslerp_row_wise"}),
    ),
    "nuslerp-rows": MergeMethod(
        summary="the same, row by row.",
        fewest=2,
        most=2,
        needs_base=False,
        whole="borrowed",
        reads=frozenset({"weight", "nuslerp_flatten", "nuslerp_row_wise"}),
        rule=MergeRule(rules.slerp_rows, rows="last"),
    ),
    "nuslerp-columns": MergeMethod(
        summary="the same, column by column.",
        fewest=2,
        most=2,
        needs_base=False,
        whole="borrowed",
        reads=frozenset({"weight", "nuslerp_flatten", "nuslerp_row_wise"}),
        rule=MergeRule(rules.slerp_columns, rows="first", measure=rules.column_products),
    ),
    "karcher": MergeMethod(
        summary="the Karcher mean of whole weights on the sphere.",
        coefficients=karcher_coefficients,
        needs_base=False,
        whole="always",
        mergekit="karcher",
        takes_base=True,
    ),
    "multislerp": MergeMethod(
        summary="a weighted barycentre on the sphere.",
        coefficients=multislerp_coefficients,
        needs_base=False,
        whole="borrowed",
        mergekit="multislerp",
        reads=frozenset({"weight"}),
    ),
    "model-stock": MergeMethod(
        summary="towards the centre as far as the angles say.",
        coefficients=lambda gram, weights: model_stock_coefficients(gram),
        weighs=True,
        fewest=2,
        mergekit="model_stock",
        reads=frozenset({"filter_wise"}),
    ),
    "model-stock-rows": MergeMethod(
        summary="the same, row by row.",
        weighs=True,
        fewest=2,
        reads=frozenset({"filter_wise"}),
        rule=MergeRule(rules.model_stock_rows, rows="last"),
    ),
    "sce": MergeMethod(
        summary="the entries that vary most, weighted by how much of each is selected.",
        keeps="varied",
        votes=True,
        normalizes=True,
        weighs=True,
        mergekit="sce",
        reads=frozenset({"select_topk"}),
    ),
}


def name_of(rule: MergeRule | Callable[..., Any]) -> str:
    """What messages call a rule that has no name of its own."""
    function = rule.combine if isinstance(rule, MergeRule) else rule
    return getattr(function, "__name__", type(function).__name__)


def method_of(name: str | MergeRule | Callable[..., Any]) -> MergeMethod:
    """Return what is built in under a name, or make a method of the user's rule, or of its name.

    Raises:
        GtrTurboError: there is none of that name, or what the user's code holds there is no rule.
    """
    if isinstance(name, str) and name in METHODS:
        return METHODS[name]
    found: Any = find(KIND, name, METHODS) if isinstance(name, str) else name
    return method_of_rule(name if isinstance(name, str) else name_of(name), found)


def own_settings(name: str, method: MergeMethod, given: Mapping[str, Any], k: int) -> dict[str, Any]:
    """Check what is given for a method's own parameters, and fill in defaults.

    Args:
        k: number of checkpoints.

    Raises:
        GtrTurboError: a name that it has not, or one is missing, or is of another kind or size than a built-in method takes.
    """
    known = method.settings
    for key, value in given.items():
        if key not in known:
            has = f"it has {', '.join(known)}." if known else "it has none."
            along = method.measures == "gram" and key in ("t", "weight")
            raise GtrTurboError(f"{name} has no parameter {key}.", "say it by --weights 1−T,T." if along else has)
        if not method.own:
            require_kind(name, key, value, method.kinds[key], k)
    for key, default in known.items():
        if key not in given and default is REQUIRED:
            raise GtrTurboError(f"{name} needs {key}.", f"give it with --parameters {key}=VALUE.")
    return {key: given.get(key, default) for key, default in known.items()}


def require_built_in(name: str, option: str) -> None:
    """Refuse an option that a rule of the user's own does not go with.

    Raises:
        GtrTurboError: the name is of such a rule.
    """
    if method_of(name).own:
        raise GtrTurboError(f"{option} is for methods that are built in, not for {name}.", f"leave out {option}.")


def require_chance(rule: str | MergeRule | Callable[..., Any], seed: int) -> None:
    """Refuse a seed of a rule that leaves nothing to chance.

    Raises:
        GtrTurboError: names the rule.
    """
    method = method_of(rule)
    draws = "noise" in keywords(method.rule.combine) if method.rule else method.keeps == "random"
    if seed and not draws:
        name = rule if isinstance(rule, str) else name_of(rule)
        raise GtrTurboError(f"{name} leaves nothing to chance, got --seed {seed}.", "leave out --seed.")
