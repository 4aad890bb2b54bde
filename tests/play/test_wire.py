"""One request over HTTP: what is not an answer becomes a sentence, in bounded time and memory, and nobody else is asked."""

import gzip
import http.server
import json
import socket
import threading
import time
from contextlib import contextmanager

import pytest

from gtrturbo.config import RunConfig
from gtrturbo.config.addresses import address_of, servers_of
from gtrturbo.errors import GtrTurboError
from gtrturbo.play import failures, waiting, wire
from gtrturbo.runs.plan import plan


@contextmanager
def answering(*lines: bytes, body: bytes = b"", pause: float = 0.0):
    """Serve these bytes to whoever asks, one byte after each pause if there is one; yields the address and what was asked."""
    asked: list[tuple[str, str | None]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers["Authorization"]))
            content = b"\r\n".join([*lines, b"", b""]) + body
            try:
                for place in range(0, len(content), 1 if pause else len(content)):
                    self.wfile.write(content[place : place + 1] if pause else content)
                    time.sleep(pause)
            except OSError:
                return

        do_CONNECT = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(wire, "BACKOFF", (0.0,))


@pytest.mark.parametrize(
    ("lines", "body", "said"),
    [
        ([b"HELLO"], b"", "does not answer by HTTP/1.1: .*HELLO"),
        ([b"HTTP/1.1 99999999 OK"], b"", "does not answer by HTTP/1.1"),
        ([b"HTTP/2 200 OK"], b"{}", "does not answer by HTTP/1.1"),
        ([b"\x15\x03\x03\0\2\2\x50"], b"", "does not answer by HTTP/1.1"),
        ([b"HTTP/1.1 200 OK", b"X: " + b"x" * 70_000], b"{}", "does not answer by HTTP/1.1"),
        ([b"HTTP/1.1 200 OK", b"Content-Length: 100"], b"{", "breaks off in the middle"),
        ([b"HTTP/1.1 200 OK", b"Content-Length: " + b"9" * 30], b"{}", "breaks off in the middle"),
        ([b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked"], b"zz\r\n{}", "breaks off in the middle"),
        ([b"HTTP/1.1 200 OK"], b"<html>", "does not answer with JSON"),
        ([b"HTTP/1.1 200 OK"], b"\xff\xfe\xfd", "does not answer with JSON"),
        ([b"HTTP/1.1 200 OK"], b"[" * 100_000, "does not answer with JSON"),
        ([b"HTTP/1.1 200 OK"], b"9" * 5000, "does not answer with JSON"),
        ([b"HTTP/1.1 500 Oops"], b"later", "answered 500: later"),
        ([b"HTTP/1.1 408 Slow"], b"too slow", "answered 408: too slow"),
        ([b"HTTP/1.1 425 Early"], b"too early", "answered 425: too early"),
        ([b"HTTP/1.1 200 OK", b"Content-Encoding: GZip"], gzip.compress(b"{}", mtime=0), r"answers compressed \(gzip\)"),
        ([b"HTTP/1.1 200 OK", b"Content-Encoding: deflate"], b"x", r"answers compressed \(deflate\)"),
        ([b"HTTP/1.1 200 OK"], gzip.compress(b"{}", mtime=0), r"answers compressed \(gzip\)"),
        ([b"HTTP/1.1 200 OK"], b"data: {}\n\n", "streams its answer"),
        (
            [b"HTTP/1.1 200 OK", b"Content-Type: text/event-stream; charset=utf-8"],
            b": wait\n\ndata: {}\n\n",
            "streams its answer",
        ),
        ([b"HTTP/1.1 200 OK", b"Content-Type: application/x-ndjson"], b"{}\n{}\n", "streams its answer"),
        ([b"HTTP/1.1 200 OK"], b'{"error": {"message": "no room"}, "choices": null}', "with an error: .*no room"),
        ([b"HTTP/1.1 200 OK"], b'{"error": "no room", "choices": []}', "with an error: no room"),
        ([b"HTTP/1.1 200 OK"], b'{"error": "no room", "data": []}', "with an error: no room"),
        ([b"HTTP/1.1 200 OK"], b'{"object": "error", "message": "no room"}', "with an error: no room"),
        ([b"HTTP/1.1 200 OK"], b'{"choices": [{"error": "no room", "finish_reason": "error"}]}', "with an error: no room"),
    ],
)
def test_what_is_no_answer_is_asked_for_again_and_then_told(lines, body, said):
    with answering(*lines, body=body) as (url, asked), pytest.raises(GtrTurboError, match=said):
        wire.request(url)
    assert len(asked) == 2  # As often as there are pauses, and once more.


def test_a_redirect_is_not_followed_and_takes_no_key_along(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    refused = pytest.raises(GtrTurboError, match=r"sends the request on to http://127\.0\.0\.1:\d+ \(307\)")
    with answering(b"HTTP/1.1 200 OK", body=b"{}") as (elsewhere, seen):
        away = [b"HTTP/1.1 307 Away", f"Location: {elsewhere}".encode()]
        with answering(*away) as (url, asked), refused:
            wire.request(url)
    assert (len(asked), asked[0][1], seen) == (1, "Bearer secret", [])


@pytest.mark.parametrize(
    ("told", "place"),
    [
        ("http://me:secret@there:8/v1?key=secret#secret", "http://there:8/v1"),
        ("/v1/elsewhere", "{url}/v1/elsewhere"),
        ("http://there/\x1b[31m", "http://there/␛[31m"),
        ("http://there/" + "x" * 500, "http://there/" + "x" * 187),
        ("http://[there", "what is no address"),
        ("", "what is no address"),
    ],
)
@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_told_with_where_it_leads_and_nothing_that_may_be_secret(told, place, code):
    away = [f"HTTP/1.1 {code} Away".encode(), f"Location: {told}".encode()]
    with answering(*away) as (url, _), pytest.raises(GtrTurboError) as refused:
        wire.request_once(url)
    assert refused.value.what == f"{url} sends the request on to {place.format(url=url)} ({code})."


@pytest.mark.parametrize(("code", "said"), [(300, "Several"), (304, "Not Modified")])
def test_what_is_no_redirect_is_told_as_what_it_is(code, said):
    with answering(f"HTTP/1.1 {code} {said}".encode(), b"Content-Length: 0") as (url, _):
        with pytest.raises(failures.RefusedError) as refused:
            wire.request_once(url)
        assert refused.value.what == f"{url} refused the request ({code}): {said}" and "no cache" in refused.value.fix


def test_a_proxy_that_asks_for_a_password_is_told_as_one(monkeypatch):
    with answering(b"HTTP/1.1 407 Who", b"Content-Length: 0") as (url, _), pytest.raises(GtrTurboError) as refused:
        wire.request_once(url)
    assert refused.value.fix == failures.PROXY
    with answering(b"HTTP/1.1 407 Who") as (proxy, _):
        monkeypatch.setenv("https_proxy", proxy)
        with pytest.raises(GtrTurboError, match="407") as tunnel:
            wire.request_once("https://elsewhere:9/v1/models")
    assert tunnel.value.fix == failures.PROXY


@pytest.mark.parametrize(("code", "times"), [(403, 1), (407, 1), (404, 1), (302, 1), (503, 2)])
def test_a_proxy_that_refuses_is_asked_once_and_told_by_its_variable(monkeypatch, code, times):
    with answering(f"HTTP/1.1 {code} No".encode()) as (proxy, asked):
        monkeypatch.setenv("https_proxy", proxy)
        with pytest.raises(GtrTurboError) as refused:
            wire.request("https://elsewhere:9/v1/models")
    assert refused.value.what == f"https://elsewhere:9/v1/models cannot be reached: the proxy of https_proxy answers {code} No."
    assert len(asked) == times and "https_proxy" in refused.value.fix and "no_proxy" in refused.value.fix


def test_a_proxy_that_is_not_spoken_to_by_http_is_told_at_once(monkeypatch):
    monkeypatch.setenv("http_proxy", "socks5://elsewhere:1")
    with pytest.raises(GtrTurboError, match="http_proxy names a proxy of kind socks5, which") as refused:
        wire.request_once("http://elsewhere:9/v1/models")
    assert "no_proxy" in refused.value.fix and "urlopen" not in str(refused.value)


@pytest.mark.parametrize("code", [401, 403])
def test_a_key_that_was_sent_is_told_as_refused(monkeypatch, code):
    for key, told in (("sk-of-another-server", "was sent and is refused"), ("", "without which none is sent")):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with answering(f"HTTP/1.1 {code} No".encode()) as (url, _), pytest.raises(failures.RefusedError) as refused:
            wire.request_once(url)
        assert told in refused.value.fix


@pytest.mark.parametrize("content", [{"choices": [{"x": 1}], "error": None}, {"data": [1], "error": "none"}, [], 3, {"x": 1}])
def test_what_holds_an_answer_is_one_whatever_stands_beside_it(content):
    with answering(b"HTTP/1.1 200 OK", body=json.dumps(content).encode()) as (url, _):
        assert wire.request_once(url) == content


@pytest.mark.parametrize(
    "named",
    ["http://127.0.0.1:8,http://localhost:8", "http://h:8,http://H:8", "http://h,http://h:80", "https://h,https://h:443",
     "http://h:8,http://h:8//", "http://h:8,http://h:8//v1", "http://[::1]:8,http://localhost:8", "http://h.:8,http://h:8",
     "http://[::1]:8,http://[0:0:0:0:0:0:0:1]:8", "http://127.1:8,http://127.0.0.1:8", "http://[::ffff:1.2.3.4]:8,http://1.2.3.4:8",
     "http://0.0.0.0:8,http://a.localhost:8", "HTTP://h:8,http://h:8", "http://g:8,http://h:8,http://h:8/v1"],
)  # fmt: skip
def test_one_server_under_two_names_is_refused(named):
    with pytest.raises(GtrTurboError, match=r"names (one server twice, as .* and as .*|http\S* twice)\.\nname each server once"):
        servers_of(f"vllm:{named}")


@pytest.mark.parametrize("named", ["http://h:8,http://h:9", "http://h:8/a,http://h:8/b", "http://127.0.0.2:8,http://127.0.0.1:8",
                                   "http://h:8,http://g:8", "http://h:80,https://h"])  # fmt: skip
def test_different_servers_are_not_taken_for_one(named):
    assert list(servers_of(f"vllm:{named}")) == named.split(",")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.8.9.1", "[::1]", "vllm.localhost"])
def test_the_key_of_a_server_of_this_machine_goes_to_no_proxy(monkeypatch, host):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with answering(b"HTTP/1.1 200 OK", body=b"{}") as (proxy, seen):
        monkeypatch.setenv("http_proxy", proxy)
        with pytest.raises(GtrTurboError, match="cannot be reached"):
            wire.request(f"http://{host}:9/v1/models")
        assert seen == []
        assert wire.request("http://elsewhere:9/v1/models") == {}
    assert seen == [("http://elsewhere:9/v1/models", "Bearer secret")]


def test_an_answer_is_bounded_in_bytes(monkeypatch):
    monkeypatch.setattr(wire, "LONGEST", 1 << 20)
    refused = pytest.raises(GtrTurboError, match="answers with more than 1 MiB")
    with answering(b"HTTP/1.1 200 OK", body=b" " * (2 << 20)) as (url, _), refused:
        wire.request(url)


@pytest.mark.parametrize("lines", [[b"HTTP/1.1 200 OK", b"X: " + b"x" * 1000], [b"HTTP/1.1 200 OK", b"", b" " * 1000]])
def test_an_answer_that_comes_byte_by_byte_is_bounded_in_time(monkeypatch, lines):
    monkeypatch.setattr(wire, "TIMEOUT", 0.3)
    started = time.monotonic()
    with (
        answering(*lines, pause=0.02) as (url, asked),
        pytest.raises(GtrTurboError, match=r"no whole answer within 0\.3 seconds"),
    ):
        wire.request(url)
    assert len(asked) == 1 and time.monotonic() - started < 5  # Of the 20 seconds that one answer takes.


def test_all_tries_together_take_little_longer_than_the_longest_answer_may(monkeypatch):
    # A server that lets a byte go every 20 ms, asked up to nine times with no pauses between: 9 × 0.3 s would be 2.7 s.
    monkeypatch.setattr(wire, "TIMEOUT", 0.3)
    monkeypatch.setattr(wire, "BACKOFF", (0.01,) * 8)
    started = time.monotonic()
    drip = answering(b"HTTP/1.1 200 OK", b"", b" " * 1000, pause=0.02)
    with drip as (url, asked), pytest.raises(GtrTurboError, match="no whole answer within"):
        wire.request(url)
    assert time.monotonic() - started < 1.5 and len(asked) < 4


@pytest.mark.parametrize(
    "url",
    ["", "x", "//x", "http://", "ftp://x", "file:///etc/passwd", "http://[::1", "http://a:99999", "http://a:0", "http://a b", "http://ß",
     "http://\x1b[31m", "http://" + "x" * 300],
)  # fmt: skip
def test_what_is_no_address_is_refused(url):
    with pytest.raises(GtrTurboError, match="--engine") as error:
        address_of(url)
    assert "http://localhost:8000" in error.value.fix


SECRETS = ["https://me:secret@host:8000/v1", "http://secret@host", "http://a b:secret@host", "me:secret@host", "http://h\\@secret",
           "http://host/v1?key=secret", "http://host#secret", "http://host?secret\n"]  # fmt: skip


@pytest.mark.parametrize("url", SECRETS)
def test_an_address_that_may_hold_a_secret_is_refused_without_telling_it(url):
    with pytest.raises(GtrTurboError, match="which would be shown and recorded") as error:
        address_of(url)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("url", SECRETS)
def test_a_run_refuses_such_an_address_before_it_records_anything(tmp_path, url):
    with pytest.raises(GtrTurboError, match="which would be shown and recorded") as error:
        plan(RunConfig(out=tmp_path / "run", set=(f"rollout.engine=vllm:{url}",)))
    assert "secret" not in str(error.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("key", ["secret\r\nX-Other: 1", "secret\n", "sec\0ret", "sécret", "sec\x7fret"])
def test_a_key_that_no_header_can_hold_is_refused_at_once_without_telling_it(monkeypatch, key):
    monkeypatch.setattr(wire.os, "environ", {"OPENAI_API_KEY": key})
    with answering(b"HTTP/1.1 200 OK", body=b"{}") as (url, asked), pytest.raises(GtrTurboError, match="no key has") as error:
        wire.request(url)
    assert "ret" not in str(error.value) and asked == []


@pytest.mark.parametrize("url", ["http://host:8000", "http://host:8000/", "http://host:8000/v1", "http://host:8000/v1/"])
def test_an_address_may_end_as_the_protocol_writes_it(url):
    assert address_of(url) == "http://host:8000"


def test_a_port_where_nobody_listens_is_told():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(GtrTurboError, match=r"cannot be reached: .*refused.*\nstart the server"):
            wire.request(f"http://127.0.0.1:{free.getsockname()[1]}")


def test_that_a_server_is_waited_for_is_told_once_a_minute(capsys, monkeypatch):
    monkeypatch.setattr(waiting, "_told", {})
    for url in ("http://a", "http://a", "http://b"):
        waiting.tell_waiting(url, ValueError("cannot be reached:\x1b[31m no."))
    said = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in said] == ["http://a", "http://b"]
    assert said[0].endswith("It is waited for.") and "\x1b" not in said[0]


def test_that_a_server_hangs_is_told_once(capsys, monkeypatch):
    monkeypatch.setattr(waiting, "_told", {})
    with answering(b"HTTP/1.1 200 OK", body=b"{} ", pause=0.02) as (url, _):
        for _ in range(2):
            assert wire.request(url, told_after=0.1) == {}  # It takes half a second.
        assert capsys.readouterr().err == f"{url} has not answered for 0 seconds. It is waited for.\n"
        assert wire.request(url) == {}
    assert capsys.readouterr().err == ""


def test_a_server_that_gives_way_to_others_is_asked_once_and_told_as_late(monkeypatch):
    with answering(b"HTTP/1.1 200 OK", b"", b" " * 1000, pause=0.02) as (url, asked), pytest.raises(failures.AwayError) as told:
        wire.request(url, patience=0.2)
    assert told.value.late and len(asked) == 1
    assert str(told.value) == f"{url} gives no whole answer within 0.2 seconds.\n{failures.SEE_LOG}"
