"""Who answers, as a user writes it: an engine, or a kind of server and its address, which holds no secret and speaks HTTP."""

import ipaddress
import socket
from contextlib import suppress
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

from gtrturbo.config.choices import VLLM, ServerName
from gtrturbo.errors import GtrTurboError

EXAMPLE = "--engine vllm:http://localhost:8000"
OF_ENGINE = "the address of --engine"
LONGEST_NAME = 63  # characters between two dots of a host's name
CHAT_PATH = "/chat/completions"
SERVED_BY = "openai:"
HERE = ("127.0.0.1", "::1", "0.0.0.0", "::")  # this machine, as addresses to connect to


def served_model(teacher: str | Path) -> str | None:
    """Return MODEL of a teacher that is named openai:MODEL, which a server of that protocol has; None of all other names."""
    name = str(teacher)
    return name.removeprefix(SERVED_BY) if name.startswith(SERVED_BY) else None


def teacher_address(url: str) -> str:
    """Return the address of a teacher's server as `address_of` does."""
    return address_of(url, told="--address", example="--address http://localhost:8000")


def kind_of(engine: str) -> str:
    """Name an engine without its address: vllm of vllm:http://localhost:8000; code of the user's own stays as it is written."""
    kind, colon, _ = engine.partition(":")
    return kind if colon and kind in get_args(ServerName) else engine


def servers_of(engine: str) -> tuple[str, ...]:
    """Return the addresses of the servers that an engine names, none where it names none or one is started for it.

    Raises:
        GtrTurboError: a kind of server without an address, with one that is none, or with one twice.
    """
    kind = kind_of(engine)
    if kind not in get_args(ServerName):
        if "://" in engine:  # It may hold a secret: nothing of it is told.
            raise GtrTurboError("--engine names an address and no kind of server.", f"write it as in {EXAMPLE}")
        return ()
    if engine == VLLM:
        return ()  # One is started.
    if kind == engine:
        raise GtrTurboError(f"--engine {engine} asks a server, and none is named.", f"write it as in {EXAMPLE}")
    named = engine.removeprefix(f"{kind}:")
    _require_open(named, OF_ENGINE)  # Of all of it: a comma may stand in a password.
    found = tuple(address_of(each.strip()) for each in named.split(","))
    places: dict[tuple[str, int, str], str] = {}
    for url in found:
        other = places.setdefault(_place_of(url), url)
        if other != url:
            raise GtrTurboError(f"--engine names one server twice, as {other} and as {url}.", "name each server once.")
    if twice := next((url for url in found if found.count(url) > 1), None):
        raise GtrTurboError(f"--engine names {twice} twice.", "name each server once.")
    return found


def _place_of(url: str) -> tuple[str, int, str]:
    """Return host, port and path of an address as all ways to write them have them, as far as can be told without asking."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    with suppress(OSError):  # 127.1 and the like, as the system reads numbers.
        host = socket.inet_ntoa(socket.inet_aton(host))
    with suppress(ValueError):
        read = ipaddress.ip_address(host)
        host = str(getattr(read, "ipv4_mapped", None) or read)
    here = host in HERE or host == "localhost" or host.endswith(".localhost")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return "localhost" if here else host, port, parts.path.rstrip("/")


def address_of(url: str, *, told: str = OF_ENGINE, example: str = EXAMPLE) -> str:
    """Return a server's address without a final slash, /v1 and the path of its chat; `told` is where the user wrote it.

    Raises:
        GtrTurboError: it is no http address of a host, or it holds what may be a secret, which would be seen wherever the
            address is told; what is told of it then is nothing of it.
    """
    fix = f"write it as in {example}"
    _require_open(url, told)
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise GtrTurboError(f"{told} {url} holds characters that no address has.", fix)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise GtrTurboError(f"{told} {url} is no address: {error}.", fix) from None
    if (
        parts.scheme not in ("http", "https")
        or not host
        or port == 0
        or any(len(name) > LONGEST_NAME for name in host.split("."))
    ):
        raise GtrTurboError(f"{told} {url} is no address of a server.", fix)
    return url.rstrip("/").removesuffix(CHAT_PATH).removesuffix("/v1")


def _require_open(url: str, told: str) -> None:
    """Refuse what may hold a secret."""
    key = "give a key as OPENAI_API_KEY instead."
    if "@" in url:
        raise GtrTurboError(f"{told} holds a user's name or password, which would be shown and recorded.", key)
    if "?" in url or "#" in url:
        raise GtrTurboError(f"{told} holds more than host and path, which would be shown and recorded.", key)
