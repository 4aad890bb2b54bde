"""What an episode pays."""

import math
from collections.abc import Iterable

ROUNDING = 1e-12


def undiscounted(rewards: Iterable[float]) -> float:
    """Return the sum of an episode's rewards, and 0 where rewards cancel but for the rounding of their decimals.

    0.1 + 0.2 - 0.3 of binary numbers is above 0, and would count as a positive return.
    """
    paid = list(rewards)
    total = math.fsum(paid)
    return 0.0 if abs(total) < ROUNDING * math.fsum(map(abs, paid)) else total
