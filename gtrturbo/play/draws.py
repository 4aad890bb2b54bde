"""Refuse replies that were not sampled from the distribution that they are to be learned from, or judged by."""

from collections.abc import Sequence

from gtrturbo.algorithms.sampled import TOO_MUCH, Drawn
from gtrturbo.errors import GtrTurboError


def require_drawn(found: Drawn, whose: str, *, temperatures: Sequence[float], tokens: int) -> None:
    """Refuse tokens that are too much likelier another way than as samples.

    Args:
        found: how they compare.
        whose: replies they are, as an error says it.
        temperatures: at which they are to be sampled.
        tokens: how many there are.

    Raises:
        GtrTurboError: they are not sampled so.
    """
    if found.evidence <= TOO_MUCH:
        return
    at = " and ".join(f"{temperature:g}" for temperature in temperatures)
    raise GtrTurboError(
        f"{whose} are not sampled from what the checkpoint finds likely at temperature {at}: {tokens} tokens are "
        f"e^{found.evidence:.0f} times likelier {_otherwise(found.z)} (z = {found.z:.1f}), and chance makes that e^{TOO_MUCH:g} "
        "times once in 500 million.",
        "let nothing change what is sampled: no top_p, top_k, min_p, penalty or other temperature, of a generation config or of "
        "what stands before the server; and none in an engine of your own.",
    )


def _otherwise(z: float) -> str:
    if abs(z) < 2:
        return "from a part of the distribution"
    return "where likely tokens are preferred" if z > 0 else "where unlikely tokens are preferred"
