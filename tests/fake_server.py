"""An inference server for tests: the wire of vLLM or SGLang before a checkpoint in memory, and what goes wrong on it."""

import base64
import io
import json
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from PIL import Image

STANDARD = {"model", "messages", "temperature", "top_p", "max_tokens", "seed"}
EXTENDED = {
    "top_k", "min_p", "repetition_penalty", "logit_bias", "stop_token_ids", "logprobs", "top_logprobs", "return_token_ids",
}  # fmt: skip
CONTINUED = {"add_generation_prompt", "continue_final_message", "return_tokens_as_token_ids", "add_special_tokens"}


@dataclass
class Fake:
    """A server's state. `failures` are answered first, in order, and 0 is none; `seconds` is how long a reply takes."""

    policy: object
    kind: str = "vllm"
    failures: list[int] = field(default_factory=list)
    seconds: float = 0.0
    ids: bool = True
    drift: bool = False
    end: bool = True
    off: float = 0.0  # nats that every log-prob is too high
    coldest: float = 0.0  # what temperatures below it are raised to, 0 among them
    likeliest: bool = False  # it takes the likeliest token, and tells its log-prob at the temperature that was asked for
    cached: bool = False  # what a prompt was answered at a temperature it is answered again, whatever the seed
    seed: int | None = None  # of every reply, whatever is sent
    root: str | None = None  # where it says that its model lies
    started: float | None = field(default_factory=time.time)  # when it says that its process began
    requests: list[dict] = field(default_factory=list)
    loads: list[dict] = field(default_factory=list)
    adapters: dict = field(default_factory=dict)
    answers: dict = field(default_factory=dict)  # that were cached
    tries: int = 0
    running: int = 0
    most_running: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""
    stop: object = None  # ends it at once, as a server that is killed

    @property
    def known(self) -> set[str]:
        return STANDARD | (set() if self.kind == "openai" else EXTENDED | ({"lora_path"} if self.kind == "sglang" else set()))

    def load(self, body: dict) -> tuple[int, object]:
        from gtrturbo.models.checkpoint import load_policy

        if body.keys() != {"lora_name", "lora_path"} or not Path(body["lora_path"]).is_absolute():
            return 400, {"message": "bad adapter"}
        self.loads.append(body)
        self.adapters[body["lora_name"]] = load_policy(Path(body["lora_path"]), device="cpu")
        return 200, "Success"

    def chat(self, body: dict) -> tuple[int, object]:
        if unknown := body.keys() - self.known - (CONTINUED if self.kind == "vllm" else set()):
            return 422, {"message": f"extra fields: {sorted(unknown)}"}
        adapter = body["lora_path"] if "lora_path" in body else body["model"]
        if adapter != "served" and adapter not in self.adapters:
            return 404, {"message": f"no model {adapter}"}
        self.requests.append(body)
        if self.seconds:
            time.sleep(self.seconds)
        body = body | ({} if self.seed is None else {"seed": self.seed})
        with self.lock:
            key = json.dumps({name: value for name, value in body.items() if name not in {"seed", "max_tokens"}})
            if not (self.cached and key in self.answers):
                self.answers[key] = self.reply(body, self.adapters.get(adapter, self.policy))
            return 200, self.answers[key]

    def reply(self, body: dict, policy) -> dict:
        messages, pictures = [], []
        for message in body["messages"]:
            parts = [{"type": "image"} if part["type"] == "image_url" else part for part in message["content"]]
            messages.append({"role": message["role"], "content": parts})
            pictures += [picture_of(part["image_url"]["url"]) for part in message["content"] if part["type"] == "image_url"]
        if "continue_final_message" in body:
            return self.likely(body, policy, messages, pictures)
        prompt = policy.renderer.prompt(messages, pictures)
        temperature = max(body["temperature"], self.coldest)
        greedy = temperature == 0
        uniforms = np.random.default_rng(body["seed"]).random((1, body["max_tokens"]))
        [sample] = policy.generate(
            [prompt],
            None if greedy or self.likeliest else uniforms,
            temperature=1.0 if greedy else temperature,
            max_new_tokens=body["max_tokens"],
        )
        ids, logprobs = sample.response_ids.tolist(), sample.logprobs.tolist()
        if not self.end:
            ids, logprobs = ids[:-1], logprobs[:-1]
        reason = "stop" if ids[-1] in policy.end_ids else "length"
        choice = {
            "message": {"role": "assistant", "content": policy.renderer.decode(ids)[0]},
            "index": 0,
            "finish_reason": reason,
        }
        if not self.ids or not body.get("return_token_ids"):
            return {"choices": [choice]}
        names = [f"token_id:{identity}" if body.get("return_tokens_as_token_ids") else "?" for identity in ids]
        told = [{"token": name, "logprob": value + self.off} for name, value in zip(names, logprobs, strict=True)]
        choice |= {"token_ids": ids, "logprobs": {"content": told}}
        prompt_ids = prompt.ids.tolist()[int(self.drift) :]
        if self.kind == "sglang":
            return {"choices": [choice | {"prompt_token_ids": prompt_ids}]}
        return {"choices": [choice], "prompt_token_ids": prompt_ids}

    def likely(self, body: dict, policy, messages: list, pictures: list) -> dict:
        """The likeliest tokens after the beginning of a reply, as vLLM tells them."""
        import torch

        begun = body["continue_final_message"]
        assert begun != body["add_generation_prompt"] and body["return_tokens_as_token_ids"]
        prompt = policy.renderer.prompt(messages[:-1] if begun else messages, pictures)
        text = messages[-1]["content"][0]["text"] if begun else ""
        ids = np.array(policy.renderer.response_ids(text)[0], np.int32)  # The end of turn stands for what comes next.
        temperature = max(body["temperature"], self.coldest)
        with torch.no_grad():
            scored = policy.score(
                [prompt], [ids], temperature=temperature or 1.0, values=False, read=lambda logits, _: (logits.log_softmax(-1),)
            )
        logprobs = scored.read[0].reshape(-1, scored.read[0].shape[-1])[len(ids) - 1]
        values, found = logprobs.topk(body["top_logprobs"])
        generator = torch.Generator().manual_seed(body["seed"])
        sampled = int(torch.multinomial(logprobs.exp(), 1, generator=generator) if temperature else found[0])
        told = [
            {"token": f"token_id:{identity}", "logprob": value + self.off}
            for identity, value in zip(found.tolist(), values.tolist(), strict=True)
        ]
        if sampled not in found.tolist():
            told.insert(0, {"token": f"token_id:{sampled}", "logprob": float(logprobs[sampled]) + self.off})
        own = next(each for each in told if each["token"] == f"token_id:{sampled}")
        content = [own | {"top_logprobs": told}]
        choice = {"message": {"role": "assistant", "content": "?"}, "index": 0, "logprobs": {"content": content}}
        return {"choices": [choice], "prompt_token_ids": [*prompt.ids.tolist(), *ids[:-1].tolist()]}


def picture_of(url: str) -> np.ndarray:
    head, _, data = url.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


@contextmanager
def serving(policy, port=0, **settings):
    """Run a server in this process for as long as the block runs."""
    fake = Fake(policy, **settings)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/health":
                self.answer(200, "")
                return
            if self.path == "/metrics" and fake.started is not None:
                self.answer(200, f"# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds {fake.started}\nx 1.0\n")
                return
            paths = {body["lora_name"]: body["lora_path"] for body in fake.loads}
            listed = [{"id": "served", "root": fake.root}, *({"id": name, "root": paths.get(name)} for name in fake.adapters)]
            self.answer(*((200, {"data": listed}) if self.path == "/v1/models" else (404, {})))

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with fake.lock:
                fake.tries += 1
                fake.running += 1
                fake.most_running = max(fake.most_running, fake.running)
                failure = fake.failures.pop(0) if fake.failures else None
            load = {"vllm": "/v1/load_lora_adapter", "sglang": "/load_lora_adapter"}.get(fake.kind)
            if failure:
                status, content = failure, {"message": "not now"}
            elif self.path == load:
                status, content = fake.load(body)
            else:
                status, content = fake.chat(body) if self.path == "/v1/chat/completions" else (404, {})
            with fake.lock:
                fake.running -= 1
            self.answer(status, content)

        def answer(self, status, content):
            text = content if isinstance(content, str) else json.dumps(content)
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    fake.url = f"http://127.0.0.1:{server.server_port}"
    fake.stop = server.server_close
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
