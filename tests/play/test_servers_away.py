"""Several servers of which some are away, hang or are slow, and what a user is told; no model answers here."""

import http.server
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gtrturbo.config.choices import ServerName
from gtrturbo.play import failures, pace, server, servers, wire
from gtrturbo.play.server import Server
from gtrturbo.play.servers import Servers

SAMPLING = {"temperature": 0.0, "max_new_tokens": 8, "seed": 0, "forbidden": [], "end_ids": []}
HANGS = 30.0  # seconds, or until the test ends


@dataclass
class Spoken:
    """A server: what it was asked, the seconds that replies take, one after another, and after how many of them it hangs."""

    seconds: float = 0.0
    hangs_after: int | None = None
    one_by_one: threading.Lock = field(default_factory=threading.Lock)
    asked: list[str] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    @property
    def replies(self) -> int:
        return self.asked.count("/v1/chat/completions")


@contextmanager
def speaking(**settings):
    """Serve models, adapters and replies for as long as the block runs."""
    spoken = Spoken(**settings)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.say({"data": [{"id": "served"}]})

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            with spoken.one_by_one:
                hangs = spoken.hangs_after is not None and spoken.replies >= spoken.hangs_after
                spoken.released.wait(HANGS if hangs else spoken.seconds)
                self.say({"choices": [{"message": {"role": "assistant", "content": "said"}, "finish_reason": "stop"}]})

        def say(self, content):
            spoken.asked.append(self.path)
            text = json.dumps(content).encode()
            try:
                self.send_response(200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)
            except OSError:
                return  # It was left meanwhile.

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    spoken.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield spoken
    finally:
        spoken.released.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def nobody():
    """An address where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def silent():
    """An address where somebody listens and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(wire.time, "sleep", lambda _: None)
    monkeypatch.setattr(pace, "SHORTEST", 1.0)


def several(*urls: str, kind: ServerName = "openai") -> Servers:
    return Servers([Server(kind, url, needs_ids=False) for url in urls])


def ask(those: Servers) -> str:
    asked, answer = those.ask(lambda each: each.chat([{"role": "user", "content": []}], [], **SAMPLING))
    assert answer.text == "said"
    return asked.base_url


@pytest.mark.parametrize("how", ["nobody", "silent"])
def test_one_that_is_away_at_the_start_is_told_once_and_done_without(how, request, capsys):
    away = request.getfixturevalue(how)
    with speaking() as first, speaking() as second:
        those = several(away, first.url, second.url)
        those.meet(lambda server: server.model)
        assert {ask(those) for _ in range(4)} == {first.url, second.url}
    [told] = capsys.readouterr().err.splitlines()
    assert told.startswith(f"{away}/v1/models ") and told.endswith(" Its episodes go to the other servers.")


def test_one_that_comes_later_is_given_the_adapter_before_it_is_asked(monkeypatch, capsys):
    monkeypatch.setattr(servers, "LOOKED_AT_AGAIN", 0.0)
    with speaking() as first, speaking() as late:
        sending, there = Server._request, []

        def request(server, path, *given, **named):
            if server.base_url == late.url and not there:
                raise failures.AwayError(server.base_url + path, failures.TriedInVainError("cannot be reached."))
            return sending(server, path, *given, **named)

        monkeypatch.setattr(Server, "_request", request)
        those = several(first.url, late.url, kind="vllm")
        those.meet(lambda server: server.load_adapter("adapter", Path("x")))
        asked = lambda: those.ask(lambda server: server._request("/v1/chat/completions", {"max_tokens": 8}))[0].base_url  # noqa: E731
        assert {asked() for _ in range(4)} == {first.url} and late.asked == []
        there.append(1)
        assert {asked() for _ in range(4)} == {first.url, late.url}
    assert late.asked[:3] == ["/v1/models", "/v1/load_lora_adapter", "/v1/chat/completions"]
    assert late.asked.count("/v1/load_lora_adapter") == 1
    assert capsys.readouterr().err.count(f"{late.url} answers again.") == 1


def test_all_that_are_away_at_the_start_are_waited_for_as_one_would_be(monkeypatch):
    tried = []

    def request(server, path, *_, **__):
        tried.append(server.base_url)
        if len(tried) < 9:
            raise failures.AwayError(server.base_url + path, failures.TriedInVainError("cannot be reached."))
        return {"data": [{"id": "served"}]}

    monkeypatch.setattr(Server, "_request", request)
    urls = ["http://a", "http://b"]
    several(*urls).meet(lambda server: server.model)
    assert tried == [*urls * 4, urls[0]]
    tried.clear()
    monkeypatch.setattr(servers, "BACKOFF", (0.0,))
    with pytest.raises(failures.AwayError, match=r"http://b/v1/models cannot be reached"):
        several(*urls).meet(lambda server: server.model)
    assert tried == urls


def test_one_that_hangs_in_the_middle_gives_what_it_was_asked_to_the_others(capsys):
    with speaking(hangs_after=2) as first, speaking() as second:
        those = several(first.url, second.url)
        those.meet(lambda server: server.model)
        began = time.monotonic()
        assert [ask(those) for _ in range(8)].count(first.url) == 2
        assert time.monotonic() - began < HANGS
    assert capsys.readouterr().err == (
        f"{first.url}/v1/chat/completions gives no whole answer within 1 seconds. Its episodes go to the other servers.\n"
    )


@pytest.mark.parametrize("hangs_after", [None, 4])
def test_a_server_that_answers_others_meanwhile_is_full_and_one_that_answers_none_is_away(hangs_after, monkeypatch):
    monkeypatch.setattr(pace, "FIRST", 2.0)
    monkeypatch.setattr(pace, "SHORTEST", 2.0)
    with speaking(seconds=0.4, hangs_after=hangs_after) as full, speaking() as other:
        those = several(full.url, other.url)
        first, _ = those
        with ThreadPoolExecutor(8) as threads:
            asked = [threads.submit(first.chat, [{"role": "user", "content": []}], [], **SAMPLING) for _ in range(8)]
        late = [each for each in asked if isinstance(each.exception(), failures.AwayError)]
    assert len(late) == (4 if hangs_after else 0)


def test_those_that_are_all_slow_are_waited_for_longer_and_longer_and_then_at_once(monkeypatch):
    monkeypatch.setattr(pace, "SHORTEST", 0.3)
    monkeypatch.setattr(pace, "FIRST", 0.3)
    monkeypatch.setattr(servers, "BACKOFF", (0.0,))
    with ExitStack() as ending:
        both = [ending.enter_context(speaking(seconds=1.0)) for _ in range(2)]
        those = several(*(each.url for each in both))
        ask(those)  # After 0.3 s of one and 0.6 s of the other.
        left = sum(server.failures for server in those)
        ask(those)
        assert left >= 2 and sum(server.failures for server in those) == left


def test_one_alone_is_waited_for_and_told_of(monkeypatch, capsys):
    monkeypatch.setattr(server, "LATE", 0.2)
    monkeypatch.setattr(pace, "FIRST", 0.2)
    monkeypatch.setattr(pace, "SHORTEST", 0.2)
    with speaking(seconds=1.5) as slow:
        those = several(slow.url)
        assert [ask(those) for _ in range(2)] == [slow.url] * 2
    assert capsys.readouterr().err == f"{slow.url}/v1/chat/completions has not answered for 0 seconds. It is waited for.\n"
