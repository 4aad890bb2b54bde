"""Inference servers that speak the OpenAI chat protocol over HTTP: vLLM, SGLang, and any other for evaluation alone.

What is asked for goes beyond the protocol where training needs it: the ids of prompt and reply, the log-probs of the
distribution that was sampled from, an adapter loaded by name. Other servers refuse fields that they do not know, so they are
sent the standard ones only. Requests do not go through huggingface_hub's client, which is silent while the hub is offline.

Sources: vLLM 0.33 and SGLang 0.5.23, their OpenAI-compatible servers.
"""

import base64
import io
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gtrturbo.config.choices import ServerName
from gtrturbo.errors import GtrTurboError
from gtrturbo.store.records import Message

# Seconds before each further try: a server that restarts or is full is waited for, about two minutes in all.
BACKOFF = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
TIMEOUT = 600.0
TOO_MANY_REQUESTS = 429
LOAD_ADAPTER = {"vllm": "/v1/load_lora_adapter", "sglang": "/load_lora_adapter"}
# No reply may come out of another distribution than it is scored under, whatever the model's generation_config.json says.
PLAIN_SAMPLING = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
NEVER = -100.0  # The lowest logit bias of the protocol.


@dataclass(frozen=True)
class Answer:
    """What a server replied; ids and log-probs (nats, of what was sampled from) only where it was asked for them."""

    text: str
    prompt_ids: np.ndarray | None = None  # [P] int32
    response_ids: np.ndarray | None = None  # [R] int32, end-of-turn token included
    logprobs: np.ndarray | None = None  # [R] float32


class Server:
    """One server and the model that is asked for there; may be used from several threads.

    Args:
        kind: what it is, which decides what it may be sent.
        base_url: where it is, with or without a final /v1.
        model: name of the model that it serves; the first that it lists if None.
        needs_ids: refuse replies without token ids, which cannot be trained on.
    """

    def __init__(self, kind: ServerName, base_url: str, model: str | None = None, *, needs_ids: bool = True) -> None:
        self.kind = kind
        self.base_url = base_url.rstrip("/").removesuffix("/v1")
        self.model = model or self._served()[0]
        self.needs_ids = needs_ids
        self.adapter: str | None = None

    def _served(self) -> list[str]:
        return [str(entry["id"]) for entry in self._request("/v1/models")["data"]]

    def load_adapter(self, name: str, path: Path) -> None:
        """Load a LoRA adapter under a name, unless the server has it, and ask it for all replies from now on.

        Raises:
            GtrTurboError: the server cannot, or a generic one was asked to.
        """
        if self.kind == "generic":
            raise GtrTurboError(
                f"{path} is an adapter, and a generic server loads none.",
                "serve the model itself, or use --server vllm or sglang.",
            )
        if name not in self._served():
            self._request(LOAD_ADAPTER[self.kind], {"lora_name": name, "lora_path": str(path.resolve())}, plain=True)
        self.adapter = name

    def chat(
        self,
        messages: Sequence[Message],
        pictures: Sequence[np.ndarray],
        *,
        temperature: float,
        max_new_tokens: int,
        seed: int,
        forbidden: Sequence[int],
        end_id: int,
    ) -> Answer:
        """Ask for one reply.

        Args:
            messages: chat messages; image parts are filled from `pictures`, each [H, W, 3] uint8, in order.
            temperature: of sampling; 0 takes the most likely token.
            max_new_tokens: longest reply.
            seed: of this reply.
            forbidden: tokens that are never sampled.
            end_id: token that ends a reply.
        """
        body: dict[str, Any] = {
            "model": self.model,
            "messages": with_pictures(messages, pictures),
            "temperature": temperature,
            "top_p": 1.0,
            "max_tokens": max_new_tokens,
            "seed": seed % 2**31,
        }
        if self.adapter:
            body |= {"model": self.adapter} if self.kind == "vllm" else {"lora_path": self.adapter}
        if self.kind == "generic":
            return Answer(_choice(self._request("/v1/chat/completions", body))["message"]["content"] or "")
        body |= PLAIN_SAMPLING | {
            "logit_bias": {str(identity): NEVER for identity in forbidden},
            "stop_token_ids": [end_id],
            "logprobs": True,
            "top_logprobs": 0,
            "return_token_ids": True,
        }
        return self._answer(self._request("/v1/chat/completions", body))

    def _answer(self, reply: Any) -> Answer:
        choice = _choice(reply)
        ids = choice.get("token_ids")
        prompt_ids = choice.get("prompt_token_ids") or reply.get("prompt_token_ids")
        text = choice["message"]["content"] or ""
        if ids is None or prompt_ids is None:
            if not self.needs_ids:
                return Answer(text)
            raise GtrTurboError(
                f"{self.base_url} returned no token ids: what it samples cannot be trained on.",
                "use vLLM 0.33 or SGLang 0.5.23 or newer; --server generic is enough for eval.",
            )
        logprobs = [entry["logprob"] for entry in (choice.get("logprobs") or {}).get("content") or []]
        if len(logprobs) != len(ids):
            raise GtrTurboError(f"{self.base_url} returned {len(ids)} token ids and {len(logprobs)} log-probs of them.")
        return Answer(text, np.array(prompt_ids, np.int32), np.array(ids, np.int32), np.array(logprobs, np.float32))

    def _request(self, path: str, body: dict[str, Any] | None = None, *, plain: bool = False) -> Any:
        """Send one request; try again on what may pass: lost connections, a full server (429), its own failures (5xx).

        Raises:
            GtrTurboError: the server refuses the request, or does not answer however often it is asked.
        """
        request = urllib.request.Request(self.base_url + path, headers=_headers())
        if body is not None:
            request.data = json.dumps(body, allow_nan=False).encode()
        for pause in (*BACKOFF, None):
            try:
                with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
                    content = response.read()
                    return None if plain else json.loads(content)
            except urllib.error.HTTPError as error:
                said = error.read().decode(errors="replace")[:500]
                if error.code < 500 and error.code != TOO_MANY_REQUESTS:
                    raise GtrTurboError(f"{self.base_url}{path} refused the request ({error.code}): {said}") from None
                trouble = f"answered {error.code}: {said}"
            except (OSError, json.JSONDecodeError) as error:  # URLError, timeouts and broken connections are OSErrors.
                trouble = f"cannot be reached: {error}"
            if pause is not None:
                time.sleep(pause)
        raise GtrTurboError(f"{self.base_url}{path} {trouble}", "start the server, or name another with --base-url.")


def _choice(reply: Any) -> dict[str, Any]:
    return reply["choices"][0]


def _headers() -> dict[str, str]:
    key = os.environ.get("OPENAI_API_KEY")
    return {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})


def with_pictures(messages: Sequence[Message], pictures: Sequence[np.ndarray]) -> list[Message]:
    """Fill the image parts of messages as the protocol wants them: PNG files in data URLs."""
    waiting = iter(pictures)

    def filled(part: dict[str, Any]) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": data_url(next(waiting))}} if part["type"] == "image" else part

    return [message | {"content": [filled(part) for part in message["content"]]} for message in messages]


def data_url(picture: np.ndarray) -> str:
    """Write a picture, [H, W, 3] uint8, as a PNG file in a data URL; nothing is lost."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
