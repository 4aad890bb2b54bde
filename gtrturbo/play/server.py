"""Inference servers that speak the OpenAI chat protocol over HTTP: vLLM, SGLang, and any other for evaluation alone.

What is asked for goes beyond the protocol where training needs it: the ids of prompt and reply, the log-probs of the
distribution that was sampled from, an adapter loaded by name. Other servers refuse fields that they do not know, so they are
sent the standard ones only. Requests do not go through huggingface_hub's client, which is silent while the hub is offline.

Sources: vLLM 0.33 and SGLang 0.5.23, their OpenAI-compatible servers.
"""

import math
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError

from gtrturbo.config.addresses import address_of
from gtrturbo.config.choices import OPENAI, VLLM, ServerName
from gtrturbo.errors import GtrTurboError
from gtrturbo.play.completions import LIKELIEST, Answer, Likely, answer_of, likely_of
from gtrturbo.play.data_urls import with_pictures
from gtrturbo.play.failures import BACKOFF, AwayError, EndedError, NotFoundError, RefusedError, TriedInVainError
from gtrturbo.play.lora_serving import refused_load
from gtrturbo.play.pace import SLOW, Pace
from gtrturbo.play.protocol import Chat, Completion, ServedModels
from gtrturbo.play.waiting import LATE
from gtrturbo.play.wire import request, request_once
from gtrturbo.store.records import Message

T = TypeVar("T")
LOAD_ADAPTER = {"vllm": "/v1/load_lora_adapter", "sglang": "/load_lora_adapter"}
# No reply may come out of another distribution than it is scored under, whatever the model's generation_config.json says.
PLAIN_SAMPLING = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
NEVER = -100.0  # The lowest logit bias of the protocol.
CHAT = "/v1/chat/completions"
PROCESS, SHORTLY = "/metrics", 10.0  # what tells of the process, and seconds that it is waited for
STARTED = re.compile(r"^process_start_time_seconds (\d{1,40}(?:\.\d{1,40})?(?:e[-+]?\d{1,4})?)$", re.MULTILINE)


class Server:
    """One server and the model that is asked for there; may be used from several threads.

    Args:
        kind: what it is, which decides what it may be sent.
        base_url: where it is, with or without a final /v1.
        model: name of the model that it serves; the first that it lists if None, which it is asked for once that is needed.
        needs_ids: refuse replies without token ids, which cannot be trained on.
        own: the server was started for this stage: raises if it has ended. It is sent no key.
        began: when such a one was started, in seconds since 1970.
    """

    def __init__(
        self,
        kind: ServerName,
        base_url: str,
        model: str | None = None,
        *,
        needs_ids: bool = True,
        own: Callable[[], None] | None = None,
        began: float | None = None,
    ) -> None:
        self.kind = kind
        self.base_url = address_of(base_url)
        self.needs_ids = needs_ids
        self._own = own
        self._began = began
        self.adapter: str | None = None
        self.tries = len(BACKOFF)  # How often it is asked again where it does not answer.
        self.pace = Pace()
        self.gives_way = False  # It is waited for as long as `pace` says, as others are there; else as `request` does.
        self._heard = -math.inf  # When it answered last, on `time.monotonic`.
        self.failures = 0  # Answers that did not come: what answers after one may be another server.
        self.tokenizer_begins = False  # The tokenizer writes a beginning of sequence, and not the template.
        self._adapter_path: Path | None = None
        self._loading = Lock()
        self._model = model

    @property
    def model(self) -> str:
        """The name of the model that it serves."""
        if self._model is None:
            self._model = next(iter(self.roots()))
        return self._model

    def roots(self) -> dict[str, str | None]:
        """Return by name what the server says that it loaded each model and adapter from; None where it does not say."""
        return {entry.id: entry.root for entry in self._ask("/v1/models", ServedModels).data}

    def started(self) -> float | None:
        """Return when the server's process began, in seconds since 1970; None where it does not say, as several processes do not.

        By this machine's clock, or before: vLLM lists its models as created now, by its own.
        """
        if self._began is not None:
            return self._began
        with_key = self._own is None
        try:
            said = request_once(self.base_url + PROCESS, plain=True, with_key=with_key, timeout=SHORTLY)
        except (GtrTurboError, TriedInVainError):
            return None
        found = STARTED.search(said)
        began = float(found[1]) if found else math.nan
        if not math.isfinite(began):
            return None
        listed = self._ask("/v1/models", ServedModels).data
        ages = [each.created - began for each in listed if type(each.created) in (int, float)]
        return min([began, *(time.time() - age for age in ages)])

    @property
    def tells_tokens(self) -> bool:
        """Whether replies come with their tokens and log-probs; a server may still leave them out."""
        return self.kind != OPENAI

    @property
    def name(self) -> str:
        """What is asked for: the adapter, else the model."""
        return self.adapter or self.model

    def _failed(self) -> None:
        self.failures += 1
        if self._own:
            self._own()

    def _request(self, path: str, body: dict[str, Any] | None = None, *, plain: bool = False) -> Any:
        how = {"plain": plain, "with_key": self._own is None, "on_failure": self._failed, "tries": self.tries}
        if plain:  # An adapter is loaded, which takes as long as its disk does.
            return request(self.base_url + path, body, **how)
        tokens = body["max_tokens"] if body else 0
        limit = self.pace.limit(tokens)
        how["told_after"] = max(LATE, limit)
        if self.gives_way:  # One that answers others meanwhile is full, and not away.
            longest = time.monotonic() + SLOW * limit
            how |= {"patience": limit, "later": lambda: min(self._heard + limit, longest)}
        if tokens:
            how["on_answer"] = lambda seconds: self._answered(seconds, tokens)
        try:
            return request(self.base_url + path, body, **how)
        except AwayError as error:
            if error.late:
                self.pace.missed(limit)
            raise
        except RefusedError as error:
            if path == CHAT and isinstance(error, NotFoundError):  # An adapter may be loaded again.
                raise
            raise self._without_others(error) from None

    def _answered(self, seconds: float, tokens: int) -> None:
        self._heard = time.monotonic()
        self.pace.answered(seconds, tokens)

    def _without_others(self, error: RefusedError) -> GtrTurboError:
        """Return what to say of a refusal: a server that refuses whoever asks, among others, is away."""
        if not (self.gives_way and error.whatever_is_asked):
            return error
        self._failed()
        return error.as_away()

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
            if name not in self.roots():
                self._load(name, path)
        self.adapter, self._adapter_path = name, path

    def _load(self, name: str, path: Path) -> None:
        try:
            body = {"lora_name": name, "lora_path": str(path.resolve())}
            self._request(LOAD_ADAPTER[self.kind], body, plain=True)
        except GtrTurboError as error:
            if isinstance(error, EndedError) or (isinstance(error, AwayError) and error.passing):
                raise
            if name in self.roots():  # Another process was first.
                return
            raise refused_load(error, self.base_url, path) from None

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
            body |= {"model": self.adapter} if self.kind == VLLM else {"lora_path": self.adapter}
        if self.kind == OPENAI:
            choice = self._ask(CHAT, Chat, body).choices[0]
            return Answer(choice.message.content or "", ended=choice.ended)
        completion = self._reply(body | _exactly(forbidden, end_ids))
        return answer_of(completion, self.base_url, needs_ids=self.needs_ids)

    def likely(
        self,
        messages: Sequence[Message],
        pictures: Sequence[np.ndarray],
        *,
        begun: bool,
        temperature: float,
        seed: int,
        forbidden: Sequence[int],
        end_ids: Sequence[int],
    ) -> Likely:
        """Ask vLLM for the likeliest next tokens of a reply.

        Args:
            begun: the last message is the reply's beginning; else it begins here.
            temperature: at which they are as likely as that.
            seed: of the one that is sampled.

        Raises:
            GtrTurboError: it does not tell them.
        """
        body = {
            "model": self.name,
            "messages": with_pictures(messages, pictures),
            "temperature": temperature,
            "top_p": 1.0,
            "max_tokens": 1,
            "seed": seed % 2**31,
            "add_generation_prompt": not begun,
            "continue_final_message": begun,
        }
        completion = self._reply(body | _exactly(forbidden, end_ids) | {"top_logprobs": LIKELIEST})
        return likely_of(completion, self.base_url, count=LIKELIEST)

    def _reply(self, body: dict[str, Any]) -> Completion:
        """Ask; where the adapter is gone, as after a restart of the server, load it again and ask once more."""
        if self.kind == VLLM:
            body = body | {"return_tokens_as_token_ids": True} | ({"add_special_tokens": True} if self.tokenizer_begins else {})
        try:
            return self._ask(CHAT, Completion, body)
        except NotFoundError as error:
            if not self.adapter or not self._adapter_path or self.adapter in self.roots():
                raise self._without_others(error) from None
            self.failures += 1
            self.load_adapter(self.adapter, self._adapter_path)
            try:
                return self._ask(CHAT, Completion, body)
            except NotFoundError as again:
                raise GtrTurboError(
                    f"{self.base_url} loads {self._adapter_path}, and does not know it at the next request: {again.said}",
                    "see what unloads adapters there, or whether several servers answer by turns.",
                ) from None

    def _ask(self, path: str, kind: type[T], body: dict[str, Any] | None = None) -> T:
        """Ask, and read the answer as what it has to be.

        Raises:
            GtrTurboError: it is something else; names the place.
        """
        answer = self._request(path, body)
        try:
            return TypeAdapter(kind).validate_python(answer)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the answer"
            raise GtrTurboError(
                f"{self.base_url}{path} does not answer as the protocol says: {where}: {first['msg']}.",
                f"see that a server of kind {self.kind} is there, or name another with --engine.",
            ) from None


def _exactly(forbidden: Sequence[int], end_ids: Sequence[int]) -> dict[str, Any]:
    """Ask for tokens of the distribution that is scored, with their ids and log-probs."""
    return PLAIN_SAMPLING | {
        "logit_bias": {str(identity): NEVER for identity in forbidden},
        "stop_token_ids": list(end_ids),
        "logprobs": True,
        "top_logprobs": 0,
        "return_token_ids": True,
    }
