"""The merge methods by name, and the seam for a rule of the user's own.

`METHODS` is the one place that tells methods apart: the rest of the package asks a record, never for a name. The formulas, one
pure function each, are in `algorithms.merging`, `algorithms.ties` and `algorithms.geometry`.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gtrturbo.algorithms.geometry import model_stock_coefficients, multislerp_coefficients, slerp_coefficients
from gtrturbo.errors import GtrTurboError
from gtrturbo.plugins import find

if TYPE_CHECKING:
    from torch import Tensor  # Takes seconds to import, and the compiled loops do without.

KIND = "merge rule"
Measure = Literal["ranks", "gram", "variance"]
# Cosine above which two vectors are joined by a straight line: mergekit's for SLERP, or only where the arc cannot be told.
NEARLY_PARALLEL, PARALLEL = 0.9995, 1 - 2**-53


@dataclass(frozen=True)
class MergeRule:
    """A merge rule of the user's own, for `merge --method path/to/file.py:NAME`; a function alone is `MergeRule(function)`.

    Attributes:
        combine: (task_vectors [k, n], weights [k]) -> merged task vector [n]; float64 in, any floating type out. It is called
            with a tile of a tensor at a time, so an entry of the result may depend on the same entry of the checkpoints alone,
            and by several threads at once, so it keeps nothing between calls. The result is base + scale · merged.
        trims: entries below the magnitude that --density keeps of a checkpoint's whole tensor are 0 when `combine` sees them.
        normalizes: weights sum to 1 unless --no-normalize says otherwise; else they are as the user wrote them.
    """

    combine: "Callable[[Tensor, Tensor], Tensor]"
    trims: bool = False
    normalizes: bool = True


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
        recursive, running_sums: --recursive and --state stand for it.
        mergekit: its name in mergekit's recipes.
        rule: of the user's own; the loops of the others are compiled.
    """

    summary: str
    keeps: Literal["largest", "middle", "random", "varied"] | None = None
    votes: bool = False
    normalizes: bool = False
    coefficients: Callable[[np.ndarray, Sequence[float]], list[float]] | None = None
    weighs: bool = False
    fewest: int = 1
    most: int | None = None
    needs_base: bool = True
    whole: Literal["never", "always", "borrowed", "summed"] = "never"
    recursive: bool = False
    running_sums: bool = False
    mergekit: str | None = None
    rule: MergeRule | None = None

    @property
    def measures(self) -> Measure | None:
        """What has to be known of a whole tensor before its tiles can be merged."""
        if self.coefficients:
            return "gram"
        if self.keeps == "varied":
            return "variance"
        return "ranks" if self.keeps in ("largest", "middle") else None

    @property
    def needs_vectors(self) -> bool:
        """All vectors of a tile lie in memory at once, in float64."""
        return self.measures in ("gram", "variance") or self.rule is not None


def _along_arc(lerp_above: float) -> Callable[[np.ndarray, Sequence[float]], list[float]]:
    def coefficients(gram: np.ndarray, weights: Sequence[float]) -> list[float]:
        return slerp_coefficients(gram, t=weights[1] / math.fsum(weights), lerp_above=lerp_above)

    return coefficients


# Which method normalises by default is as in mergekit.
METHODS: dict[str, MergeMethod] = {
    "ties": MergeMethod(
        summary="trim, elect signs, average; the paper's.",
        keeps="largest",
        votes=True,
        normalizes=True,
        recursive=True,
        running_sums=True,
        mergekit="ties",
    ),
    "linear": MergeMethod(
        summary="weighted mean.",
        normalizes=True,
        needs_base=False,
        whole="summed",
        recursive=True,
        mergekit="linear",
    ),
    "task-arithmetic": MergeMethod(
        summary="weighted sum.",
        mergekit="task_arithmetic",
    ),
    "dare-linear": MergeMethod(
        summary="drop entries at random, then sum.",
        keeps="random",
        mergekit="dare_linear",
    ),
    "dare-ties": MergeMethod(
        summary="drop entries at random, elect signs, then sum.",
        keeps="random",
        votes=True,
        mergekit="dare_ties",
    ),
    "breadcrumbs": MergeMethod(
        summary="drop the smallest and the largest entries, then sum.",
        keeps="middle",
        mergekit="breadcrumbs",
    ),
    "slerp": MergeMethod(
        summary="from one checkpoint to another along the arc between them.",
        coefficients=_along_arc(NEARLY_PARALLEL),
        fewest=2,
        most=2,
        needs_base=False,
        whole="always",
        mergekit="slerp",
    ),
    "nuslerp": MergeMethod(
        summary="the same, of two task vectors.",
        coefficients=_along_arc(PARALLEL),
        fewest=2,
        most=2,
        needs_base=False,
        whole="borrowed",
        mergekit="nuslerp",
    ),
    "multislerp": MergeMethod(
        summary="a weighted barycentre on the sphere.",
        coefficients=multislerp_coefficients,
        needs_base=False,
        whole="borrowed",
        mergekit="multislerp",
    ),
    "model-stock": MergeMethod(
        summary="towards the centre as far as the angles say.",
        coefficients=lambda gram, weights: model_stock_coefficients(gram),
        weighs=True,
        fewest=2,
        mergekit="model_stock",
    ),
    "sce": MergeMethod(
        summary="the entries that vary most, weighted by how much of each is selected.",
        keeps="varied",
        votes=True,
        normalizes=True,
        weighs=True,
        mergekit="sce",
    ),
}


def method_of(name: str) -> MergeMethod:
    """Return what is built in under a name, or make a method of the user's rule.

    Raises:
        GtrTurboError: there is none of that name, or what the user's code holds there is no rule.
    """
    if name in METHODS:
        return METHODS[name]
    found: Any = find(KIND, name, METHODS)
    rule = found if isinstance(found, MergeRule) else MergeRule(found)
    _require_function(name, rule.combine)
    return MergeMethod(
        summary=rule.combine.__doc__ or "", keeps="largest" if rule.trims else None, normalizes=rule.normalizes, rule=rule
    )


def require_built_in(name: str, option: str) -> None:
    """Refuse an option that a rule of the user's own does not go with.

    Raises:
        GtrTurboError: the name is of such a rule.
    """
    if method_of(name).rule:
        raise GtrTurboError(f"{option} is for methods that are built in, not for {name}.", f"leave out {option}.")


def _require_function(name: str, combine: Any) -> None:
    contract = "it must be a function (task_vectors [k, n], weights [k]) -> [n], or a MergeRule of one."
    if not callable(combine):
        raise GtrTurboError(f"{name} is no {KIND} but of type {type(combine).__name__}.", contract)
    try:
        inspect.signature(combine).bind(None, None)
    except (TypeError, ValueError) as error:
        raise GtrTurboError(f"{name} cannot be called as a {KIND}: {error}.", contract) from None
