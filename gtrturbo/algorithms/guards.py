"""What keeps ratios far from 1 out of an update, beside PPO's own clip: each guard is a record of numbers.

All that is needed of PyTorch are methods of its tensors: so a plan of stages is checked against `GUARDS` without loading it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gtrturbo.config.choices import NO_GUARD

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Guard:
    """Bounds of the ratio ρ = π_new / π_old beside 1 ± ε: beyond a bound it counts as the bound, without gradient.

    Attributes:
        dual_clip: c, upper bound where Â < 0, so that L ≤ c |Â|. Ye et al., "Mastering Complex Control in MOBA Games with Deep
            Reinforcement Learning" (arXiv 1912.09729), equation 5, with c = 3.
        largest_log_ratio: bound of |log ρ|, in nats, so that ρ does not overflow; 20 in verl's policy losses.
        largest_ratio: in a minibatch with a ratio above it the clipped surrogate alone counts, −clip(ρ, 1 − ε, 1 + ε) Â; 10 in
            RL4VLM's published code, which GTR's and GTR-Turbo's are made of.
        clipped_only: it alone counts, whatever the ratios.

    Raises:
        ValueError: a bound that does not leave ρ = 1 inside.
    """

    dual_clip: float | None = None
    largest_log_ratio: float | None = None
    largest_ratio: float | None = None
    clipped_only: bool = False

    def __post_init__(self) -> None:
        for name, least in (("dual_clip", 1), ("largest_log_ratio", 0), ("largest_ratio", 1)):
            bound = getattr(self, name)
            if bound is not None and not bound > least:
                raise ValueError(f"{name} must be above {least}, got {bound}.")

    def tripped(self, largest: float) -> bool:
        """Tell whether a minibatch with this largest ratio is to be done again by `strict`."""
        return self.largest_ratio is not None and largest > self.largest_ratio

    @property
    def strict(self) -> Guard:
        return replace(self, largest_ratio=None, clipped_only=True)

    def ratio_range(self, advantages: Tensor, *, clip_range: float) -> tuple[Tensor, Tensor]:
        """Return the least and the largest ratio that have a gradient. [B] each

        PPO's own, of which the minimum in L binds on one side only: up to 1 + ε if Â > 0, from 1 − ε if Â < 0.
        """
        near = 1 + clip_range * advantages.sign()
        low, high = near.where(advantages < 0, 0.0), near.where(advantages > 0, math.inf)
        if self.clipped_only:
            low, high = low.clamp(min=1 - clip_range), high.clamp(max=1 + clip_range)
        if self.dual_clip is not None:
            high = high.clamp(max=self.dual_clip).where(advantages < 0, high)
        if self.largest_log_ratio is not None:
            low = low.clamp(min=math.exp(-self.largest_log_ratio))
            high = high.clamp(max=math.exp(min(self.largest_log_ratio, LARGEST_EXPONENT)))
        return low, high


LARGEST_EXPONENT = 88.0  # of e that float32 holds

GUARDS = {
    NO_GUARD: Guard(),
    "dual-clip": Guard(dual_clip=3.0),
    "clipped-only": Guard(largest_ratio=10.0),
    "log-ratio": Guard(largest_log_ratio=20.0),
}
