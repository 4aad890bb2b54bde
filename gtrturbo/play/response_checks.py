"""What must hold of what an engine of the user's own responds with: it is recorded, and read again, as it is given."""

from collections.abc import Sequence, Sized
from dataclasses import replace
from typing import Any

import numpy as np

from gtrturbo.errors import GtrTurboError
from gtrturbo.play.episodes import Response, State, Stretch
from gtrturbo.store.turn_checks import logprob_faults, reply_faults

TOKENS_OR_NONE = "give prompt_ids, response_ids, offsets and logprobs with each Response; its text alone is enough for eval."
OFFSETS = "offsets are the first and the past-the-last character of each token, in the text, from its start to its end."
LARGEST_ID = np.iinfo(np.int32).max


def check_responses(
    engine: str, states: Sequence[State], responses: Sequence[Any], *, for_training: bool
) -> list[Response | None]:
    """Copy responses, the numbers of their tokens as arrays, and refuse what cannot be played, or could not be trained on.

    Raises:
        GtrTurboError: not one response per state, all None, something else, or tokens that are missing or do not fit together.
    """
    if len(responses) != len(states) or all(response is None for response in responses):
        count = len([response for response in responses if response is not None])
        raise GtrTurboError(f"engine {engine} was given {len(states)} states and gives {count} responses.", "give one for each.")
    return [None if response is None else _checked(engine, response, for_training=for_training) for response in responses]


def _checked(engine: str, response: Any, *, for_training: bool) -> Response:
    if not isinstance(response, Response):
        raise GtrTurboError(
            f"engine {engine} responds with {type(response).__name__}.", "give a gtrturbo.play.episodes.Response."
        )
    _check_fields(engine, response)
    given = {
        "prompt_ids": response.prompt_ids is not None,
        "response_ids": response.response_ids is not None,
        "offsets": response.offsets is not None and not (isinstance(response.offsets, Sized) and len(response.offsets) == 0),
        "logprobs": response.logprobs is not None,
    }
    if not any(given.values()):
        if for_training:
            raise GtrTurboError(
                f"engine {engine} responds without token ids and log-probs: what it plays cannot be trained on.", TOKENS_OR_NONE
            )
        return response
    if not all(given.values()):
        there, missing = ([name for name, is_there in given.items() if is_there is each] for each in (True, False))
        raise GtrTurboError(f"engine {engine} responds with {', '.join(there)} and without {', '.join(missing)}.", TOKENS_OR_NONE)
    return _with_arrays(engine, response)


def _check_fields(engine: str, response: Response) -> None:
    """Refuse a response whose text, or who gave it, cannot be recorded."""
    kinds = {"text": str, "agent": str | None, "ended": bool, "stretch": Stretch | None}
    for name, kind in kinds.items():
        value = getattr(response, name)
        if not isinstance(value, kind):
            wanted = getattr(kind, "__name__", str(kind).replace("gtrturbo.play.episodes.", ""))
            raise GtrTurboError(f"the {name} of a response of engine {engine} is {value!r}.", f"give {wanted}.")
    try:
        response.text.encode()
    except UnicodeEncodeError as error:
        raise GtrTurboError(
            f"the text of a response of engine {engine} is no Unicode: {error}.", 'decode bytes with errors="replace".'
        ) from None


def _with_arrays(engine: str, response: Response) -> Response:
    """Copy a response, its tokens as arrays, and refuse those that turns cannot hold."""
    prompt, ids = (_numbers(engine, name, getattr(response, name), "iu", 1) for name in ("prompt_ids", "response_ids"))
    logprobs = _numbers(engine, "logprobs", response.logprobs, "fiu", 1)
    spans = _numbers(engine, "offsets", response.offsets, "iu", 2)
    if not len(ids) == len(logprobs) == len(spans):
        raise GtrTurboError(
            f"engine {engine} responds with {len(ids)} token ids, {len(logprobs)} log-probs and {len(spans)} offsets.",
            "give one of each for every token of the reply.",
        )
    if next(logprob_faults(logprobs), None):
        raise GtrTurboError(f"engine {engine} gives log-probs that are none.", "log-probs are finite and at most 0, in nats.")
    if fault := next(reply_faults(prompt, ids, spans, logprobs, response.text), None):
        fix = OFFSETS if "offsets" in fault else "ids are whole numbers from 0."
        raise GtrTurboError(f"engine {engine} responds with what cannot be recorded: {fault}.", fix)
    if max(prompt.max(), ids.max()) > LARGEST_ID:
        raise GtrTurboError(
            f"engine {engine} responds with token id {max(prompt.max(), ids.max())}.", "give those of the tokenizer."
        )
    if left := _left_out(response.text, spans):
        raise GtrTurboError(f"the offsets of engine {engine} leave out {left!r} of {response.text!r}.", OFFSETS)
    return replace(
        response,
        prompt_ids=prompt.astype(np.int32),
        response_ids=ids.astype(np.int32),
        offsets=[(first, last) for first, last in spans.tolist()],
        logprobs=logprobs.astype(np.float32),
    )


def _numbers(engine: str, name: str, value: Any, kinds: str, axes: int) -> np.ndarray:
    """Copy numbers into an array: of one axis, or of pairs."""
    try:
        found = np.array(value)
    except (TypeError, ValueError):
        found = np.array(None)
    if found.dtype.kind not in kinds or found.ndim != axes or found.shape[1:] != (2,) * (axes - 1) or not found.size:
        shown = f"{found.dtype} {list(found.shape)}" if found.dtype.kind != "O" else type(value).__name__
        what = "pairs of whole numbers" if axes == 2 else "whole numbers" if "f" not in kinds else "numbers"
        raise GtrTurboError(f"the {name} of a response of engine {engine} are {shown}.", f"give {what}, one for each token.")
    return found


def _left_out(text: str, spans: np.ndarray) -> str:
    """Return what stands in no token of a text, but for blanks."""
    held = np.zeros(len(text), bool)
    for first, last in spans.tolist():
        held[first:last] = True
    return "".join(letter for letter, is_held in zip(text, held.tolist(), strict=True) if not is_held).strip()
