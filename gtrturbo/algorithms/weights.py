"""How much each checkpoint counts."""

import math
from collections.abc import Sequence

from gtrturbo.config.digits import real
from gtrturbo.errors import GtrTurboError

LARGEST_WEIGHT = 1e9
LEAST = 1e-8  # of the weights' size: a sum below it is 0 but for rounding


def checkpoint_weights(spec: str, k: int, *, normalize: bool = True) -> list[float]:
    """Read the weights of k checkpoints, oldest first, from what the user wrote.

    "sma":        w_i = 1
    "ema:ALPHA":  w_i = α (1 − α)^(k − 1 − i), α in (0, 1]; the newest weighs most
    "0.2,0.8":    one number per checkpoint, of either sign; all 0 stay so

    Args:
        spec: one of these.
        k: number of checkpoints.
        normalize: scale to sum to 1.

    Raises: GtrTurboError: the text is none of these.

    Source: GTR-Turbo (arXiv 2512.13043), checkpoint merging, SMA and EMA.
    """
    if spec == "sma":
        weights = [1.0] * k
    elif spec.startswith("ema:"):
        alpha = ema_alpha(spec)
        weights = [alpha * (1 - alpha) ** (k - 1 - i) for i in range(k)]
    else:
        weights = _explicit(spec, k)
    total = math.fsum(weights) if normalize and any(weights) else 1.0
    if abs(total) < LEAST * max(map(abs, weights)):
        raise GtrTurboError(f"weights {spec} sum to 0, and so cannot be divided by their sum.", "give others, or --no-normalize.")
    return [weight / total for weight in weights]


def ema_alpha(spec: str) -> float:
    """Read α of "ema:ALPHA"."""
    alpha = _number(spec.removeprefix("ema:"), spec)
    if not 0 < alpha <= 1:
        raise GtrTurboError(f"alpha of ema must be in (0, 1], got {alpha:g}.", "try ema:0.5, the paper's best.")
    return alpha


def _explicit(spec: str, k: int) -> list[float]:
    weights = [_number(text, spec) for text in spec.split(",")]
    if len(weights) != k:
        raise GtrTurboError(f"weights has {len(weights)} numbers for {k} checkpoints.", "give one per checkpoint.")
    if not all(map(math.isfinite, weights)):
        raise GtrTurboError(f"weights must be finite, got {spec}.", "leave a checkpoint out to ignore it.")
    if max(map(abs, weights)) > LARGEST_WEIGHT:
        raise GtrTurboError(
            f"weights must be at most {LARGEST_WEIGHT:g} in size, got {spec}.", "only their ratios count in a mean."
        )
    return weights


def _number(text: str, spec: str) -> float:
    number = real(text.strip())
    if number is None:
        raise GtrTurboError(f"weights must be sma, ema:ALPHA or numbers such as 0.2,0.8, got {spec}.")
    return number


def selected_shares(squares: Sequence[float]) -> list[float]:
    """Return the weights of SCE's checkpoints: shares of the squared norm of what was selected; equal where nothing moved."""
    total = math.fsum(squares)
    return [square / total for square in squares] if total > 0 else [1.0] * len(squares)
