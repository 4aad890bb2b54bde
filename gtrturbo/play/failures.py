"""What is wrong where an inference server gives no answer, and what mends it.

What may pass is told apart from what does not, and what a server says of it is bounded, and without the key that was sent.
"""

import email.utils
import http.client
import re
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urljoin, urlsplit

from gtrturbo.distributed.escapes import one_line
from gtrturbo.errors import GtrTurboError

# Seconds before each further try: a server that restarts or is full is waited for, about two minutes in all.
BACKOFF = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
SHORTEST_KEY = 12  # characters of a key that is looked for in answers; shorter ones are words such as EMPTY
SHOWN = 500  # characters of a refusal that are told
TOO_MANY_REQUESTS = 429
# It is full, or it is not there yet behind what passes requests on to it, or it had no time for this one (408, 425).
WAITED_FOR = (408, 425, TOO_MANY_REQUESTS, 502, 503, 504)
REDIRECTS = (301, 302, 303, 307, 308)
LONGEST_PLACE = 200  # characters of an address that a server names
NOT_FOUND, NOT_THERE, PASSWORD = 404, 405, 407
# A server that is full or away is waited for; one that fails at a request most likely fails at it again.
FAILED_TRIES = 3
WANTS_KEY = "set OPENAI_API_KEY in the environment to a key of that server, without which none is sent."
WRONG_KEY = (
    "the key of OPENAI_API_KEY was sent and is refused: set it to one that this server takes, and that may use this model."
)
NO_KEY = "it is sent none, as it was started for this stage: see what has it ask for one, such as a plugin of its own."
WRONG_NAME = "see that the server has the model, and that the address is the part before /v1."
PROXY = "it is the proxy of http_proxy or https_proxy that asks for a password: give it there, or name the server in no_proxy."
REFUSALS = {401: WANTS_KEY, 403: WANTS_KEY, NOT_FOUND: WRONG_NAME, PASSWORD: PROXY}
NO_ANSWER = "see that a server answers there, and no cache before it."  # To 300 or 304.
# How Python tells of a proxy that refuses, and of one that is spoken to otherwise than by HTTP.
TUNNEL, UNKNOWN_KIND = re.compile(r"Tunnel connection failed: ((\d{3})\b.*)"), "unknown url type: "
NO_PROXY = (
    "name a proxy that has a way there in {name} (http://HOST:PORT), or the server in no_proxy: it is then asked without one."
)
START = "start the server, or name another with --engine."
SEE_LOG = "look at what the server itself writes, and start it anew."
NOT_HTTP = "see that an HTTP server is there, which answers by HTTP/1.1, and whether its address begins with http:// or https://."
UNCOMPRESSED = "let neither the server nor what stands before it compress what it is asked for without Accept-Encoding."
WHOLE = 'let neither the server nor what stands before it stream: it is asked without "stream".'
GZIP = b"\x1f\x8b"
STREAMS = ("text/event-stream", "application/x-ndjson")


class TriedInVainError(Exception):
    """What may pass: the request may be sent again.

    Attributes:
        tries: how often at most.
        mend: what helps where it does not pass.
        after: seconds that the server asks to wait before; None where it says nothing of it.
        limited: the server is full, or the user's rate is (429).
        maybe_paid: the server may have done the work, and its answer did not arrive whole.
        late: it took all the time that it was given.
    """

    def __init__(
        self,
        said: str,
        *,
        tries: int = len(BACKOFF),
        mend: str = START,
        after: float | None = None,
        limited: bool = False,
        maybe_paid: bool = False,
        late: bool = False,
    ) -> None:
        super().__init__(said)
        self.tries, self.mend, self.after = tries, mend, after
        self.limited, self.maybe_paid, self.late = limited, maybe_paid, late


class AwayError(GtrTurboError):
    """Say that a server does not answer however often it is asked.

    Attributes:
        url: what was asked.
        passing: it was waited for; else it fails.
        late: it may be there, and took all the time that it was given.
    """

    def __init__(self, url: str, why: TriedInVainError) -> None:
        super().__init__(f"{url} {why}", why.mend)
        self.url = url
        self.passing = why.tries > FAILED_TRIES
        self.late = why.late

    def as_away(self) -> "AwayError":
        """Say it as what it is."""
        return self


class EndedError(GtrTurboError):
    """Say that a server that was started for this stage has ended: there is nothing to wait for."""


class RefusedError(GtrTurboError):
    """Say that a server refuses a request, and will as often as it is sent; `said` is its text, `code` its status."""

    def __init__(self, url: str, code: int, said: str, fix: str = "", *, does: str = "refused the request") -> None:
        super().__init__(f"{url} {does} ({code}): {said}" if said else f"{url} {does} ({code}).", fix or REFUSALS.get(code, ""))
        self.url, self.code, self.said = url, code, said

    @property
    def whatever_is_asked(self) -> bool:
        """Whether another server may take the same request: it is refused for who asks or where, and not for what is asked."""
        return self.code < 400 or self.code in (*REFUSALS, NOT_THERE)

    def as_away(self) -> AwayError:
        """Say it as of a server that is not there."""
        said = self.what.removeprefix(self.url).strip()
        return AwayError(self.url, TriedInVainError(said, tries=FAILED_TRIES, mend=self.fix))


class NotFoundError(RefusedError):
    """Say that a server does not have what it was asked for."""


def of_proxy(asked: urllib.request.Request, cause: object) -> Exception | None:
    """Return what is wrong with the proxy that a request goes through; None where that is not the matter."""
    url, name = asked.full_url, f"{urlsplit(asked.full_url).scheme}_proxy"
    said = one_line(str(cause))[:SHOWN]
    mend = NO_PROXY.format(name=name)
    if said.startswith(UNKNOWN_KIND):
        kind = said.removeprefix(UNKNOWN_KIND)
        return GtrTurboError(f"{url} cannot be reached: {name} names a proxy of kind {kind}, which is not spoken here.", mend)
    tunnel = TUNNEL.match(said)
    if tunnel is None:
        return None
    what, code = f"the proxy of {name} answers {tunnel[1].strip()}.", int(tunnel[2])
    if code >= 500 or code in WAITED_FOR:
        tries = len(BACKOFF) if code in WAITED_FOR else FAILED_TRIES
        return TriedInVainError(f"cannot be reached: {what}", tries=tries, mend=mend)
    return GtrTurboError(f"{url} cannot be reached: {what}", REFUSALS[code] if code == PASSWORD else mend)


def _wait_of(error: urllib.error.HTTPError) -> float | None:
    """Read Retry-After: seconds, or a date."""
    told = error.headers.get("Retry-After", "").strip() if error.headers else ""
    if told.isdecimal() and len(told) < 10:
        return float(told)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(told).timestamp() - time.time()) if told else None
    except (ValueError, OverflowError):
        return None


def refusal(url: str, error: urllib.error.HTTPError, key: str | None) -> Exception:
    """Return what an HTTP status that is no answer means: what may pass, or a refusal; nothing of it holds the key."""
    with error:
        try:
            said = without_key(error.read(SHOWN).decode(errors="replace"), key)
        except (OSError, http.client.HTTPException, ValueError):
            said = ""
    if error.code in WAITED_FOR:
        limited = error.code == TOO_MANY_REQUESTS
        return TriedInVainError(f"answered {error.code}: {said}", after=_wait_of(error), limited=limited)
    if error.code >= 500:
        return TriedInVainError(f"answered {error.code}: {said}", after=_wait_of(error), tries=FAILED_TRIES, mend=SEE_LOG)
    if error.code == NOT_FOUND:
        return NotFoundError(url, error.code, said)
    if error.code in REDIRECTS:
        does = f"sends the request on to {without_key(_place_of(url, error), key)}"
        return RefusedError(url, error.code, "", "name the address that answers itself.", does=does)
    said = said or without_key(str(error.reason), key)[:SHOWN]
    if error.code < 400:
        return RefusedError(url, error.code, said, NO_ANSWER)
    fix = {None: NO_KEY, "": WANTS_KEY}.get(key, WRONG_KEY) if REFUSALS.get(error.code) == WANTS_KEY else ""
    return RefusedError(url, error.code, said, fix)


def _place_of(url: str, error: urllib.error.HTTPError) -> str:
    """Return where a server sends a request on to, without what may be secret there."""
    told = error.headers.get("Location", "") if error.headers else ""
    try:
        parts = urlsplit(urljoin(url, told))
    except ValueError:
        parts = urlsplit("")
    place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return one_line(place)[:LONGEST_PLACE] if told and parts.netloc else "what is no address"


def require_plain(response: Any, begin: bytes) -> None:
    """Refuse what is compressed or comes in pieces, which was not asked for, by its head and its first bytes."""
    coding, kind = (
        response.headers.get(name, "").partition(";")[0].strip().lower() for name in ("Content-Encoding", "Content-Type")
    )
    if coding not in ("", "identity") or begin.startswith(GZIP):
        said = f"answers compressed ({one_line(coding)[:SHOWN] or 'gzip'}), which it is not asked to."
        raise TriedInVainError(said, tries=FAILED_TRIES, mend=UNCOMPRESSED, maybe_paid=True)
    if kind in STREAMS or begin.lstrip().startswith(b"data:"):
        said = "streams its answer, which it is not asked to."
        raise TriedInVainError(said, tries=FAILED_TRIES, mend=WHOLE, maybe_paid=True)


def error_in(answer: Any) -> str:
    """Return what an answer says went wrong where it holds nothing else: in the answer, or in place of its first choice."""
    if not isinstance(answer, dict):
        return ""
    choices = answer.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        wrong = choices[0].get("error")
        return str(wrong) if wrong and choices[0].get("finish_reason") in (None, "error") else ""
    if choices or answer.get("data"):
        return ""
    # As vLLM and FastAPI tell it, with another status.
    failed = answer if answer.get("object") == "error" else {}
    wrong = answer.get("error") or failed.get("message") or answer.get("detail")
    return str(wrong) if wrong else ""


def without_key(content: Any, key: str | None) -> Any:
    """Return what a server said without the key, which it may repeat: what it says is shown and kept."""
    if key is None or len(key) < SHORTEST_KEY:
        return content
    if isinstance(content, str):
        return content.replace(key, "[key]")
    if isinstance(content, list):
        return [without_key(each, key) for each in content]
    if isinstance(content, dict):
        return {name.replace(key, "[key]"): without_key(value, key) for name, value in content.items()}
    return content
