"""A merge method with its settings, for k checkpoints: how tiles become one, and what is measured before."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gtrturbo.algorithms.weights import checkpoint_weights
from gtrturbo.config.choices import Sign
from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.methods import Measure, MergeMethod, method_of
from gtrturbo.merging.operands import TileRule


@dataclass(frozen=True)
class MergePlan:
    """A method with its settings, for k checkpoints.

    Attributes:
        name: of the method, as the user wrote it.
        rule: how tiles become one.
        weights: one per checkpoint, as the rule wants them.
        densities: share of entries that each keeps; 1 where the method trims nothing by magnitude.
        gamma: share of largest entries that is dropped.
        whole: the inputs count as whole weights, not as task vectors around the base.
    """

    name: str
    method: MergeMethod
    rule: TileRule
    weights: tuple[float, ...]
    densities: tuple[float, ...]
    gamma: float = 0.0
    whole: bool = False

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

    def ranks(self, entries: int, index: int) -> list[int]:
        """Say which magnitudes bound what is kept of a tensor: [of the smallest kept] or [smallest, largest]."""
        density = self.densities[index]
        kept = max(1, int(density * entries))
        if self.method.keeps == "largest":
            return [kept]
        top = min(int(self.gamma * entries), entries - kept)
        return [kept + top, top + 1]

    def coefficients(self, gram: np.ndarray) -> tuple[float, ...]:
        """Coefficients of a geometric method from the inner products of one tensor's vectors. [k, k] float64"""
        assert self.method.coefficients is not None
        return tuple(self.method.coefficients(gram, self.weights))

    @property
    def shares(self) -> list[float] | None:
        """The weights, scaled to sum to 1; None where their sum is 0."""
        total = math.fsum(self.weights)
        return [weight / total for weight in self.weights] if total else None


@dataclass(frozen=True)
class MergeSettings:
    """What a user chooses of a method; see the options of `merge`."""

    method: str
    weights: str = "sma"
    density: str = "0.8"
    scale: float = 1.0
    normalize: bool | None = None
    sign: Sign = "total"
    gamma: float = 0.01


def make_plan(settings: MergeSettings, k: int, *, borrowed: bool = False) -> MergePlan:
    """Turn a merge's settings into a plan.

    Args:
        settings: what the user chose.
        k: number of checkpoints.
        borrowed: the base only lends its layout: it is one of the checkpoints.

    Raises:
        GtrTurboError: the method takes another number of checkpoints, or settings that do not fit it.
    """
    method = method_of(settings.method)
    _require_count(settings.method, method, k)
    normalize = method.normalizes if settings.normalize is None else settings.normalize
    _require_fitting(settings, method)
    weights = _weights(settings, method, k, normalize=normalize)
    whole = _is_whole(method, normalize=normalize, borrowed=borrowed)
    if whole and settings.scale != 1:
        raise GtrTurboError(
            f"--scale is for task vectors, and {settings.method} merges whole weights here.", "leave out --scale."
        )
    densities = _densities(settings.density, k) if method.keeps else (1.0,) * k
    return MergePlan(
        name=settings.method,
        method=method,
        rule=_tile_rule(settings, method, weights, densities, normalize=normalize, whole=whole),
        weights=tuple(weights),
        densities=densities,
        gamma=settings.gamma if method.keeps == "middle" else 0.0,
        whole=whole,
    )


def _require_count(name: str, method: MergeMethod, k: int) -> None:
    if method.most is not None and not method.fewest <= k <= method.most:
        raise GtrTurboError(f"{name} merges two checkpoints, got {k}.", "for more take multislerp, linear or ties.")
    if k < method.fewest:
        raise GtrTurboError(f"{name} needs two checkpoints or more, got {k}.")


def _require_fitting(settings: MergeSettings, method: MergeMethod) -> None:
    if settings.normalize is False and method.measures in ("gram", "variance"):
        raise GtrTurboError(f"{settings.method} has no --no-normalize: only the ratios of weights count.", "leave it out.")
    if method.weighs and settings.weights != "sma":
        raise GtrTurboError(
            f"{settings.method} weighs checkpoints itself, got weights {settings.weights}.", "leave out --weights."
        )


def _weights(settings: MergeSettings, method: MergeMethod, k: int, *, normalize: bool) -> list[float]:
    normalize = normalize or method.measures == "gram"
    weights = checkpoint_weights(settings.weights, k, normalize=normalize)
    if method.votes and min(weights) < 0:
        raise GtrTurboError(f"weights of {settings.method} must not be negative, got {settings.weights}.")
    if method.rule or not normalize:
        return weights
    # Relative to the largest, so that equal weights are exactly 1 and entries that cancel sum to exactly 0.
    return [weight / max(map(abs, weights)) for weight in weights]


def _tile_rule(
    settings: MergeSettings,
    method: MergeMethod,
    weights: Sequence[float],
    densities: Sequence[float],
    *,
    normalize: bool,
    whole: bool,
) -> TileRule:
    if method.keeps == "random" and len(set(densities)) > 1:
        raise GtrTurboError(f"{settings.method} takes one density for all checkpoints, got {settings.density}.")
    divides = normalize and not method.votes and not method.rule
    return TileRule(
        vote=settings.sign if method.votes else None,
        average=method.votes and normalize,
        divisor=math.fsum(weights) if divides else 1.0,
        keep=densities[0] if method.keeps == "random" else 1.0,
        scale=settings.scale,
        base_factor=0.0 if whole else 1.0,
        trims=method.keeps in ("middle", "random") or (method.keeps == "largest" and min(densities) < 1),
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
    if not all(0 < number <= 1 for number in numbers):
        raise GtrTurboError(f"density must be in (0, 1], got {text}.")
    return tuple(numbers * (k // len(numbers)))
