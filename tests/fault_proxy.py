"""A proxy before an inference server that spoils answers in turn: what comes back is late, no JSON, half, or nothing at all."""

import threading
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle

FULL, FAILED, DROPPED, PAGE, HALF = "429", "500", "dropped", "HTML", "half a body"
FAULTS = (FULL, FAILED, DROPPED, PAGE, HALF)


@dataclass
class Proxy:
    """What it did: a fault of each kind in turn, then an answer; `answered` counts chats that came through whole."""

    url: str = ""
    done: list[str] = field(default_factory=list)
    answered: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def spoiling(server: str, *, every: int = 2):
    """Stand before a server for as long as the block runs, and spoil one of `every` answers to a chat."""
    proxy, faults, turns = Proxy(), cycle(FAULTS), cycle([True] + [False] * (every - 1))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.answer(*self.asked(None))

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with proxy.lock:
                fault = next(faults) if self.path.endswith("/chat/completions") and next(turns) else None
                proxy.done += [fault] if fault else []
            if fault == DROPPED:
                self.close_connection = True
            elif fault == FULL:
                self.answer(429, b'{"message": "slow down"}')
            elif fault == FAILED:
                self.answer(500, b"Internal Server Error")
            elif fault == PAGE:
                self.answer(200, b"<html><body>Bad gateway</body></html>")
            elif fault == HALF:
                status, content = self.asked(body)
                self.answer(status, content[: len(content) // 2], length=len(content))
                self.close_connection = True
            else:
                self.answer(*self.asked(body))
                with proxy.lock:
                    proxy.answered += self.path.endswith("/chat/completions")

        def asked(self, body):
            request = urllib.request.Request(server + self.path, data=body, headers={"Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(request) as response:
                    return response.status, response.read()
            except urllib.error.HTTPError as error:
                return error.code, error.read()

        def answer(self, status, content, length=None):
            self.send_response(status)
            self.send_header("Content-Length", str(len(content) if length is None else length))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    standing = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    proxy.url = f"http://127.0.0.1:{standing.server_port}"
    threading.Thread(target=standing.serve_forever, daemon=True).start()
    try:
        yield proxy
    finally:
        standing.shutdown()
        standing.server_close()
