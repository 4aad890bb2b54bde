"""One request to an inference server over HTTP, and what comes of it: JSON, or a sentence.

What answers may be anything. An answer is bounded in bytes and in time, it is asked for where the user says and nowhere else (a
redirect would take the API key along), and nothing of it is believed before it is read as JSON.
"""

import http.client
import json
import math
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from gtrturbo.errors import GtrTurboError
from gtrturbo.play.connection import open_in_time
from gtrturbo.play.failures import (
    BACKOFF,
    FAILED_TRIES,
    NOT_HTTP,
    SEE_LOG,
    SHOWN,
    AwayError,
    TriedInVainError,
    error_in,
    of_proxy,
    refusal,
    require_plain,
    without_key,
)
from gtrturbo.play.waiting import LATE, tell_waiting, telling_late

# Seconds for one answer, from the first byte that is sent to the last that comes; and beside the pauses for all tries together.
TIMEOUT = 600.0
LONGEST = 64 << 20  # bytes of an answer: a reply of 32,768 tokens with log-probs takes a tenth of it
BLOCK = 1 << 16
SOON = 2  # tries in vain after which a user is told


def request(
    url: str,
    body: dict[str, Any] | None = None,
    *,
    plain: bool = False,
    with_key: bool = True,
    on_failure: Callable[[], object] = lambda: None,
    on_answer: Callable[[float], object] = lambda _: None,
    tries: int = len(BACKOFF),
    patience: float = math.inf,
    later: Callable[[], float] = lambda: 0.0,
    told_after: float = LATE,
) -> Any:
    """Send one request; try again on what may pass: lost connections, a full server (429, 503), its own failures (other 5xx) a
    few times.

    Args:
        url: where to.
        body: sent as JSON; None asks by GET.
        plain: the answer is no JSON: its text is returned as it is.
        with_key: send OPENAI_API_KEY along, if it is set.
        on_failure: called when no answer comes but for a full server's (429): what answers later may be another one.
        on_answer: called with the seconds that the answer took.
        tries: so often it is asked again at most.
        patience: seconds for one answer, after which it is not asked again, as another server is.
        later: until when it is waited for all the same, on `time.monotonic`; it is asked when the patience ends.
        told_after: seconds without an answer after which a user is told.

    Raises:
        NotFoundError: the server does not have what is asked for.
        AwayError: the server does not answer however often it is asked.
        GtrTurboError: the server refuses the request.
    """
    until = time.monotonic() + TIMEOUT + sum(BACKOFF)
    for tried, pause in enumerate((*BACKOFF, 0.0)):
        began = time.monotonic()
        seconds = max(1e-3, min(TIMEOUT, patience, until - began))
        try:
            answer = request_once(url, body, plain=plain, with_key=with_key, timeout=seconds, later=later, told_after=told_after)
        except TriedInVainError as error:
            if not error.limited:
                on_failure()
            # Of a server that takes all the time for one answer there is nothing to wait for.
            given_up = time.monotonic() + pause >= until or (error.late and patience < TIMEOUT)
            if given_up or tried >= min(error.tries, tries, len(BACKOFF)):
                raise AwayError(url, error) from None
            if tried == SOON:
                tell_waiting(url, error)
        else:
            on_answer(time.monotonic() - began)
            return answer
        time.sleep(pause)
    raise AssertionError("the last try either answers or raises.")


def request_once(
    url: str,
    body: dict[str, Any] | None = None,
    *,
    plain: bool = False,
    with_key: bool = True,
    timeout: float | None = None,
    later: Callable[[], float] = lambda: 0.0,
    told_after: float = LATE,
) -> Any:
    """Send one request once; see `request`.

    Args:
        timeout: seconds for the whole answer; TIMEOUT if not given.
        later: see `request`.
        told_after: seconds without an answer after which a user is told.

    Raises:
        TriedInVainError: it may be sent again.
        GtrTurboError: the server refuses it.
    """
    content = None if body is None else json.dumps(body, allow_nan=False).encode()
    key = _key() if with_key else None
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    with telling_late(url, told_after):
        answer = _answer(urllib.request.Request(url, data=content, headers=headers), timeout or TIMEOUT, later, key)
    return without_key(answer.decode(errors="replace") if plain else _parsed(answer), key)


def _key() -> str:
    key = os.environ.get("OPENAI_API_KEY", "")
    if key and not (key.isascii() and key.isprintable()):
        raise GtrTurboError("OPENAI_API_KEY holds characters that no key has, such as an end of line.", "set it anew.")
    return key


def _answer(asked: urllib.request.Request, timeout: float, later: Callable[[], float], key: str | None) -> bytes:
    """Ask once. What is wrong with a connection, or with HTTP on it, may pass; a refusal does not."""
    began = False
    try:
        with open_in_time(asked, timeout, later) as response:
            began = True
            return _read(response)
    except urllib.error.HTTPError as error:
        raise refusal(asked.full_url, error, key) from None
    except http.client.IncompleteRead:
        raise TriedInVainError("breaks off in the middle of its answer.", mend=SEE_LOG, maybe_paid=True) from None
    except http.client.RemoteDisconnected as error:
        raise TriedInVainError(f"cannot be reached: {error}.", maybe_paid=began) from None
    except http.client.HTTPException as error:
        said = without_key(repr(error), key)[:SHOWN]
        raise TriedInVainError(f"does not answer by HTTP/1.1: {said}.", mend=NOT_HTTP, maybe_paid=True) from None
    except (OSError, ValueError, OverflowError) as error:
        cause = getattr(error, "reason", error)
        if through := of_proxy(asked, cause):
            raise through from None
        late = isinstance(cause, TimeoutError)
        if late and cause.errno is None:  # Ours, and not the system's for a connection.
            raise TriedInVainError(
                f"gives no whole answer within {timeout:.3g} seconds.", mend=SEE_LOG, maybe_paid=True, late=True
            ) from None
        said = f"cannot be reached: {str(cause) or type(cause).__name__}."
        raise TriedInVainError(said, maybe_paid=began or late, late=late) from None


def _read(response: Any) -> bytes:
    content = bytearray()
    while block := response.read1(BLOCK):
        content += block
        if len(content) > LONGEST:
            raise TriedInVainError(f"answers with more than {LONGEST >> 20} MiB.")
    if response.length:  # As the head says, more was to come.
        raise http.client.IncompleteRead(b"", response.length)
    require_plain(response, bytes(content[:SHOWN]))
    return bytes(content)


def _parsed(content: bytes) -> Any:
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError) as error:
        said = str(error) or type(error).__name__
        raise TriedInVainError(f"does not answer with JSON: {said}.", maybe_paid=True) from None
    if said := error_in(answer):
        raise TriedInVainError(f"answers with an error: {said[:SHOWN]}", tries=FAILED_TRIES, mend=SEE_LOG)
    return answer
