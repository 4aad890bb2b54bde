"""What is read off a reply of a server: its text and tokens, or which it finds likely next; what cannot be true is refused."""

import math
from dataclasses import dataclass

import numpy as np

from gtrturbo.errors import GtrTurboError
from gtrturbo.play.failures import SEE_LOG
from gtrturbo.play.protocol import Completion, TokenLogProb
from gtrturbo.store.turn_checks import ROUNDING

LIKELIEST = 20  # Most that vLLM tells by itself.
TOKEN_ID = "token_id:"


@dataclass(frozen=True)
class Answer:
    """What a server replied; ids and log-probs (nats, of what was sampled from) only where it was asked for them.

    `ended`: it says that the model ended the reply, so that nothing was cut off.
    """

    text: str
    prompt_ids: np.ndarray | None = None  # [P] int32
    response_ids: np.ndarray | None = None  # [R] int32, end-of-turn token included
    logprobs: np.ndarray | None = None  # [R] float32
    ended: bool = True


@dataclass(frozen=True)
class Likely:
    """What a server finds likely after the beginning of a reply: the ids that it read, log-probs by id, a bound of all others.

    Those are of the likeliest and of the one that was `sampled`, in whose favour vLLM leaves out one of the likeliest.
    """

    read_ids: np.ndarray  # [P + R] int32
    logprobs: dict[int, float]
    least: float
    sampled: int | None = None


def answer_of(completion: Completion, server: str, *, needs_ids: bool) -> Answer:
    """Read a reply off its first choice.

    Args:
        completion: as it came.
        server: its address, as an error says it.
        needs_ids: a reply without the ids of its tokens is of no use.

    Raises:
        GtrTurboError: there are none, or log-probs that are of other tokens.
    """
    choice = completion.choices[0]
    ids, prompt_ids = choice.token_ids, choice.prompt_token_ids or completion.prompt_token_ids
    text = choice.message.content or ""
    if ids is None or prompt_ids is None:
        if not needs_ids:
            return Answer(text, ended=choice.ended)
        raise GtrTurboError(
            f"{server} returned no token ids: what it samples cannot be trained on.",
            f"use vLLM 0.32 or SGLang 0.5.23 or newer; --engine openai:{server} is enough for eval.",
        )
    told = _told(completion)
    if len(told) != len(ids):
        raise GtrTurboError(f"{server} returned {len(ids)} token ids and {len(told)} log-probs of them.")
    for identity, each in zip(ids, told, strict=True):
        if each.token.startswith(TOKEN_ID) and each.token != f"{TOKEN_ID}{identity}":
            other = each.token.removeprefix(TOKEN_ID)
            raise GtrTurboError(f"{server} returned the token {identity} with the log-prob of another, {other!r}.", SEE_LOG)
    logprobs = np.array([each.logprob for each in told], np.float32)
    return Answer(text, np.array(prompt_ids, np.int32), np.array(ids, np.int32), logprobs, ended=choice.ended)


def likely_of(completion: Completion, server: str, *, count: int) -> Likely:
    """Read off the first token of a reply which others were likely.

    Args:
        completion, server: see `answer_of`.
        count: so many were asked for.

    Raises:
        GtrTurboError: it tells fewer, or what no distribution gives.
    """
    told, ids = _told(completion), completion.prompt_token_ids
    found = {
        int(each.token.removeprefix(TOKEN_ID)): each.logprob
        for each in (told[0].top_logprobs if told else None) or []
        if each.token.removeprefix(TOKEN_ID).isdecimal()
    }
    if len(found) < count or ids is None:
        raise GtrTurboError(
            f"{server} does not tell by their ids which {count} tokens it finds likeliest, but {len(found)} of them.",
            f"start vLLM 0.32 or newer with --max-logprobs {count} or more, or leave --probe-turns out.",
        )
    if math.fsum(map(math.exp, found.values())) > 1 + 10 * ROUNDING:
        raise GtrTurboError(f"{server} tells log-probs of next tokens that no distribution gives.", SEE_LOG)
    likeliest = [value for identity, value in found.items() if told[0].token != f"{TOKEN_ID}{identity}"]
    sampled = next((identity for identity in found if told[0].token == f"{TOKEN_ID}{identity}"), None)
    return Likely(np.array(ids, np.int32), found, min(likeliest), sampled)


def _told(completion: Completion) -> list[TokenLogProb]:
    logprobs = completion.choices[0].logprobs
    return (logprobs.content if logprobs else None) or []
