"""A model on a server as it is asked: requests at once up to a bound, each answer kept before it counts, pauses shared by all.

Any server of the OpenAI chat protocol is meant: it is sent fields of the protocol alone, and those that it refuses are left out.
"""

import hashlib
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from gtrturbo.config.addresses import address_of
from gtrturbo.errors import GtrTurboError
from gtrturbo.play.failures import BACKOFF, RefusedError, TriedInVainError
from gtrturbo.play.protocol import Text
from gtrturbo.play.server import CHAT, with_pictures
from gtrturbo.play.teachers import Question
from gtrturbo.play.teaching.budget import CHARACTERS_PER_TOKEN, Budget, SpentError, picture_tokens
from gtrturbo.play.teaching.kept_answers import Answered, KeptAnswers, key_of
from gtrturbo.play.waiting import tell_waiting
from gtrturbo.play.wire import SOON, request_once
from gtrturbo.store.prices import TokenCounts
from gtrturbo.store.records import texts_of

ReplyFormat = Literal["auto", "schema", "json", "text"]
# From the form that holds an answer most to none; a server that refuses one is sent the next.
FORMATS: tuple[ReplyFormat, ...] = ("schema", "json", "text")
LONGEST_PAUSE = 600.0  # seconds that a server may ask to wait; beyond, the work is better taken up later
LIMITED_TRIES = 40  # of a request that only the rate keeps back
SPREAD = 0.25  # of a pause: those who wait do not come back at once
UNPROCESSABLE = (400, 422)
NEW_LIMIT, OLD_LIMIT = "max_completion_tokens", "max_tokens"
REACHED = "see that the server is there and give the same command again: what was answered is kept, and not asked again."


@dataclass(frozen=True)
class _CachedTokens:
    cached_tokens: Annotated[int, Field(ge=0)] | None = None


@dataclass(frozen=True)
class _Usage:
    prompt_tokens: Annotated[int, Field(ge=0, lt=2**40)] | None = None
    completion_tokens: Annotated[int, Field(ge=0, lt=2**40)] | None = None
    prompt_tokens_details: _CachedTokens | None = None


@dataclass(frozen=True)
class _SaidMessage:
    content: Text | None = None
    refusal: Text | None = None


@dataclass(frozen=True)
class _SaidChoice:
    message: _SaidMessage
    finish_reason: str | None = None


@dataclass(frozen=True)
class _SaidChat:
    """An answer as the protocol says; what stands beside it is not looked at."""

    choices: Annotated[list[_SaidChoice], Field(min_length=1)]
    model: Text | None = None
    system_fingerprint: Text | None = None
    usage: _Usage | None = None


@dataclass(frozen=True)
class Sampling:
    """How a server is to answer: sampling temperature, longest answer in tokens, and the form that it is held to."""

    temperature: float
    max_tokens: int
    reply_format: ReplyFormat = "auto"


@dataclass(frozen=True)
class _Fields:
    """The fields that a server is sent beside the messages: the form it is held to, its limit's name, a temperature or none."""

    form: ReplyFormat
    limit: str = OLD_LIMIT
    heats: bool = True


Schema = Callable[[Question], dict[str, Any] | None]


class ChatModel:
    """A model on a server; see `ask`.

    Args:
        address, model: where it is, and what it is asked for as.
        kept: the answers that there are.
        budget: what may be paid.
        sampling: how it is to answer.
        at_once: most requests at once.
        timeout: seconds for one answer.
    """

    def __init__(
        self, address: str, model: str, kept: KeptAnswers, budget: Budget, sampling: Sampling, *, at_once: int, timeout: float
    ) -> None:
        self.address, self.model, self.kept, self.budget, self.sampling = address_of(address), model, kept, budget, sampling
        self._at_once, self._timeout = at_once, timeout
        self._stop, self._lock, self._not_before = threading.Event(), threading.Lock(), 0.0
        self._fields = _Fields(FORMATS[0] if sampling.reply_format == "auto" else sampling.reply_format)

    def ask(self, questions: Sequence[Question], schema: Schema, *, on_answer: Callable[[], None]) -> list[Answered]:
        """Answer questions, from what was answered before where it was; equal ones are asked once.

        Args:
            questions: their messages and pictures are what is asked.
            schema: of an answer, as a JSON schema; None where it is no JSON.
            on_answer: called once for each answer that is there.

        Raises:
            GtrTurboError: the budget is spent, the server refuses, or it does not answer. All answers that came are kept.
        """
        asked = [self._asked(question) for question in questions]
        keys = [key_of(each) for each in asked]
        first = {key: place for place, key in reversed([*enumerate(keys)])}
        found: dict[str, Answered] = {}
        pool = ThreadPoolExecutor(self._at_once)
        self._stop.clear()
        try:
            running: dict[Future[Answered], str] = {}
            for key, place in sorted(first.items(), key=lambda item: item[1]):
                if (kept := self.kept.find(key)) is not None:
                    found[key] = kept
                    on_answer()
                    continue
                work = pool.submit(self._answer, key, asked[place], questions[place], schema(questions[place]))
                work.add_done_callback(lambda _: on_answer())
                running[work] = key
            wait(running, return_when=FIRST_EXCEPTION)
            self._raise_first(running)
            found |= {key: work.result() for work, key in running.items()}
        except Exception as error:
            self._stop.set()
            pool.shutdown(wait=True, cancel_futures=True)  # What is under way is paid for, and is kept when it arrives.
            if not isinstance(error, SpentError):
                raise
            there = sum(self.kept.find(key) is not None for key in first)
            raise SpentError(f"{error.what} {there} of {len(first)} questions are answered.", error.fix) from None
        except BaseException:
            self._stop.set()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return [found[key] for key in keys]

    def _raise_first(self, running: dict[Future[Answered], str]) -> None:
        for work in running:
            if work.done() and (error := work.exception()) is not None:
                raise error

    def _asked(self, question: Question) -> dict[str, Any]:
        """Return what decides an answer; of each picture the hash of its pixels, which no encoder changes."""
        return {
            "address": self.address,
            "model": self.model,
            "messages": question.messages,
            "pictures": [_hash_of(picture) for picture in question.pictures],
            **asdict(self.sampling),
        }

    def _answer(self, key: str, asked: dict[str, Any], question: Question, schema: dict[str, Any] | None) -> Answered:
        with self.kept.asking(key):
            if (kept := self.kept.find(key)) is not None:
                return kept
            answer = self._paid(question, schema)
            self.kept.keep(key, asked, answer)
            return answer

    def _paid(self, question: Question, schema: dict[str, Any] | None) -> Answered:
        """Ask until there is an answer, or no hope of one."""
        pictures = question.pictures
        likely = estimated(question.messages, [picture.shape[:2] for picture in pictures], self.sampling.max_tokens)
        messages = _plain(with_pictures(question.messages, pictures))
        trouble = tries = limited = 0
        said = ""
        while tries <= len(BACKOFF) and limited <= LIMITED_TRIES:
            self._wait()
            reserved, started = self.budget.begin(likely), time.monotonic()
            paid: TokenCounts | None = None
            sent = self._fields
            try:
                body = self._body(messages, schema, sent)
                answer = self._read(request_once(self.address + CHAT, body, timeout=self._timeout))
                paid = answer.tokens if answer.told else likely
                seconds = round(time.monotonic() - started, 3)
                return replace(answer, seconds=seconds, form=sent.form if schema else "", heated=sent.heats)
            except TriedInVainError as error:
                said, paid = str(error), likely if error.maybe_paid else None
                limited, tries = limited + error.limited, tries + (not error.limited)
                if trouble == SOON:
                    tell_waiting(self.address + CHAT, error)
                self._pause(error, trouble)
                trouble += 1
            except RefusedError as error:
                if not self._leave_out(error, sent):
                    raise
            finally:
                self.budget.end(reserved, paid, time.monotonic() - started)
        raise GtrTurboError(f"{self.address}{CHAT} {said}", REACHED)

    def _wait(self) -> None:
        """Wait as long as any answer asked for.

        Raises:
            GtrTurboError: the work was stopped meanwhile.
        """
        while not self._stop.is_set() and (left := self._not_before - time.monotonic()) > 0:
            self._stop.wait(left * (1 + SPREAD * random.random()))
        if self._stop.is_set():
            raise GtrTurboError("the work was stopped.")

    def _pause(self, error: TriedInVainError, trouble: int) -> None:
        pause = BACKOFF[min(trouble, len(BACKOFF) - 1)]
        if error.after is not None:
            if error.after > LONGEST_PAUSE:
                raise GtrTurboError(f"{self.address} asks to wait for {error.after:.0f} seconds.", REACHED)
            pause = max(error.after, BACKOFF[0] if trouble else 0.0)
        if error.limited or error.after is not None:  # It holds for all, not for this request alone.
            with self._lock:
                self._not_before = max(self._not_before, time.monotonic() + pause)
        else:
            self._stop.wait(pause)

    def _body(self, messages: list[dict[str, Any]], schema: dict[str, Any] | None, fields: _Fields) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.model, "messages": messages, fields.limit: self.sampling.max_tokens}
        if fields.heats:
            body["temperature"] = self.sampling.temperature
        if schema and fields.form == "schema":
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
        elif schema and fields.form == "json":
            body["response_format"] = {"type": "json_object"}
        return body

    def _leave_out(self, error: RefusedError, sent: _Fields) -> bool:
        """Leave out of all further requests what a server does not take of `sent`; return False where it is none of these.

        Models that reason take no temperature, and their limit has another name. Where another request learned meanwhile what
        is not taken, nothing more is left out: this one is sent again as that one is.
        """
        with self._lock:
            if error.code not in UNPROCESSABLE:
                return False
            if self._fields != sent:
                return True
            if NEW_LIMIT in error.said and sent.limit == OLD_LIMIT:
                self._fields = replace(sent, limit=NEW_LIMIT)
            elif "temperature" in error.said and sent.heats:
                self._fields = replace(sent, heats=False)
            elif self.sampling.reply_format == "auto" and sent.form != FORMATS[-1]:
                self._fields = replace(sent, form=FORMATS[FORMATS.index(sent.form) + 1])
            else:
                return False
            return True

    def _read(self, answer: Any) -> Answered:
        try:
            said = TypeAdapter(_SaidChat).validate_python(answer)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the answer"
            raise TriedInVainError(f"does not answer as the protocol says: {where}: {first['msg']}.", maybe_paid=True) from None
        choice, usage = said.choices[0], said.usage
        counted = usage is not None and usage.prompt_tokens is not None and usage.completion_tokens is not None
        cached = usage.prompt_tokens_details.cached_tokens if usage and usage.prompt_tokens_details else None
        read = (usage.prompt_tokens or 0) if usage else 0
        return Answered(
            text=choice.message.content or "",
            tokens=TokenCounts(read, min(cached or 0, read), (usage.completion_tokens or 0) if usage else 0),
            refused=choice.message.refusal is not None or choice.finish_reason == "content_filter",
            truncated=choice.finish_reason == "length",
            model=said.model or "",
            fingerprint=said.system_fingerprint or "",
            told=counted,
        )


def _plain(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write what an assistant said as a text, which all servers take."""
    return [
        message | {"content": "\n".join(texts_of([message]))} if message["role"] == "assistant" else message
        for message in messages
    ]


def _hash_of(picture: np.ndarray) -> str:
    return hashlib.sha256(repr(picture.shape).encode() + picture.tobytes()).hexdigest()


def estimated(messages: Sequence[dict[str, Any]], sizes: Sequence[tuple[int, ...]], max_tokens: int) -> TokenCounts:
    """Estimate what a call reads, and take it to write as much as it may: before its answer nobody knows.

    Args:
        messages: with parts of text.
        sizes: of the pictures: height and width.
    """
    texts = texts_of(messages)
    pictures = sum(picture_tokens(height, width) for height, width in sizes)
    return TokenCounts(-(-sum(map(len, texts)) // CHARACTERS_PER_TOKEN) + pictures, 0, max_tokens)
