"""What a hostile inference server may answer, as tables: JSON of the wrong shape, and bytes that are no answer at all."""

import gzip
import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

RED = "\x1b[31mred\x1b]0;title\x07\u202e\x9b1m"
HTML = "<html><body>502 Bad Gateway <script>alert(1)</script></body></html>"
DEEP = "[" * 100_000 + "]" * 100_000
HUGE = "9" * 5000


class Text(str):
    """A body that is sent as it stands."""


def _at(*path: Any) -> Callable[[Any], Callable[[Any], Any]]:
    """Return what puts a value at a place of a reply."""

    def puts(value: Any) -> Callable[[Any], Any]:
        def change(reply: Any) -> Any:
            reply = json.loads(json.dumps(reply))
            inner = reply
            for key in path[:-1]:
                inner = inner[key]
            if value is GONE:
                inner.pop(path[-1], None)
            else:
                inner[path[-1]] = value(inner[path[-1]]) if callable(value) else value
            return reply

        return change

    return puts


GONE = object()
WRONG = {
    "gone": GONE, "null": None, "text": "text", "number": 5, "empty list": [], "empty map": {}, "list of null": [None],
    "true": True,
    "list of lists": [[1]], "list of texts": ["1"], "list of maps": [{}],
}  # fmt: skip
IDS = {
    "fractions": [1.5, 2.5], "negative": [-1, -2], "beyond 64 bits": [2**70], "beyond 32 bits": [2**40],
    "beyond the vocabulary": [10**6],
    "NaN": [float("nan")], "a million": [5] * 10**6, "one less": lambda ids: ids[:-1], "one more": lambda ids: [*ids, 5],
    "zeros": lambda ids: [0] * len(ids), "backwards": lambda ids: ids[::-1], "twice": lambda ids: ids + ids,
}  # fmt: skip
LOGPROBS = {
    "positive": lambda entries: [{**entry, "logprob": 3.0} for entry in entries],
    "NaN": lambda entries: [{**entry, "logprob": float("nan")} for entry in entries],
    "minus infinity": lambda entries: [{**entry, "logprob": float("-inf")} for entry in entries],
    "minus 1e308": lambda entries: [{**entry, "logprob": -1e308} for entry in entries],
    "texts": lambda entries: [{**entry, "logprob": "-1"} for entry in entries],
    "nulls": lambda entries: [{**entry, "logprob": None} for entry in entries],
    "maps": lambda entries: [{**entry, "logprob": {}} for entry in entries],
    "without the key": lambda entries: [{"token": "x"} for _ in entries],
    "one less": lambda entries: entries[:-1],
    "one more": lambda entries: [*entries, *entries[:1]],
    "numbers": lambda entries: [-1.0 for _ in entries],
}
TEXTS = {
    "empty": "", "control characters": RED, "lone surrogate": "\ud800", "NUL": "a\0b", "HTML": HTML, "ten million": "x" * 10**7,
    "markup": "[/bold][red]", "deep JSON": '{"thoughts": ' + DEEP + "}", "huge number": '{"action": ' + HUGE + "}",
    "NaN": '{"action": NaN}',
}  # fmt: skip
CHOICE = ("choices", 0)
# Replies to a question, from the true one.
CHAT = {
    **{f"choices {name}": _at("choices")(value) for name, value in WRONG.items()},
    **{f"message {name}": _at(*CHOICE, "message")(value) for name, value in WRONG.items()},
    **{f"content {name}": _at(*CHOICE, "message", "content")(value) for name, value in WRONG.items()},
    **{f"content {name}": _at(*CHOICE, "message", "content")(value) for name, value in TEXTS.items()},
    **{f"ids {name}": _at(*CHOICE, "token_ids")(value) for name, value in (WRONG | IDS).items()},
    **{f"prompt ids {name}": _at("prompt_token_ids")(value) for name, value in (WRONG | IDS).items()},
    **{f"logprobs {name}": _at(*CHOICE, "logprobs")(value) for name, value in WRONG.items()},
    **{f"logprobs {name}": _at(*CHOICE, "logprobs", "content")(value) for name, value in LOGPROBS.items()},
    "an error": lambda reply: {"error": {"message": RED, "code": 500}},
    "an error beside": lambda reply: reply | {"error": {"message": RED}},
    "more": lambda reply: reply | {"usage": None, "unknown": [{}], "choices": reply["choices"] * 3},
}
# Lists of models.
MODELS = {
    **{f"data {name}": _at("data")(value) for name, value in WRONG.items()},
    **{f"id {name}": _at("data", 0, "id")(value) for name, value in WRONG.items()},
    **{f"id {name}": _at("data", 0, "id")(value) for name, value in TEXTS.items() if name not in ("deep JSON",)},
}
# Bodies in place of either.
BODIES = {
    "nothing": Text(""), "a space": Text(" "), "HTML": Text(HTML), "a list": [1], "a number": 5, "null": None, "text": "text",
    "true": True,
    "deep": Text(DEEP), "deep maps": Text('{"a":' * 100_000 + "1" + "}" * 100_000), "NaN": Text("NaN"), "huge number": Text(HUGE),
    "empty map": {}, "control characters": Text(RED), "half": Text('{"choices": [{"message": {"con'), "two": Text("{} {}"),
    "lone surrogate": Text('{"choices": "\\ud800"}'), "key twice": Text('{"choices": 1, "choices": 2, "data": 3, "data": 4}'),
}  # fmt: skip
STATUSES = (201, 204, 301, 302, 307, 400, 401, 403, 404, 413, 418, 422, 429, 500, 502, 503, 599)
FINE_STATUSES = {201}


@dataclass(frozen=True)
class Wire:
    """What is sent over an open connection in place of an answer: `send` gets the socket and the true body."""

    send: Callable[[socket.socket, bytes], None]
    fine: bool = False


def _head(*lines: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "Connection: close", "", ""]).encode("latin-1")


def _answer(head: bytes, body: Callable[[bytes], bytes] = lambda body: body) -> Callable[[socket.socket, bytes], None]:
    return lambda connection, true: connection.sendall(head + body(true))


def _drip(connection: socket.socket, true: bytes) -> None:
    connection.sendall(_head("Content-Length: 1000000"))
    for _ in range(1200):
        connection.sendall(b" ")
        time.sleep(0.1)


def _drip_head(connection: socket.socket, true: bytes) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    for number in range(1200):
        connection.sendall(f"X-{number}: y\r\n".encode())
        time.sleep(0.1)


def _flood(connection: socket.socket, true: bytes) -> None:
    connection.sendall(_head())
    for _ in range(8192):
        connection.sendall(bytes(1 << 20))


def _reset(connection: socket.socket, true: bytes) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def _sleep(connection: socket.socket, true: bytes) -> None:
    time.sleep(120)


def _bomb(true: bytes) -> bytes:
    return gzip.compress(bytes(1 << 28))


WIRES = {
    "closed": Wire(lambda *_: None),
    "reset": Wire(_reset),
    "silence": Wire(_sleep),
    "drip": Wire(_drip),
    "drip of headers": Wire(_drip_head),
    "flood": Wire(_flood),
    "half a body": Wire(_answer(_head("Content-Length: 100000"))),
    "shorter length": Wire(_answer(_head("Content-Length: 10"))),
    "length junk": Wire(_answer(_head("Content-Length: x")), fine=True),
    "length negative": Wire(_answer(_head("Content-Length: -5")), fine=True),
    "length huge": Wire(_answer(_head("Content-Length: " + "9" * 30))),
    "length twice": Wire(_answer(_head("Content-Length: 5", "Content-Length: 9"))),
    "no length": Wire(_answer(_head()), fine=True),
    "status junk": Wire(_answer(b"HELLO\r\n\r\n")),
    "status huge": Wire(_answer(b"HTTP/1.1 99999999999 OK\r\n\r\n")),
    "status negative": Wire(_answer(b"HTTP/1.1 -1 OK\r\n\r\n")),
    "status with control characters": Wire(_answer(_head(status="500 \x1b[31mred"))),
    "status line without end": Wire(_answer(b"HTTP/1.1 200 " + b"x" * 200_000)),
    "bytes": Wire(_answer(bytes(range(256)))),
    "header without end": Wire(_answer(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000)),
    "many headers": Wire(_answer(_head(*(f"X-{number}: y" for number in range(5000))))),
    "header junk": Wire(_answer(b"HTTP/1.1 200 OK\r\n\x1b[31m\r\n: \r\n\r\n"), fine=True),
    "chunks": Wire(
        _answer(_head("Transfer-Encoding: chunked"), lambda true: b"%x\r\n%s\r\n0\r\n\r\n" % (len(true), true)), fine=True
    ),
    "chunks broken": Wire(_answer(_head("Transfer-Encoding: chunked"), lambda true: b"zz\r\n" + true)),
    "chunk huge": Wire(_answer(_head("Transfer-Encoding: chunked"), lambda true: b"ffffffffffffffff\r\n" + true)),
    "chunk cut": Wire(_answer(_head("Transfer-Encoding: chunked"), lambda true: b"%x\r\n%s" % (len(true) + 9, true))),
    "gzip": Wire(_answer(_head("Content-Encoding: gzip"), gzip.compress), fine=True),
    "gzip bomb": Wire(_answer(_head("Content-Encoding: gzip"), _bomb)),
    "gzip junk": Wire(_answer(_head("Content-Encoding: gzip"), lambda _: b"\x1f\x8b junk")),
    "UTF-16": Wire(_answer(_head(), lambda true: true.decode().encode("utf-16")), fine=True),
    "mark": Wire(_answer(_head(), lambda true: b"\xef\xbb\xbf" + true), fine=True),
    "Latin-1": Wire(_answer(_head("Content-Type: application/json; charset=latin-1"), lambda true: b'"\xff\xfe"')),
    "redirect to itself": Wire(_answer(_head("Location: ?", status="307 Away"))),
    "redirect to a file": Wire(_answer(_head("Location: file:///etc/passwd", status="302 Away"))),
    "redirect to junk": Wire(_answer(_head("Location: http://[::1", status="302 Away"))),
    "redirect to control characters": Wire(_answer(_head("Location: http://\x1b[31mred/", status="302 Away"))),
    "redirect to nowhere": Wire(_answer(_head(status="302 Away"))),
    "redirect to ftp": Wire(_answer(_head("Location: ftp://127.0.0.1:9/", status="302 Away"))),
    "asks to continue": Wire(_answer(b"HTTP/1.1 100 Continue\r\n\r\n" * 200)),
    "switches": Wire(_answer(_head("Upgrade: x", status="101 Switching"))),
}
