"""Addresses of servers: those that are shown and recorded hold no secret, and speak HTTP."""

from pathlib import Path
from urllib.parse import urlsplit

from gtrturbo.errors import GtrTurboError

LONGEST_NAME = 63  # characters between two dots of a host's name
SERVED = "openai:"


def served_model(teacher: str | Path) -> str | None:
    """Return MODEL of a teacher that is named openai:MODEL, which a server of that protocol has; None of all other names."""
    name = str(teacher)
    return name.removeprefix(SERVED) if name.startswith(SERVED) else None


def teacher_address(url: str) -> str:
    """Return the address of a teacher's server as `address_of` does."""
    return address_of(url, option="--address")


def address_of(url: str, *, option: str = "--base-url") -> str:
    """Return a server's address without a final slash and /v1; `option` is where the user wrote it.

    Raises:
        GtrTurboError: it is no http address of a host, or it holds what may be a secret, which would be seen wherever the
            address is told; what is told of it then is nothing of it.
    """
    fix = f"write it as in {option} http://localhost:8000"
    key = "give a key as OPENAI_API_KEY instead."
    if "@" in url:
        raise GtrTurboError(f"{option} holds a user's name or password, which would be shown and recorded.", key)
    if "?" in url or "#" in url:
        raise GtrTurboError(f"{option} holds more than host and path, which would be shown and recorded.", key)
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise GtrTurboError(f"{option} {url} holds characters that no address has.", fix)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise GtrTurboError(f"{option} {url} is no address: {error}.", fix) from None
    if (
        parts.scheme not in ("http", "https")
        or not host
        or port == 0
        or any(len(name) > LONGEST_NAME for name in host.split("."))
    ):
        raise GtrTurboError(f"{option} {url} is no address of a server.", fix)
    return url.rstrip("/").removesuffix("/v1")
