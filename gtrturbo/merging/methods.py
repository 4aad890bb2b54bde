"""The merge methods by name, and the seam for a rule of the user's own.

`METHODS` is the one place that tells methods apart: the rest of the package asks a record, never for a name. The formulas, one
pure function each, are in `algorithms.merging`, `algorithms.ties` and `algorithms.geometry`.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gtrturbo.algorithms import rules
from gtrturbo.algorithms.geometry import (
    karcher_coefficients,
    model_stock_coefficients,
    multislerp_coefficients,
    slerp_coefficients,
)
from gtrturbo.errors import GtrTurboError
from gtrturbo.plugins import find

if TYPE_CHECKING:
    from torch import Tensor  # Takes seconds to import, and the compiled loops do without.

KIND = "merge rule"
Measure = Literal["ranks", "gram", "variance", "sums", "quantiles"]
# What a rule asks for by the name of a keyword-only argument; its other ones are settings of its own.
ASKED = {"base", "noise", "densities", "normalize", "measured"}
REQUIRED = inspect.Parameter.empty
# Cosine above which two vectors are joined by a straight line: mergekit's for SLERP, or only where the arc cannot be told.
NEARLY_PARALLEL, PARALLEL = 0.9995, 1 - 2**-53


@dataclass(frozen=True)
class MergeRule:
    """A merge rule of the user's own, for `merge --method path/to/file.py:NAME`; a function alone is `MergeRule(function)`.

    Attributes:
        combine: (task_vectors [k, n], weights [k], *, …) -> merged task vector [n]; float64 in, any floating type out. It is
            called with a tile of a tensor at a time, so an entry of the result may depend on the same entry of the checkpoints
            alone, and by several threads at once, so it keeps nothing between calls. The result is base + scale · merged.
            Keyword-only arguments ask for more: `base` [n], the base's weights; `noise` [k, n], uniform in [0, 1) and the same
            however the work is cut; `densities` [k]; `normalize`, whether to divide by weights; `measured`, see there. Any other
            is a setting of its own, with its default, which `--parameters NAME=VALUE` and recipes set.
        trims: entries below the magnitude that --density keeps of a checkpoint's whole tensor are 0 when `combine` sees them.
        normalizes: weights sum to 1 unless --no-normalize says otherwise; else they are as the user wrote them.
        rows: tiles are whole rows, and arrive as [k, rows, c]: c entries of the `last` axis, or of all axes but the `first`.
        measure: called as `combine` is, with all tiles of a tensor before any is merged. What it returns [m] is added up and
            given to `combine` as `measured` [m].
        quantiles: `measure` gives one number of at least 0 per entry [n] instead, and `measured` are the entries at these shares
            of their sorted order.
    """

    combine: "Callable[..., Tensor]"
    trims: bool = False
    normalizes: bool = True
    rows: Literal["last", "first"] | None = None
    measure: "Callable[..., Tensor] | None" = None
    quantiles: tuple[float, ...] = ()

    def row_width(self, shape: Sequence[int]) -> int:
        """Entries of a row of a tensor; 0 where rows do not matter."""
        if self.rows is None:
            return 0
        return math.prod(shape[1:]) if self.rows == "first" else (shape[-1] if shape else 1)


@dataclass(frozen=True, kw_only=True)
class MergeMethod:
    """What a merge needs to know of a method.

    Attributes:
        summary: what it does, in a sentence for the help.
        keeps: the entries of a task vector that --density keeps: the largest; those that are neither small nor among the very
            largest; random ones; those that vary most over the checkpoints. None: all.
        votes: entries that disagree with the elected sign are left out.
        normalizes: divides by the weights unless --no-normalize is given.
        coefficients: gives one number per checkpoint from the inner products of a tensor's vectors and the weights.
        weighs: it finds the weights itself.
        fewest, most: checkpoints that it takes.
        needs_base: where no base is known, no checkpoint can lend its layout.
        whole: when weights are merged as they are, not as task vectors around the base: never, always, where the base is borrowed
            from a checkpoint, or where weights are summed instead of averaged.
        running_sums: --state stands for it.
        mergekit: its name in mergekit's recipes.
        takes_base: in a recipe the base is merged as the others are: mergekit knows no task vectors there.
        reads: what a recipe says of it besides `settings`, by mergekit's names.
        rule: in Python, built in or of the user's own; the loops of the others are compiled.
        own: the rule is the user's.
    """

    summary: str
    keeps: Literal["largest", "middle", "random", "varied"] | None = None
    votes: bool = False
    normalizes: bool = False
    coefficients: Callable[..., list[float]] | None = None
    weighs: bool = False
    fewest: int = 1
    most: int | None = None
    needs_base: bool = True
    whole: Literal["never", "always", "borrowed", "summed"] = "never"
    running_sums: bool = False
    mergekit: str | None = None
    takes_base: bool = False
    reads: frozenset[str] = frozenset()
    rule: MergeRule | None = None
    own: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """Parameters of its own, with their defaults; REQUIRED where there is none."""
        function = self.rule.combine if self.rule else self.coefficients
        found = settings_of(function) if function else {"rescale": True} if self.keeps == "random" else {}
        if self.rule and self.rule.measure:
            found |= settings_of(self.rule.measure)
        return found

    @property
    def measures(self) -> Measure | None:
        """What has to be known of a whole tensor before its tiles can be merged."""
        if self.coefficients:
            return "gram"
        if self.rule and self.rule.measure:
            return "quantiles" if self.rule.quantiles else "sums"
        if self.keeps == "varied":
            return "variance"
        return "ranks" if self.keeps in ("largest", "middle") else None

    @property
    def needs_vectors(self) -> bool:
        """All vectors of a tile lie in memory at once, in float64."""
        return self.measures in ("gram", "variance") or self.rule is not None


def keywords(function: Callable[..., Any]) -> dict[str, Any]:
    """The keyword-only arguments of a function, with their defaults."""
    found = inspect.signature(function).parameters.values()
    return {each.name: each.default for each in found if each.kind is inspect.Parameter.KEYWORD_ONLY}


def settings_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The parameters of its own that a rule has, with their defaults."""
    return {name: default for name, default in keywords(function).items() if name not in ASKED}


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
        rule=MergeRule(rules.della, rows="last"),
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


# What stands in for a method where weights are negative or densities differ, which its compiled loop does not do.
def with_signed_weights(method: MergeMethod) -> MergeMethod:
    """A method that votes, by a rule that takes weights of either sign."""
    return replace(method, votes=False, rule=MergeRule(rules.votes, trims=True))


def with_own_densities(method: MergeMethod) -> MergeMethod:
    """A method that drops at random, by a rule that takes a density for each checkpoint."""
    return replace(method, votes=False, rule=MergeRule(rules.dare))


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
    name = name if isinstance(name, str) else name_of(name)
    rule = found if isinstance(found, MergeRule) else MergeRule(found)
    _require_function(name, rule.combine)
    if rule.measure:
        _require_function(name, rule.measure)
    if rule.trims and rule.measure:
        raise GtrTurboError(f"{name} trims and measures.", "a rule does one of the two.")
    return MergeMethod(
        summary=rule.combine.__doc__ or "",
        keeps=_kept_by(rule),
        normalizes=rule.normalizes,
        rule=rule,
        own=True,
    )


def _kept_by(rule: MergeRule) -> Literal["largest", "random"] | None:
    if rule.trims:
        return "largest"
    return "random" if {"noise", "densities"} & keywords(rule.combine).keys() else None


def own_settings(name: str, method: MergeMethod, given: Mapping[str, Any]) -> dict[str, Any]:
    """Check what is given for a method's own parameters, and fill in defaults.

    Raises:
        GtrTurboError: a name that it has not, or one is missing.
    """
    known = method.settings
    for key in given:
        if key not in known:
            has = f"it has {', '.join(known)}." if known else "it has none."
            raise GtrTurboError(f"{name} has no parameter {key}.", has)
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


def _require_function(name: str, combine: Any) -> None:
    contract = "it must be a function (task_vectors [k, n], weights [k], *, …) -> [n], or a MergeRule of one."
    if not callable(combine):
        raise GtrTurboError(f"{name} is no {KIND} but of type {type(combine).__name__}.", contract)
    try:
        named = dict.fromkeys(keywords(combine))
        inspect.signature(combine).bind(None, None, **named)
    except (TypeError, ValueError) as error:
        raise GtrTurboError(f"{name} cannot be called as a {KIND}: {error}.", contract) from None
