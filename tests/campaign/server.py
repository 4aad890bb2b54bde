"""Hostile servers: rollout, eval and distill ask a server whose answers are wrong in one way each.

The server is a process of its own. The address names the case: http://127.0.0.1:PORT/<part>/<number>/v1/…; the first answer of
that part, or each, is replaced.
"""

import json
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from campaign.cases import Case, FoundError, Group, Verdict
from campaign.forked import forked
from campaign.hostile import BODIES, CHAT, FINE_STATUSES, MODELS, RED, STATUSES, WIRES, Text, Wire
from campaign.prepared import TASK, Prepared, named_in
from campaign.terminal import inspect, last

PATIENCE = 25.0
PLAY = f"{TASK} --episodes 1 --num-envs 1 --max-new-tokens 24"
SERVER = "--engine vllm:"
COMMANDS = {
    "rollout": f"rollout --out out --checkpoint {{warm}} {PLAY} {SERVER}",
    "rollout sglang": f"rollout --out out --checkpoint {{warm}} {PLAY} --engine sglang:",
    "rollout adapter": f"rollout --out out --checkpoint {{adapter2}} {PLAY} {SERVER}",
    "eval": f"eval --out out --checkpoint {{warm}} {PLAY} {SERVER}",
    "eval generic": f"eval --out out --checkpoint {{warm}} {PLAY} --engine openai:",
    "thoughts": "distill --out out --rollouts {turns} --teacher {warm} --mode thoughts --max-new-tokens 24 --retries 1 " + SERVER,
}
# What is wrong, but no matter for a command that needs text alone.
ABOUT_TOKENS = ("ids ", "prompt ids ", "logprobs ")
# Odd texts are replies like others, and lists of models may hold more than the one that is asked for.
# Tokens of the right number, of which only the log-probs tell that another model said them.
TEXTS_ARE_FINE = ("ids zeros", "ids backwards", "content ", "more", "an error beside", "id ", "choices list of maps")


@dataclass(frozen=True)
class Part:
    """What of the server is hostile: `path` is how its requests end, `answers` by name replace true ones."""

    path: str
    answers: dict[str, Any]
    commands: tuple[str, ...]


def _parts() -> dict[str, Part]:
    statuses = {f"status {status}": status for status in STATUSES}
    return {
        "chat": Part("/chat/completions", CHAT, ("rollout", "eval", "thoughts")),
        "generic": Part(
            "/chat/completions", {name: CHAT[name] for name in CHAT if not name.startswith(ABOUT_TOKENS)}, ("eval generic",)
        ),
        "bodies": Part("/chat/completions", BODIES | statuses, ("rollout", "eval generic", "thoughts")),
        "wires": Part("/chat/completions", dict(WIRES), ("rollout", "eval generic")),
        "models": Part("/models", MODELS | BODIES | statuses | WIRES, ("rollout", "eval generic")),
        "adapters": Part("load_lora_adapter", BODIES | statuses | WIRES, ("rollout adapter",)),
        # Whose prompt's ids lie elsewhere.
        "sglang": Part(
            "/chat/completions", {name: CHAT[name] for name in list(CHAT)[::3] if "prompt" not in name}, ("rollout sglang",)
        ),
    }


PARTS = _parts()


class Servers:
    """Makes the cases, and keeps the server."""

    def __init__(self, prepared: Prepared, seed: int) -> None:
        self.prepared = prepared
        self.port = 0

    def groups(self) -> Iterator[Group]:
        for name, part in PARTS.items():
            needs = ["warm", *(each for command in part.commands for each in named_in(COMMANDS[command]))]
            yield Group(f"server/{name}", needs, partial(self._cases, name, part))

    def _cases(self, name: str, part: Part) -> Iterator[Case]:
        self.port = self.port or start_server(self.prepared.path("warm"))
        for number, answer in enumerate(part.answers):
            for command in part.commands:
                title = f"server/{name}/{answer}/{command}".replace(" ", "_")
                yield Case(f"hostile {name}", title, partial(self._run, name, number, answer, command))

    def _run(self, part: str, number: int, name: str, command: str, folder: Path) -> Verdict:
        address = f"http://127.0.0.1:{self.port}/{part}/{number}"
        words = [*self.prepared.words(COMMANDS[command]), address]
        ended = forked(words, folder, before=_impatient, patience=PATIENCE)
        if ended.interrupted:
            raise FoundError("hang", "ended by Ctrl-C only")
        inspect(ended)
        if ended.code:
            return Verdict("refused", last(ended.said))
        if not may_pass(PARTS[part].answers[name], name, command):
            raise FoundError("silent", "the answer was taken")
        return Verdict("accepted")


def may_pass(answer: Any, name: str, command: str) -> bool:
    """Tell whether a command may end well although one answer was replaced by this one."""
    if "rollout adapter" in command and not name.startswith("status"):
        return True  # What the server says of an adapter that it loaded is not looked at.
    if isinstance(answer, Wire):
        return answer.fine
    if isinstance(answer, int) and name.startswith("status"):
        return answer in FINE_STATUSES
    text_alone = not command.startswith("rollout")
    return name.startswith(TEXTS_ARE_FINE) or (text_alone and name.startswith(ABOUT_TOKENS))


def _impatient() -> None:
    from gtrturbo.play import wire

    wire.BACKOFF, wire.TIMEOUT = (0.01,), 2.0
    os.environ["OPENAI_API_KEY"] = "secret"


# The server.


def start_server(checkpoint: Path) -> int:
    """Begin a process that serves a checkpoint, truly but for what the address says; return its port. It ends with this one."""
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    parent = os.getpid()
    if os.fork() == 0:
        os.setsid()
        _serve(listening, checkpoint, parent)
    listening.close()
    return port


def _serve(listening: socket.socket, checkpoint: Path, parent: int) -> None:
    from gtrturbo.models.checkpoint import load_policy

    from fake_server import Fake  # isort: skip

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    fakes = {kind: Fake(load_policy(checkpoint, device="cpu"), kind=kind) for kind in ("vllm", "sglang", "openai")}
    known: dict[str, Any] = {}

    def true_answer(path: str, body: bytes) -> tuple[int, Any]:
        if path.endswith("/models"):
            return 200, {"data": [{"id": "served"}]}
        if path.endswith("load_lora_adapter"):
            return 200, "Success"
        content = json.loads(body)
        kind = "sglang" if "/sglang/" in path else "vllm" if "return_token_ids" in content else "openai"
        content["model"] = "served"
        key = kind + json.dumps(content, sort_keys=True)
        with fakes[kind].lock:
            if key not in known:
                known[key] = fakes[kind].reply(content, fakes[kind].policy)
        return 200, known[key]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(b"")

        def do_POST(self) -> None:
            self.answer(self.rfile.read(int(self.headers["Content-Length"])))

        def answer(self, asked: bytes) -> None:
            status, content = true_answer(self.path, asked)
            part, number = self.path.split("/")[1:3]
            if self.path.endswith(PARTS[part].path):
                replaced = list(PARTS[part].answers.values())[int(number)]
                if isinstance(replaced, Wire):
                    self._on_the_wire(replaced, content)
                    return
                status, content = _replaced(replaced, status, content)
            body = content.encode() if isinstance(content, Text) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _on_the_wire(self, wire: Wire, content: Any) -> None:
            self.close_connection = True
            try:
                wire.send(self.connection, json.dumps(content).encode())
            except OSError:
                return  # The client has had enough.

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(listening.getsockname(), Handler, bind_and_activate=False)
    server.socket = listening
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    server.timeout = 1.0
    while os.getppid() == parent:
        server.handle_request()
    os._exit(0)


def _replaced(answer: Any, status: int, content: Any) -> tuple[int, Any]:
    if isinstance(answer, int) and not isinstance(answer, bool) and answer in STATUSES:
        return answer, content if answer in FINE_STATUSES else {"message": RED}
    return status, answer(content) if callable(answer) else answer
