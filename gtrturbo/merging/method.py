"""What a merge needs to know of a method, and of a rule in Python that one may be."""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor  # Takes seconds to import, and the compiled loops do without.

Measure = Literal["ranks", "gram", "variance", "sums", "quantiles"]
# What a rule asks for by the name of a keyword-only argument; its other ones are settings of its own.
ASKED = {"base", "noise", "densities", "normalize", "measured"}


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
        sums: so many numbers per entry are all that the result depends on, and --state can keep them. Then `add` makes them, and
            `combine` is (sums [m, n], *, …) -> merged task vector [n].
        add: (sums [m, n], task_vector [n], weight) -> sums [m, n] with one more checkpoint; they begin with 0. Weights are as the
            user wrote them, so what they add up to is one of the sums where that matters.
    """

    combine: "Callable[..., Tensor]"
    trims: bool = False
    normalizes: bool = True
    rows: Literal["last", "first"] | None = None
    measure: "Callable[..., Tensor] | None" = None
    quantiles: tuple[float, ...] = ()
    sums: int = 0
    add: "Callable[..., Tensor] | None" = None

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
    def kinds(self) -> dict[str, str]:
        """What parameters of its own are, as the functions of a built-in method annotate them."""
        functions = [self.rule.combine, self.rule.measure] if self.rule else [self.coefficients]
        given = [each for function in functions if function for each in inspect.signature(function).parameters.values()]
        own = [each for each in given if each.kind is inspect.Parameter.KEYWORD_ONLY and each.name not in ASKED]
        kinds = {each.name: each.annotation for each in own}
        return {name: kind if isinstance(kind, str) else kind.__name__ for name, kind in kinds.items()} or {"rescale": "bool"}

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
