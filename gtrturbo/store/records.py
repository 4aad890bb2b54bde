"""Rows of turns.jsonl and demos.jsonl. Images are named relative to the artifact, so other trainers load the files too."""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasChoices, ConfigDict, Field, TypeAdapter, ValidationError

from gtrturbo.errors import GtrTurboError
from gtrturbo.store.files import write_whole
from gtrturbo.store.inside import PlainName
from gtrturbo.store.strict_json import parse_json

Message = dict[str, Any]


def _named(*names: str) -> Any:
    """Read a field under its name, or under the one that earlier versions wrote."""
    return Field(validation_alias=AliasChoices(*names))


@dataclass(frozen=True)
class Successor:
    """The state after a truncated turn, which would have gone on: what the policy would have been given next."""

    messages: list[Message]
    images: list[PlainName]


@dataclass(frozen=True)
class Turn:
    """One turn of an episode: what was seen, what was replied, what came of it.

    `messages` holds the user's message (image parts and text parts) and the assistant's reply; `images` the paths of the image
    parts in order. `action` is what the reply chose (None: it did not parse, so `legal` is False) and `executed` what the
    environment was given (None: nothing). `perception_correct` says whether the reply states what the picture shows (None: it did
    not parse, or the task knows no truth). `reward` is the sum of `reward_terms`. `info` is what is known of the state before the
    action. `successor` is there where the turn was truncated. `agent` names what a server was asked for: the adapter or model
    that wrote the reply. `group` is the deal that an episode shares with others; None where each has one of its own.
    """

    __pydantic_config__ = ConfigDict(allow_inf_nan=False, extra="forbid")

    episode: int
    turn: int
    seed: int
    messages: list[Message]
    images: list[PlainName]
    action: str | None
    executed: str | None
    legal: bool
    perception_correct: Annotated[bool | None, _named("perception_correct", "reads_truly")]
    reward: float
    reward_terms: dict[str, float]
    terminated: bool
    truncated: bool
    won: bool
    info: dict[str, Any]
    successor: Successor | None = None
    agent: Annotated[str | None, _named("agent", "policy")] = None
    group: int | None = None

    @property
    def last(self) -> bool:
        return self.terminated or self.truncated

    @property
    def reply(self) -> str:
        return self.messages[-1]["content"][0]["text"]


@dataclass(frozen=True)
class Demo:
    """One reply to imitate. Characters of the reply inside `masked_spans` ([start, end) pairs) carry no loss: the action.

    `teacher` is whose reply it is; None where that was not recorded.
    """

    __pydantic_config__ = ConfigDict(allow_inf_nan=False, extra="forbid")

    messages: list[Message]
    images: list[PlainName]
    masked_spans: Annotated[list[tuple[int, int]], _named("masked_spans", "unlearned")]
    teacher: str | None = None


def parts_of(message: Message) -> list[dict[str, Any]]:
    """Return the parts of a message's content; a content that is a text is one part."""
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def texts_of(messages: Iterable[Message]) -> list[str]:
    """Return the texts of all messages in their order, without the pictures."""
    return [part["text"] for message in messages for part in parts_of(message) if part["type"] == "text"]


def said(reply: str) -> Message:
    """Lay out the assistant's reply as a chat message."""
    return {"role": "assistant", "content": [{"type": "text", "text": reply}]}


def chat(prompt: str, reply: str | None = None) -> list[Message]:
    """Lay out one turn as chat messages with content parts: user (image, text) and, if there is one, the assistant's reply."""
    question: Message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}
    if reply is None:
        return [question]
    return [question, said(reply)]


def write_rows(path: Path, rows: Iterable[Turn | Demo]) -> None:
    """Write one JSON object per line. Raises ValueError for NaN or infinity, which JSON cannot hold."""
    lines = [json.dumps(asdict(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
    write_whole(path, "".join(lines).encode())


def read_rows(path: Path, kind: type) -> Iterator[Any]:
    """Read rows back, each validated.

    Raises:
        GtrTurboError: a line is no such row; names file, line and field.
    """
    yield from parse_rows(path.read_bytes(), path, kind)


def parse_rows(content: bytes, path: Path, kind: type) -> Iterator[Any]:
    """Validate each line of a file that was read, as `read_rows` does."""
    adapter = TypeAdapter(kind)
    lines = content.removesuffix(b"\n").split(b"\n") if content else []
    for number, line in enumerate(lines, start=1):
        try:
            row = adapter.validate_json(line, strict=True)
            parse_json(line)  # Of a key that stands twice the other parser takes the last.
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise GtrTurboError(f"{path} line {number}: {where or 'row'}: {first['msg']}.") from None
        except ValueError as error:
            raise GtrTurboError(f"{path} line {number}: {error}.") from None
        yield row


def mean(numbers: Iterable[float]) -> float:
    """Return the mean, and 0 for no numbers."""
    values = list(numbers)
    return math.fsum(values) / len(values) if values else 0.0
