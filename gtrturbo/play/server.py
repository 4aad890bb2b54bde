"""Inference servers that speak the OpenAI chat protocol over HTTP: vLLM, SGLang, and any other for evaluation alone.

What is asked for goes beyond the protocol where training needs it: the ids of prompt and reply, the log-probs of the
distribution that was sampled from, an adapter loaded by name. Other servers refuse fields that they do not know, so they are
sent the standard ones only. Requests do not go through huggingface_hub's client, which is silent while the hub is offline.

Sources: vLLM 0.33 and SGLang 0.5.23, their OpenAI-compatible servers.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, TypeVar

import numpy as np
from PIL import Image
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from gtrturbo.config.addresses import address_of
from gtrturbo.config.choices import OPENAI, ServerName
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint_files import adapter_config
from gtrturbo.play.teachers import ROUNDING
from gtrturbo.play.wire import NotFoundError, request
from gtrturbo.store.records import Message

T = TypeVar("T")
LOAD_ADAPTER = {"vllm": "/v1/load_lora_adapter", "sglang": "/load_lora_adapter"}
# No reply may come out of another distribution than it is scored under, whatever the model's generation_config.json says.
PLAIN_SAMPLING = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
LEGAL_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # What vLLM takes as --max-lora-rank.
NEVER = -100.0  # The lowest logit bias of the protocol.


CHAT = "/v1/chat/completions"


def _as_unicode(text: str) -> str:
    """Refuse halves of characters, which JSON can hold and no file."""
    text.encode()
    return text


# What the protocol says of answers; what stands beside it is not looked at.
Text = Annotated[str, AfterValidator(_as_unicode)]
TokenId = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
LogProb = Annotated[float, Field(strict=True, ge=float(np.finfo(np.float32).min), le=ROUNDING, allow_inf_nan=False)]


@dataclass(frozen=True)
class _ServedModel:
    id: Annotated[Text, Field(min_length=1)]
    root: Text | None = None


@dataclass(frozen=True)
class _ServedModels:
    data: Annotated[list[_ServedModel], Field(min_length=1)]


@dataclass(frozen=True)
class _ReplyMessage:
    content: Text | None


@dataclass(frozen=True)
class _TextChoice:
    message: _ReplyMessage


@dataclass(frozen=True)
class _Chat:
    """A reply as every server gives it."""

    choices: Annotated[list[_TextChoice], Field(min_length=1)]


@dataclass(frozen=True)
class _TokenLogProb:
    logprob: LogProb


@dataclass(frozen=True)
class _LogProbs:
    content: list[_TokenLogProb] | None = None


@dataclass(frozen=True)
class _SampledChoice(_TextChoice):
    token_ids: list[TokenId] | None = None
    prompt_token_ids: list[TokenId] | None = None
    logprobs: _LogProbs | None = None


@dataclass(frozen=True)
class _Completion:
    """A reply with its tokens: vLLM gives the prompt's beside the choices, SGLang in them."""

    choices: Annotated[list[_SampledChoice], Field(min_length=1)]
    prompt_token_ids: list[TokenId] | None = None


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
        self.base_url = address_of(base_url)
        self.needs_ids = needs_ids
        self.adapter: str | None = None
        self.starts = 0  # How often nobody listened: what listens after that may be another server.
        self._adapter_path: Path | None = None
        self._loading = Lock()
        self.model = model or self._served()[0]

    def _served(self) -> list[str]:
        return [entry.id for entry in self._ask("/v1/models", _ServedModels).data]

    def root(self) -> str | None:
        """Return what the server says that it loaded its model from; None where it does not say."""
        return next((entry.root for entry in self._ask("/v1/models", _ServedModels).data if entry.id == self.model), None)

    @property
    def tells_tokens(self) -> bool:
        """Whether replies come with their tokens and log-probs; a server may still leave them out."""
        return self.kind != OPENAI

    def _refused(self) -> None:
        self.starts += 1

    def load_adapter(self, name: str, path: Path) -> None:
        """Load a LoRA adapter under a name, unless the server has it, and ask it for all replies from now on.

        Raises:
            GtrTurboError: the server cannot, or one of kind openai was asked to.
        """
        if self.kind == OPENAI:
            raise GtrTurboError(
                f"{path} is an adapter, and a server of kind openai loads none.",
                "serve the model itself, or use --engine vllm:… or sglang:…",
            )
        with self._loading:
            if name not in self._served():
                self._load(name, path)
        self.adapter, self._adapter_path = name, path

    def _load(self, name: str, path: Path) -> None:
        url = self.base_url + LOAD_ADAPTER[self.kind]
        try:
            request(url, {"lora_name": name, "lora_path": str(path.resolve())}, plain=True, on_refused=self._refused)
        except NotFoundError as error:
            raise GtrTurboError(
                f"{self.base_url} loads no adapters while it runs, and {path} is one ({error.what.rpartition('/')[2]}).",
                "start vLLM with --enable-lora, and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 around it; SGLang with --enable-lora.",
            ) from None
        except GtrTurboError as error:
            rank = adapter_config(path).get("r")
            raise GtrTurboError(
                f"{self.base_url} does not take the adapter {path} of rank {rank}: {error.what.removeprefix(url).strip()}",
                f"start vLLM with --enable-lora --max-lora-rank {legal_rank(rank)}; it has to see that folder, too.",
            ) from None

    def chat(
        self,
        messages: Sequence[Message],
        pictures: Sequence[np.ndarray],
        *,
        temperature: float,
        max_new_tokens: int,
        seed: int,
        forbidden: Sequence[int],
        end_ids: Sequence[int],
    ) -> Answer:
        """Ask for one reply.

        Args:
            messages: chat messages; image parts are filled from `pictures`, each [H, W, 3] uint8, in order.
            temperature: of sampling; 0 takes the most likely token.
            max_new_tokens: longest reply.
            seed: of this reply.
            forbidden: tokens that are never sampled.
            end_ids: tokens that end a reply, each of them.
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
        if self.kind == OPENAI:
            return Answer(self._ask(CHAT, _Chat, body).choices[0].message.content or "")
        body |= PLAIN_SAMPLING | {
            "logit_bias": {str(identity): NEVER for identity in forbidden},
            "stop_token_ids": list(end_ids),
            "logprobs": True,
            "top_logprobs": 0,
            "return_token_ids": True,
        }
        return self._answer(self._reply(body))

    def _reply(self, body: dict[str, Any]) -> _Completion:
        """Ask; where the adapter is gone, as after a restart of the server, load it again and ask once more."""
        try:
            return self._ask(CHAT, _Completion, body)
        except NotFoundError:
            if not self.adapter or not self._adapter_path or self.adapter in self._served():
                raise
            self.starts += 1
            self.load_adapter(self.adapter, self._adapter_path)
            return self._ask(CHAT, _Completion, body)

    def _answer(self, completion: "_Completion") -> Answer:
        choice = completion.choices[0]
        ids, prompt_ids = choice.token_ids, choice.prompt_token_ids or completion.prompt_token_ids
        text = choice.message.content or ""
        if ids is None or prompt_ids is None:
            if not self.needs_ids:
                return Answer(text)
            raise GtrTurboError(
                f"{self.base_url} returned no token ids: what it samples cannot be trained on.",
                f"use vLLM 0.33 or SGLang 0.5.23 or newer; --engine openai:{self.base_url} is enough for eval.",
            )
        logprobs = [each.logprob for each in (choice.logprobs.content if choice.logprobs else None) or []]
        if len(logprobs) != len(ids):
            raise GtrTurboError(f"{self.base_url} returned {len(ids)} token ids and {len(logprobs)} log-probs of them.")
        return Answer(text, np.array(prompt_ids, np.int32), np.array(ids, np.int32), np.array(logprobs, np.float32))

    def _ask(self, path: str, kind: type[T], body: dict[str, Any] | None = None) -> T:
        """Ask, and read the answer as what it has to be.

        Raises:
            GtrTurboError: it is something else; names the place.
        """
        answer = request(self.base_url + path, body, on_refused=self._refused)
        try:
            return TypeAdapter(kind).validate_python(answer)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the answer"
            raise GtrTurboError(
                f"{self.base_url}{path} does not answer as the protocol says: {where}: {first['msg']}.",
                f"see that a server of kind {self.kind} is there, or name another with --engine.",
            ) from None


def legal_rank(rank: Any) -> int:
    """Return the least rank that vLLM can be started with and that holds an adapter's."""
    return next((legal for legal in LEGAL_RANKS if isinstance(rank, int) and rank <= legal), LEGAL_RANKS[-1])


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
