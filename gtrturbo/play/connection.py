"""A connection whose answer is bounded in time, and that goes where it is told and nowhere else."""

import http.client
import io
import ipaddress
import math
import socket
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import urlsplit


class _NotSentOn(urllib.request.HTTPRedirectHandler):
    """Make a redirect the error that it is for us, wherever it leads."""

    def http_error_302(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any) -> None:
        return None

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class _BytesInTime(io.RawIOBase):
    """What comes from a socket within its timeout in all, or until `later` says: by itself that begins anew with each byte."""

    def __init__(self, connected: socket.socket, later: Callable[[], float]) -> None:
        self._socket, self._file = connected, connected.makefile("rb", buffering=0)  # The file holds the socket open.
        self._seconds = connected.gettimeout() or math.inf
        self._until, self._later = time.monotonic() + self._seconds, later

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        while (left := max(self._until, self._later()) - time.monotonic()) > 0:
            self._socket.settimeout(max(1e-3, left))
            with suppress(TimeoutError):
                return self._socket.recv_into(buffer)
        raise TimeoutError(f"no whole answer within {self._seconds:.3g} seconds")

    def close(self) -> None:
        self._file.close()
        super().close()


class _ResponseInTime(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *given: Any, later: Callable[[], float], **named: Any) -> None:
        super().__init__(sock, *given, **named)
        self.fp.close()
        self.fp = io.BufferedReader(_BytesInTime(sock, later))


def _in_time(kind: type[http.client.HTTPConnection], later: Callable[[], float]) -> Callable[..., http.client.HTTPConnection]:
    def connect(*given: Any, **named: Any) -> http.client.HTTPConnection:
        connection: Any = kind(*given, **named)
        connection.response_class = partial(_ResponseInTime, later=later)
        return connection

    return connect


class _PlainHandler(urllib.request.HTTPHandler):
    def __init__(self, later: Callable[[], float]) -> None:
        super().__init__()
        self._connect: Any = _in_time(http.client.HTTPConnection, later)

    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._connect, req)


class _SecureHandler(urllib.request.HTTPSHandler):
    def __init__(self, later: Callable[[], float]) -> None:
        super().__init__()
        self._connect: Any = _in_time(http.client.HTTPSConnection, later)

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._connect, req)


def is_loopback(url: str) -> bool:
    """Tell whether an address is of this machine alone, as its name says; nothing is looked up."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def open_in_time(asked: urllib.request.Request, seconds: float, later: Callable[[], float] = lambda: 0.0) -> Any:
    """Open a request whose answer comes within so many seconds, from its first byte to its last; a redirect is an error.

    Where `later` returns a time that is still to come, on `time.monotonic`, the answer may come until then.

    What stays on this machine goes to no proxy (http_proxy, https_proxy), which has no way to it and would see the key.
    """
    proxies = [urllib.request.ProxyHandler({})] if is_loopback(asked.full_url) else []
    opener = urllib.request.build_opener(_NotSentOn, _PlainHandler(later), _SecureHandler(later), *proxies)
    return opener.open(asked, timeout=seconds)
