"""What chat messages are: one judge of the prompts that a task asks with and of the turns and demos that are read.

A content is a text, or a list of parts: {"type": "text", "text": …}, and {"type": "image"} in the place of each picture.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

PART_TYPES = ("text", "image")


def message_faults(messages: Sequence[Any], images: int, *, replied: bool) -> Iterator[str]:
    """Say what is wrong with chat messages: what they are made of, the reply at the end, a picture for each image part.

    Args:
        messages: of one prompt, as JSON gives them.
        images: how many pictures come with them.
        replied: the last is the assistant's reply.
    """
    named = all(isinstance(message, Mapping) and isinstance(message.get("role"), str) for message in messages)
    parts = [part for message in messages for part in _parts(message)] if named else []
    if not messages or not named or not all(map(_is_part, parts)):
        yield f"its messages are no chat messages with content parts{_other(parts)}"
    elif replied and not _is_reply(messages[-1]):
        yield "its messages do not end with the assistant's reply"
    elif (wanted := sum(part["type"] == "image" for part in parts)) != images:
        yield f"its messages have {wanted} image parts, and it names {images} pictures"


def _parts(message: Mapping[str, Any]) -> list[Any]:
    content = message.get("content")
    return [{"type": "text", "text": content}] if isinstance(content, str) else content if isinstance(content, list) else [None]


def _is_part(part: Any) -> bool:
    if not isinstance(part, dict):
        return False
    return part.get("type") == "image" or (part.get("type") == "text" and isinstance(part.get("text"), str))


def _other(parts: Sequence[Any]) -> str:
    """Name a type of part that there is not, if there is one."""
    kinds = (part["type"] for part in parts if isinstance(part, dict) and "type" in part)
    odd = next((kind for kind in kinds if kind not in PART_TYPES), None)
    return "" if odd is None else f": one is of type {odd!r}, and there are {' and '.join(map(repr, PART_TYPES))}"


def _is_reply(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    return message["role"] == "assistant" and isinstance(content, list) and [part["type"] for part in content] == ["text"]
