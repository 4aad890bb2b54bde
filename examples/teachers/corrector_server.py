"""A corrector on a server of your own, to try GTR without an API: it speaks the OpenAI chat protocol and is as wrong as you like.

It needs Python alone.

    python examples/teachers/corrector_server.py --port 8123 --wrong 0.2
    gtrturbo run --method gtr --teacher openai:solver --address http://127.0.0.1:8123 --hints truth --hints expert \
        --iterations 5 --out runs/gtr

With a command after `--` it serves while that runs. It knows no task and sees no picture: with these `--hints` each
question holds the task's truth and its scripted expert's reply, of which it makes its answer. `GET /calls` says how often it was
asked. The tests of this repository use it, faults and all.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

GOOD = re.compile(r"^A good reply: (.*)$", re.MULTILINE)
STUDENT = re.compile(r"^The student replied:\n<<<\n(.*)\n>>>$", re.MULTILINE | re.DOTALL)
ACTIONS = re.compile(r"^.*The action is one of: (.*)\.$", re.MULTILINE)
STYLES = ("strict", "fenced", "prose", "truncated", "refusing", "declining")
OPPOSITES = {"larger": "smaller", "smaller": "larger", "up": "down", "down": "up"}
HOPELESS = "no formula makes"  # as the scripted experts of the card games begin where nothing wins


@dataclass
class Corrector:
    """How the server answers, and what it was asked.

    Attributes:
        wrong: share of the answers that are wrong, chosen by the question, so that the same is always answered alike.
        style: strict JSON, in a fence, in prose, cut off, as a refusal in words, or as the protocol's own refusal.
        repairs: a second question about an answer that could not be read is answered strictly.
        faults: what happens to the next requests instead of an answer, in order: a status such as 429 or 500, with seconds to
            wait as in 429:2; slow, half, bad, away, garbled.
        seconds: that an answer takes.
        no_schema, no_json: the server refuses to be held to a form.
        new_limit: it takes max_completion_tokens alone, and no temperature.
        key: that it wants; None for none.
    """

    wrong: float = 0.0
    style: str = "strict"
    repairs: bool = True
    seed: int = 0
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0
    no_schema: bool = False
    no_json: bool = False
    new_limit: bool = False
    key: str | None = None
    echo: str = ""  # Stands in what refusals say.
    url: str = ""
    tries: int = 0
    running: int = 0
    most_running: int = 0
    at: list[float] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    verdicts: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, body: dict[str, Any]) -> tuple[int, Any]:
        """Answer a request: a status, and what is sent."""
        if refused := self._refused(body):
            return 400, {"error": {"message": f"{refused} {self.echo}"}}
        question = texts_of(body["messages"][0])
        said = self.correction(question) if STUDENT.search(question) else self.thought(question)
        if said is None:
            return 400, {"error": {"message": "the question holds no hints: ask with --hints truth --hints expert."}}
        strict = self.style == "strict" or (self.repairs and len(body["messages"]) > 1)
        text, finish = styled(said, "strict" if strict else self.style)
        declined = not strict and self.style == "declining"
        with self.lock:
            self.requests.append(body)
        message = {"role": "assistant", "content": None if declined else text, "refusal": "no." if declined else None}
        read = len(question) // 4 + 85 * len(pictures_of(body))
        return 200, {
            "id": "1",
            "object": "chat.completion",
            "model": f"{body['model']}-2026-01-31",
            "system_fingerprint": "fp_solver",
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": {
                "prompt_tokens": read,
                "completion_tokens": len(text) // 4 + 1,
                "prompt_tokens_details": {"cached_tokens": read // 2},
            },
        }

    def _refused(self, body: dict[str, Any]) -> str:
        form = body.get("response_format", {}).get("type")
        if self.new_limit and "max_tokens" in body:
            return "Unsupported parameter: use 'max_completion_tokens' instead."
        if self.new_limit and "temperature" in body:
            return "Unsupported value: 'temperature' does not support 0.2 with this model."
        if form and (self.no_json or (self.no_schema and form == "json_schema")):
            return f"response_format {form} is not supported."
        return ""

    def correction(self, question: str) -> str | None:
        """Correct the student as the hints say, or wrongly."""
        good, student = GOOD.search(question), STUDENT.search(question)
        if not good or not student:
            return None
        true, replied = json.loads(good[1]), student[1]
        verdict, reply = self._verdict(true, replied, question)
        with self.lock:
            self.verdicts[verdict] += 1
        return json.dumps({"verdict": verdict} | ({"reply": reply} if verdict == "wrong" else {}), ensure_ascii=False)

    def _verdict(self, true: dict[str, Any], replied: str, question: str) -> tuple[str, Any]:
        if true["thoughts"].startswith(HOPELESS):
            return "unsolvable", None
        right = without_thoughts(replied) == without_thoughts(json.dumps(true))
        if not self.errs(question):
            return ("right", None) if right else ("wrong", true)
        if not right and chance(self.seed, "misses", question) < 0.5:
            return "right", None
        return "wrong", self.mistaken(true, question)

    def thought(self, question: str) -> str | None:
        """Reply as the hints say, or wrongly."""
        good = GOOD.search(question)
        if not good:
            return None
        true = json.loads(good[1])
        return json.dumps(self.mistaken(true, question) if self.errs(question) else true, ensure_ascii=False)

    def errs(self, question: str) -> bool:
        return chance(self.seed, "errs", question) < self.wrong

    def mistaken(self, true: dict[str, Any], question: str) -> dict[str, Any]:
        """Turn a true reply into a wrong one: opposite words or other numbers in its thoughts, another action."""
        listed = ACTIONS.search(question)
        others = [action for action in json.loads(f"[{listed[1]}]") if action != true["action"]] if listed else []
        place = int(chance(self.seed, "which", question) * len(others))
        words = [OPPOSITES.get(word, str(int(word) + 1) if word.isdecimal() else word) for word in true["thoughts"].split(" ")]
        misread = chance(self.seed, "misreads", question) < 0.5
        fields = {
            name: shifted(value) if misread else value for name, value in true.items() if name not in ("thoughts", "action")
        }
        return fields | {"thoughts": " ".join(words), "action": others[place] if others else true["action"]}


def chance(seed: int, what: str, question: str) -> float:
    """Draw a number in [0, 1) that belongs to a question."""
    return int.from_bytes(hashlib.sha256(f"{seed} {what} {question}".encode()).digest()[:6]) / 2**48


def shifted(value: Any) -> Any:
    return value + 1 if isinstance(value, int) else value[::-1] if isinstance(value, str | list) else value


def without_thoughts(text: str) -> Any:
    """Return the fields of a reply but its thoughts, as texts; None where it is no JSON object."""
    try:
        fields = json.loads(text)
    except ValueError:
        return None
    return {name: str(value) for name, value in fields.items() if name != "thoughts"} if isinstance(fields, dict) else None


def styled(text: str, style: str) -> tuple[str, str]:
    """Write an answer in a style; also say why it ended."""
    if style == "fenced":
        return f"```json\n{text}\n```", "stop"
    if style == "prose":
        return f"Sure! Here is my correction:\n\n{text}\n\nLet me know if you need more.\x1b[31m", "stop"
    if style == "truncated":
        return text[: len(text) // 2], "length"
    if style == "refusing":
        return "I'm sorry, but I can't help with that.", "stop"
    return text, "stop"


def texts_of(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content if part["type"] == "text")


def pictures_of(body: dict[str, Any]) -> list[str]:
    parts = [part for message in body["messages"] if isinstance(message["content"], list) for part in message["content"]]
    return [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]


class Handler(BaseHTTPRequestHandler):
    """Speaks HTTP for a corrector, which is the server's."""

    @property
    def corrector(self) -> Corrector:
        return self.server.corrector  # type: ignore[attr-defined]

    def do_GET(self) -> None:
        listed = {"/v1/models": {"data": [{"id": "solver"}]}, "/calls": {"calls": len(self.corrector.requests)}}
        self.send(*((200, listed[self.path]) if self.path in listed else (404, {})))

    def do_POST(self) -> None:
        corrector = self.corrector
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with corrector.lock:
            corrector.tries += 1
            corrector.at.append(time.monotonic())
            corrector.running += 1
            corrector.most_running = max(corrector.most_running, corrector.running)
            fault = corrector.faults.pop(0) if corrector.faults else ""
        try:
            if corrector.key and self.headers["Authorization"] != f"Bearer {corrector.key}":
                self.send(401, {"error": {"message": f"Incorrect API key: {self.headers['Authorization']}"}})
            elif fault:
                self.fail(fault, body)
            elif self.path != "/v1/chat/completions":
                self.send(404, {})
            else:
                time.sleep(corrector.seconds)
                self.send(*corrector.answer(body))
        finally:
            with corrector.lock:
                corrector.running -= 1

    def fail(self, fault: str, body: dict[str, Any]) -> None:
        """Do one of the things that servers do instead of answering."""
        kind, _, detail = fault.partition(":")
        if kind.isdecimal():
            wait = {"Retry-After": detail} if detail else {}
            self.send(int(kind), {"error": {"message": f"not now \x1b[31m {self.corrector.echo}"}}, wait)
        elif kind == "slow":
            time.sleep(float(detail or 5))
            self.send(200, {})
        elif kind == "half":
            text = json.dumps(self.corrector.answer(body)[1])
            self.send_head(200, {"Content-Length": str(len(text.encode()))})
            self.wfile.write(text.encode()[: len(text) // 2])
            self.close_connection = True
        elif kind == "bad":
            self.send_head(200, {"Content-Length": "6"})
            self.wfile.write(b"<html>")
        elif kind == "away":
            self.send(307, {}, {"Location": detail})
        else:
            self.send(200, {"choices": []})

    def send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        text = json.dumps(content).encode()
        self.send_head(status, {"Content-Length": str(len(text)), **(headers or {})})
        self.wfile.write(text)

    def send_head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Listening(ThreadingHTTPServer):
    """A server that says nothing of clients that went away."""

    daemon_threads = True
    request_queue_size = 128
    corrector: Corrector

    def handle_error(self, *_: Any) -> None:
        """They did not wait."""


def listening(corrector: Corrector, port: int) -> Listening:
    """Open a port for a corrector; 0 takes any that is free."""
    server = Listening(("127.0.0.1", port), Handler)
    server.corrector = corrector
    corrector.url = f"http://127.0.0.1:{server.server_port}"
    return server


@contextmanager
def serving(corrector: Corrector, port: int = 0) -> Iterator[Corrector]:
    """Serve in this process for as long as the block runs."""
    server = listening(corrector, port)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield corrector
    finally:
        server.shutdown()
        server.server_close()


def main() -> None:
    """Serve until Ctrl-C, or while a command runs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--wrong", type=float, default=0.0, help="share of the answers that are wrong")
    parser.add_argument("--style", choices=STYLES, default="strict", help="how answers are written")
    parser.add_argument("--seconds", type=float, default=0.0, help="that an answer takes")
    parser.add_argument("--seed", type=int, default=0, help="chooses which answers are wrong")
    parser.add_argument("command", nargs="*", help="after --: serve while it runs")
    given = parser.parse_args()
    corrector = Corrector(wrong=given.wrong, style=given.style, seconds=given.seconds, seed=given.seed)
    if given.command:
        with serving(corrector, given.port):
            sys.exit(subprocess.run(given.command).returncode)
    server = listening(corrector, given.port)
    print(f"listening at {server.corrector.url}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print(f"{len(server.corrector.requests)} calls")


if __name__ == "__main__":
    main()
