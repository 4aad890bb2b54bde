"""A merge method with its settings, for k checkpoints: how tiles become one, and what is measured before."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from gtrturbo.algorithms import rules
from gtrturbo.algorithms.weights import checkpoint_weights
from gtrturbo.config.choices import Sign
from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.method import Measure, MergeMethod, MergeRule
from gtrturbo.merging.methods import method_of, name_of, own_settings
from gtrturbo.merging.operands import RuleInputs, TileRule
from gtrturbo.merging.parameters import without_sign


@dataclass(frozen=True)
class MergePlan:
    """A method with its settings, for k checkpoints.

    Attributes:
        name: of the method, as the user wrote it.
        rule: how tiles become one.
        weights: one per checkpoint, as the rule wants them.
        densities: share of entries that each keeps; 1 where the method trims nothing by magnitude.
        gamma: share of largest entries that is dropped; `gammas` where each checkpoint has its own.
        whole: the inputs count as whole weights, not as task vectors around the base.
        own: parameters of the method's own.
        trim: what the density is a share of: each tensor, or all that is merged.
        thresholds: the magnitude that each checkpoint trims at, where it is one for all tensors and known.
    """

    name: str
    method: MergeMethod
    rule: TileRule
    weights: tuple[float, ...]
    densities: tuple[float, ...]
    gamma: float = 0.0
    gammas: tuple[float, ...] | None = None
    whole: bool = False
    own: Mapping[str, Any] = field(default_factory=dict)
    trim: Literal["tensor", "global"] = "tensor"
    thresholds: tuple[float, ...] | None = None

    @property
    def measures(self) -> Measure | None:
        """What has to be known of a whole tensor before its tiles can be merged."""
        return None if self.method.measures == "ranks" and not self.rule.trims else self.method.measures

    @property
    def scales_base(self) -> bool:
        """Equal weights come out as others: they are summed, and the sum of their factors is not 1."""
        if not self.whole or self.method.coefficients or self.rule.vote or self.method.rule:
            return False
        return abs(math.fsum(self.weights) / self.rule.divisor - 1) > 2**-50

    @property
    def sums(self) -> bool:
        """The merge is Σ wᵢ vᵢ of what is kept of the vectors, not divided by the weights."""
        method = self.method
        other = self.rule.vote or method.votes or method.coefficients or method.rule or method.measures == "variance"
        return not other and self.rule.divisor == 1 and (self.whole or not method.normalizes)

    def ranks(self, entries: int, index: int) -> list[int]:
        """Say which magnitudes bound what is kept of a tensor: [of the smallest kept] or [smallest, largest]; [] keeps none."""
        density = self.densities[index]
        if not density:
            return []
        kept = max(1, int(density * entries))
        if self.method.keeps == "largest":
            return [kept]
        gamma = self.gammas[index] if self.gammas else self.gamma
        top = min(int(gamma * entries), entries - kept)
        return [kept + top, top + 1]

    def coefficients(self, gram: np.ndarray) -> tuple[float, ...]:
        """Coefficients of a geometric method from the inner products of one tensor's vectors. [k, k] float64"""
        assert self.method.coefficients is not None
        return tuple(self.method.coefficients(gram, self.weights, **self.own))

    @property
    def unmeasured(self) -> frozenset[str]:
        """Metrics that such a merge does not have: a rule in Python says nothing of votes, nor of what it keeps."""
        by_rule = {"conflicts", *(["kept"] if not self.rule.trims else [])} if self.method.rule else set()
        whole = {"kept", "changed"} if self.whole else set()
        return frozenset(by_rule | whole | ({"changed"} if self.method.keeps == "varied" else set()))

    @property
    def shares(self) -> list[float] | None:
        """The weights, scaled to sum to 1; None where their sum is 0."""
        total = math.fsum(self.weights)
        return [weight / total for weight in self.weights] if total else None


@dataclass(frozen=True)
class MergeSettings:
    """What a user chooses of a method; see the options of `merge`. `sign` follows from `own`."""

    method: str | MergeRule | Callable[..., Any]
    weights: str = "sma"
    density: str = "0.8"
    scale: float = 1.0
    normalize: bool | None = None
    sign: Sign = "total"
    gamma: float = 0.01
    own: Mapping[str, Any] = field(default_factory=dict)
    trim: Literal["tensor", "global"] = "tensor"


def make_plan(settings: MergeSettings, k: int, *, borrowed: bool = False, whole: bool | None = None) -> MergePlan:
    """Turn a merge's settings into a plan.

    Args:
        settings: what the user chose.
        k: number of checkpoints.
        borrowed: the base only lends its layout: it is one of the checkpoints.
        whole: whether weights are merged as they are, where that is known.

    Raises:
        GtrTurboError: the method takes another number of checkpoints, or settings that do not fit it.
    """
    method = method_of(settings.method)
    name = settings.method if isinstance(settings.method, str) else name_of(settings.method)
    sign, parameters = without_sign(method, settings.own)
    settings = replace(settings, method=name, sign=sign, own=parameters)
    _require_count(name, method, k)
    normalize = method.normalizes if settings.normalize is None else settings.normalize
    _require_fitting(settings, method)
    own = own_settings(name, method, settings.own, k)
    weights = _weights(settings, method, k, normalize=normalize, own=own)
    whole = _is_whole(method, normalize=normalize, borrowed=borrowed) if whole is None else whole
    if whole and settings.scale != 1:
        raise GtrTurboError(
            f"--scale is for task vectors, and {settings.method} merges whole weights here.", "leave out --scale."
        )
    densities = _densities(settings.density, k) if method.keeps else (1.0,) * k
    rule = _tile_rule(settings, method, weights, densities, normalize=normalize, whole=whole)
    if method.keeps == "random" and not method.rule and not own["rescale"]:
        rule = replace(rule, scale=rule.scale * densities[0])
    if method.keeps == "random" and "epsilon" in own:
        _require_chances(name, densities, own["epsilon"])
    compiled = method
    method, own, rule = _in_python(settings, method, own, weights, densities, rule)
    if method is not compiled:
        # Who elects divides by the weights that agree: those that the user wrote, as what agrees may sum to 0.
        weights = checkpoint_weights(settings.weights, k, normalize=normalize and not compiled.votes)
    return MergePlan(
        name=name,
        method=method,
        rule=replace(rule, given=RuleInputs(own, densities, normalize)) if method.rule else rule,
        weights=tuple(weights),
        densities=densities,
        gamma=settings.gamma if method.keeps == "middle" else 0.0,
        whole=whole,
        own=own,
        trim=settings.trim,
    )


def _in_python(
    settings: MergeSettings,
    method: MergeMethod,
    own: dict[str, Any],
    weights: Sequence[float],
    densities: Sequence[float],
    rule: TileRule,
) -> tuple[MergeMethod, dict[str, Any], TileRule]:
    """Let a rule in Python do what the compiled loop of a built-in method does not."""
    if method.rule:
        return method, own, rule
    if method.keeps == "random" and (len(set(densities)) > 1 or not min(densities)):
        stand_in = replace(rule, vote=None, average=False, keep=1.0, trims=False, scale=settings.scale)
        return _with_own_densities(method), own | {"vote": method.votes}, stand_in
    if method.votes and (min(weights) < 0 or (settings.sign == "count" and 0 in weights)):
        return _with_signed_weights(method), {"count": settings.sign == "count"}, replace(rule, vote=None, average=False)
    return method, own, rule


# What stands in for a method where weights are negative or densities differ, which its compiled loop does not do.
def _with_signed_weights(method: MergeMethod) -> MergeMethod:
    """A method that votes, by a rule that takes weights of either sign."""
    return replace(method, votes=False, rule=MergeRule(rules.votes, trims=True))


def _with_own_densities(method: MergeMethod) -> MergeMethod:
    """A method that drops at random, by a rule that takes a density for each checkpoint."""
    return replace(method, votes=False, rule=MergeRule(rules.dare))


def _require_count(name: str, method: MergeMethod, k: int) -> None:
    if method.most is not None and not method.fewest <= k <= method.most:
        count = "one checkpoint" if method.most == 1 else "two checkpoints"
        raise GtrTurboError(f"{name} merges {count}, got {k}.", "for more take multislerp, linear or ties.")
    if k < method.fewest:
        raise GtrTurboError(f"{name} needs two checkpoints or more, got {k}.")


def _require_fitting(settings: MergeSettings, method: MergeMethod) -> None:
    if settings.trim == "global" and method.keeps != "largest":
        raise GtrTurboError(
            f"--trim global is for methods that keep the largest entries, not for {settings.method}.", "leave it out."
        )
    keeps_all = all(part.strip() in ("1", "1.0") for part in settings.density.split(","))
    if settings.density != MergeSettings.density and not keeps_all and not trims(method):
        raise GtrTurboError(f"{settings.method} trims nothing, got --density {settings.density}.", "leave out --density.")
    if settings.gamma != MergeSettings.gamma and method.keeps != "middle":
        raise GtrTurboError(f"--gamma is for breadcrumbs, not for {settings.method}.", "leave it out.")
    if settings.normalize is False and method.measures in ("gram", "variance"):
        raise GtrTurboError(f"{settings.method} has no --no-normalize: only the ratios of weights count.", "leave it out.")
    if method.weighs and settings.weights != "sma":
        raise GtrTurboError(
            f"{settings.method} weighs checkpoints itself, got weights {settings.weights}.", "leave out --weights."
        )


def _require_chances(name: str, densities: Sequence[float], epsilon: float | Sequence[float]) -> None:
    """Refuse probabilities beyond 0 and 1."""
    halves = [epsilon] * len(densities) if isinstance(epsilon, int | float) else epsilon
    for density, half in zip(densities, halves, strict=True):
        if 0 < density < 1 and (density - half <= 0 or density + half >= 1):
            raise GtrTurboError(
                f"{name} keeps entries with probabilities of density − epsilon to density + epsilon, here {density - half:.6g}"
                f" to {density + half:.6g}, which must lie between 0 and 1.",
                f"give a smaller one: --parameters epsilon={min(density, 1 - density) / 2:.6g}",
            )


def trims(method: MergeMethod) -> bool:
    """Tell whether a method makes anything of --density."""
    rule = method.rule
    return bool(method.keeps) or bool(rule and (rule.trims or "densities" in inspect.signature(rule.combine).parameters))


def _weights(settings: MergeSettings, method: MergeMethod, k: int, *, normalize: bool, own: Mapping[str, Any]) -> list[float]:
    normalize = normalize or (method.measures == "gram" and own.get("normalize_weights", True))
    weights = checkpoint_weights(settings.weights, k, normalize=normalize and not _divides_what_agrees(method))
    if not any(weights) and (method.measures == "gram" or method.whole == "summed"):
        raise GtrTurboError(f"all weights of {settings.method} are 0.", "give one that is not.")
    if method.rule or not normalize or not any(weights):
        return weights
    # Relative to the largest, so that equal weights are exactly 1 and entries that cancel sum to exactly 0.
    return [weight / max(map(abs, weights)) for weight in weights]


def _divides_what_agrees(method: MergeMethod) -> bool:
    """Whether a built-in method divides by the weights that agree, if by any: those of all may sum to 0."""
    return method.votes or bool(method.normalizes and method.rule and not method.own and not method.rule.normalizes)


def _tile_rule(
    settings: MergeSettings,
    method: MergeMethod,
    weights: Sequence[float],
    densities: Sequence[float],
    *,
    normalize: bool,
    whole: bool,
) -> TileRule:
    divides = normalize and not method.votes and not method.rule and any(weights)
    return TileRule(
        vote=settings.sign if method.votes else None,
        average=method.votes and normalize,
        divisor=math.fsum(weights) if divides else 1.0,
        keep=densities[0] if method.keeps == "random" and not method.rule else 1.0,
        scale=settings.scale,
        base_factor=0.0 if whole else 1.0,
        trims=method.keeps == "middle"
        or (method.keeps == "random" and not method.rule)
        or (method.keeps == "largest" and min(densities) < 1),
    )


def _is_whole(method: MergeMethod, *, normalize: bool, borrowed: bool) -> bool:
    """As in mergekit: without a base, and where a sum of weights is asked for, θ and not θ − θ_base is what is merged."""
    return {"never": False, "always": True, "borrowed": borrowed, "summed": not normalize}[method.whole]


def _densities(text: str | float, k: int) -> tuple[float, ...]:
    try:
        numbers = [float(part) for part in str(text).split(",")]
    except ValueError:
        raise GtrTurboError(f"density must be a number, or one per checkpoint such as 0.8,0.5, got {text}.") from None
    if len(numbers) not in (1, k):
        raise GtrTurboError(f"density has {len(numbers)} numbers for {k} checkpoints.", "give one, or one per checkpoint.")
    if not all(0 <= number <= 1 for number in numbers):
        raise GtrTurboError(f"density must be in [0, 1], got {text}.")
    return tuple(numbers * (k // len(numbers)))
