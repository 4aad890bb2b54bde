"""A connection whose answer is bounded in time, and that goes where it is told and nowhere else."""

import http.client
import io
import math
import socket
import time
import urllib.request
from typing import Any


class _NotSentOn(urllib.request.HTTPRedirectHandler):
    """Make a redirect the error that it is for us."""

    def redirect_request(self, *_: Any) -> None:
        return None


class _BytesInTime(io.RawIOBase):
    """What comes from a socket within its timeout in all: by itself that begins anew with each byte."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket, self._file = connected, connected.makefile("rb", buffering=0)
        self._seconds = connected.gettimeout() or math.inf
        self._until = time.monotonic() + self._seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        try:
            self._socket.settimeout(max(1e-3, self._until - time.monotonic()))
            return self._file.readinto(buffer)
        except TimeoutError:
            raise TimeoutError(f"no whole answer within {self._seconds:.3g} seconds") from None

    def close(self) -> None:
        self._file.close()
        super().close()


class _ResponseInTime(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *given: Any, **named: Any) -> None:
        super().__init__(sock, *given, **named)
        self.fp.close()
        self.fp = io.BufferedReader(_BytesInTime(sock))


class _Plain(http.client.HTTPConnection):
    response_class = _ResponseInTime


class _Secure(http.client.HTTPSConnection):
    response_class = _ResponseInTime


class _PlainHandler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_Plain, req)


class _SecureHandler(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_Secure, req)


def open_in_time(asked: urllib.request.Request, seconds: float) -> Any:
    """Open a request whose answer comes within so many seconds, from its first byte to its last; a redirect is an error."""
    return urllib.request.build_opener(_NotSentOn, _PlainHandler, _SecureHandler).open(asked, timeout=seconds)
