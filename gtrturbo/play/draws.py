"""Refuse replies that were not sampled from the distribution that they are to be learned from, or judged by, each for itself."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gtrturbo.algorithms.repeats import Repeats, repeats_in
from gtrturbo.algorithms.sampled import TOO_MUCH, Drawn
from gtrturbo.errors import GtrTurboError, UnprovedError
from gtrturbo.store.names import TOKENS
from gtrturbo.store.records import Turn
from gtrturbo.store.tensors import TurnTokens, load_turn_tokens

EACH_ITS_OWN = (
    "let each reply be sampled by the seed that it is asked for with: no cache of answers before the server, and no other seed, "
    "of the server, of what stands before it, or in an engine of your own."
)


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


def repeats_of(turns: Sequence[Turn], tokens: TurnTokens, *logprobs: Sequence[np.ndarray]) -> Repeats:
    """Compare the replies of turns, in their order, with samples that are independent of one another.

    Args:
        turns: with the pictures that were shown.
        tokens: of the turns.
        logprobs: of their replies, by one or by several who may know them, each [R]; the likelier counts.
    """
    prompts = [(tuple(turn.images), ids.tobytes()) for turn, ids in zip(turns, tokens.prompt_ids, strict=True)]
    replies = [ids.tobytes() for ids in tokens.response_ids]
    return repeats_in(
        prompts, replies, np.max([[float(np.sum(row, dtype=np.float64)) for row in rows] for rows in logprobs], axis=0)
    )


def require_anew(found: Repeats, whose: str) -> None:
    """Refuse replies of which too many repeat an earlier one to the same prompt.

    Args:
        found: how they compare.
        whose: replies they are, as an error says it.

    Raises:
        GtrTurboError: they are not sampled each for itself.
    """
    if found.evidence <= TOO_MUCH:
        return
    raise GtrTurboError(
        f"{whose} repeat earlier ones whatever the seed: {found.rate:.0%} of those to a prompt that was asked before, which "
        f"is e^{found.evidence:.0f} times likelier so than of samples, and chance makes that e^{TOO_MUCH:g} times once in "
        "500 million.",
        EACH_ITS_OWN,
    )


def require_played_anew(folder: Path, turns: Sequence[Turn], *, temperature: float, told: bool) -> dict[str, float]:
    """Refuse what a stage played where replies were repeated, and return what is told of them.

    Args:
        folder: with their tokens, if they have any.
        turns: that were played.
        temperature: at which; at 0 there is nothing to sample.
        told: the log-probs of tokens are those of the distribution that they were sampled from.

    Raises:
        UnprovedError: they are not sampled each for itself.
    """
    if not (temperature and told and (folder / TOKENS).is_file()):
        return {}
    tokens = load_turn_tokens(folder / TOKENS)
    found = repeats_of(turns, tokens, tokens.sample_logprobs)
    try:
        require_anew(found, "the replies of this stage")
    except GtrTurboError as error:
        raise UnprovedError(error.what, error.fix) from None
    return found.metrics()


def _otherwise(z: float) -> str:
    if abs(z) < 2:
        return "from a part of the distribution"
    return "where likely tokens are preferred" if z > 0 else "where unlikely tokens are preferred"
