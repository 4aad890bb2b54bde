"""The methods by name: what each asks of the streamed tiles. The formulas, one pure function each, are in algorithms.merging."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from gtrturbo.algorithms.geometry import model_stock_coefficients, multislerp_coefficients, slerp_coefficients
from gtrturbo.algorithms.weights import checkpoint_weights
from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.operands import Rule

TRIMMED = ("ties", "breadcrumbs")
DROPPED = ("dare-linear", "dare-ties")
VOTING = ("ties", "dare-ties", "sce")
NORMALIZED = ("linear", "ties", "sce")  # by default, as in mergekit
GEOMETRIC = ("slerp", "nuslerp", "multislerp", "model-stock")
PAIRS = ("slerp", "nuslerp")


@dataclass(frozen=True)
class Plan:
    """A method with its settings, for k checkpoints.

    Attributes:
        rule: how tiles become one.
        weights: one per checkpoint, as the rule wants them.
        densities: share of entries that each keeps; 1 where the method trims nothing by magnitude.
        gamma: breadcrumbs' share of largest entries that is dropped.
        whole: the inputs count as whole weights, not as task vectors around the base.
    """

    method: str
    rule: Rule
    weights: tuple[float, ...]
    densities: tuple[float, ...]
    gamma: float = 0.0
    whole: bool = False

    @property
    def lerp_above(self) -> float:
        """Cosine above which two vectors are joined by a straight line: SLERP's, or only where the arc cannot be told."""
        return 0.9995 if self.method == "slerp" else 1 - 2**-53

    @property
    def measures(self) -> Literal["ranks", "gram", "variance"] | None:
        """What has to be known of a whole tensor before its tiles can be merged."""
        if self.method in GEOMETRIC:
            return "gram"
        if self.method == "sce":
            return "variance"
        return "ranks" if self.rule.trims and self.method not in DROPPED else None

    def ranks(self, entries: int, index: int) -> list[int]:
        """Say which magnitudes bound what is kept of a tensor: [of the smallest kept] or [smallest, largest]."""
        density = self.densities[index]
        kept = max(1, int(density * entries))
        if self.method != "breadcrumbs":
            return [kept]
        top = min(int(self.gamma * entries), entries - kept)
        return [kept + top, top + 1]

    def coefficients(self, gram: np.ndarray) -> tuple[float, ...]:
        """Coefficients of a geometric method from the inner products of one tensor's vectors. [k, k] float64"""
        if self.method == "model-stock":
            return tuple(model_stock_coefficients(gram))
        if self.method in PAIRS:
            return tuple(slerp_coefficients(gram, t=self.weights[1] / math.fsum(self.weights), lerp_above=self.lerp_above))
        return tuple(multislerp_coefficients(gram, self.weights))


@dataclass(frozen=True)
class Settings:
    """What a user chooses of a method; see the options of `merge`."""

    method: str
    weights: str = "sma"
    density: str = "0.8"
    scale: float = 1.0
    normalize: bool | None = None
    sign: Literal["total", "count"] = "total"
    gamma: float = 0.01


def make_plan(config: Settings, k: int, *, borrowed: bool = False) -> Plan:
    """Turn a merge's settings into a plan.

    Args:
        config: the settings.
        k: number of checkpoints.
        borrowed: the base only lends its layout: it is one of the checkpoints.

    Raises:
        GtrTurboError: the method takes another number of checkpoints, or settings that do not fit it.
    """
    method = config.method
    _require_count(method, k)
    normalize = method in NORMALIZED if config.normalize is None else config.normalize
    if config.normalize is False and method in (*GEOMETRIC, "sce"):
        raise GtrTurboError(f"{method} has no --no-normalize: only the ratios of weights count.", "leave it out.")
    if method in ("model-stock", "sce") and config.weights != "sma":
        raise GtrTurboError(f"{method} weighs checkpoints itself, got weights {config.weights}.", "leave out --weights.")
    weights = checkpoint_weights(config.weights, k, normalize=normalize or method in GEOMETRIC)
    if method in VOTING and min(weights) < 0:
        raise GtrTurboError(f"weights of {method} must not be negative, got {config.weights}.")
    densities = _densities(config.density, k) if method in TRIMMED + DROPPED + ("sce",) else (1.0,) * k
    if normalize or method in GEOMETRIC:
        # Relative to the largest, so that equal weights are exactly 1 and entries that cancel sum to exactly 0.
        weights = [weight / max(map(abs, weights)) for weight in weights]
    total = math.fsum(weights)
    if normalize and abs(total) < 1e-8:
        raise GtrTurboError(f"weights sum to 0: {config.weights}.", "add --no-normalize, or change --weights.")
    rule = Rule(
        vote=config.sign if method in VOTING else None,
        average=method in VOTING and normalize,
        divisor=total if normalize and method not in VOTING else 1.0,
        keep=1.0,
        scale=config.scale,
        trims=method == "breadcrumbs" or (method in TRIMMED and min(densities) < 1) or method in DROPPED,
    )
    if method in DROPPED:
        if len(set(densities)) > 1:
            raise GtrTurboError(f"{method} takes one density for all checkpoints, got {config.density}.")
        rule = replace(rule, keep=densities[0])
    # As in mergekit: without a base, and where a sum of weights is asked for, θ and not θ − θ_base is what is merged.
    whole = method == "slerp" or (method in ("nuslerp", "multislerp") and borrowed) or (method == "linear" and not normalize)
    if whole and config.scale != 1:
        raise GtrTurboError(f"--scale is for task vectors, and {method} merges whole weights here.", "leave out --scale.")
    return Plan(
        method=method,
        rule=replace(rule, base_factor=0.0 if whole else 1.0),
        weights=tuple(weights),
        densities=densities,
        gamma=config.gamma if method == "breadcrumbs" else 0.0,
        whole=whole,
    )


def _require_count(method: str, k: int) -> None:
    if method in PAIRS and k != 2:
        raise GtrTurboError(f"{method} merges two checkpoints, got {k}.", "for more take multislerp, linear or ties.")
    if method == "model-stock" and k < 2:
        raise GtrTurboError(f"model-stock needs two checkpoints or more, got {k}.")


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


def sce_weights(squares: Sequence[float]) -> list[float]:
    """Weights of SCE's checkpoints: shares of squared norm of what was selected; equal where nothing moved."""
    total = math.fsum(squares)
    return [square / total for square in squares] if total > 0 else [1.0] * len(squares)
