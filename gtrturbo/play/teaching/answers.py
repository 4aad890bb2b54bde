"""Read what a teacher answers, strictly: one JSON object, bare or in a fence, of a known form, and nothing around it."""

import json
from dataclasses import dataclass
from typing import Any, Literal, get_args

from gtrturbo.play.teachers import Question
from gtrturbo.tasks.reply import BARE, DECODER, FENCED
from gtrturbo.tasks.task import Task

Verdict = Literal["right", "wrong", "unsolvable"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
# JSON's types by Python's, for the form that a server is held to.
TYPES: dict[type, str] = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
NAME = "reply"


@dataclass(frozen=True)
class Correction:
    """What a corrector says of a turn: `reply` is what the student should have replied, where that is wrong."""

    verdict: Verdict
    reply: str | None = None


class UnreadableError(Exception):
    """Say why an answer cannot be read, in words that the teacher is told, too."""


def read_correction(text: str, question: Question) -> Correction:
    """Read a corrector's answer.

    Raises:
        UnreadableError: it is not one JSON object with a verdict, or its reply is none of the task's.
    """
    answer = _object(text)
    odd = [name for name in answer if name not in ("verdict", "reply")]
    if odd:
        raise UnreadableError('it has fields besides "verdict" and "reply"')
    verdict: Verdict | None = next((known for known in VERDICTS if answer.get("verdict") == known), None)
    if verdict is None:
        raise UnreadableError(f'its "verdict" is none of {", ".join(VERDICTS)}')
    if verdict != "wrong":
        return Correction(verdict)
    reply = _reply_text(answer.get("reply"), question)
    _require_reply(reply, question)
    return Correction(verdict, reply)


def read_thought(text: str, question: Question) -> str:
    """Read a reply of the teacher's own.

    Raises:
        UnreadableError: the task cannot read it.
    """
    _require_reply(text, question)
    return text


def _require_reply(text: str, question: Question) -> None:
    assert question.task is not None
    if question.task.read(text, question.info) is None:
        raise UnreadableError("the reply is not in the form that the student was asked for, or chooses no action that there is")


def _object(text: str) -> dict[str, Any]:
    match = FENCED.fullmatch(text) or BARE.fullmatch(text)
    if match is None:
        raise UnreadableError("it is not one JSON object")
    try:
        value, end = DECODER.raw_decode(match["object"])
        whole = not match["object"][end:].strip()
        json.dumps(value, ensure_ascii=False).encode()  # refuses half of a surrogate pair
    except (ValueError, RecursionError):
        raise UnreadableError("it is no valid JSON, or ends too early") from None
    if not whole or not isinstance(value, dict):
        raise UnreadableError("it is not one JSON object")
    return value


def _reply_text(reply: Any, question: Question) -> str:
    """Write a corrected reply as the student would have: the fields in their order, the action last."""
    task = question.task
    assert task is not None
    if task.parse is None and isinstance(reply, dict):
        named = [*task.reads, "thoughts"]
        ordered = {name: reply[name] for name in named if name in reply}
        rest = {name: value for name, value in reply.items() if name not in named and name != "action"}
        return json.dumps({**rest, **ordered, "action": reply.get("action", question.action)}, ensure_ascii=False)
    if isinstance(reply, str):
        return reply
    raise UnreadableError('its "reply" is not in the form that the student was asked for')


def correction_schema(question: Question) -> dict[str, Any]:
    """Describe a corrector's answer about a turn as a JSON schema: a verdict, and a reply or null."""
    reply = {"anyOf": [thought_schema(question), {"type": "null"}]}
    return _record({"verdict": {"type": "string", "enum": list(VERDICTS)}, "reply": reply})


def thought_schema(question: Question) -> dict[str, Any]:
    """Describe a reply as a JSON schema: its fields with the types of their true values, its action one of those allowed.

    Where a task accepts others than it lists, the action is any text.
    """
    task = question.task
    assert task is not None
    if task.parse:
        return {"type": "string"}
    truth = task.true_values(question.info)
    fields = {name: _type_of(truth.get(name, "")) for name in task.reads}
    listed = {} if task.accepts else {"enum": list(task.allowed(question.info))}
    return _record({**fields, "thoughts": {"type": "string"}, "action": {"type": "string", **listed}})


def _record(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _type_of(value: Any) -> dict[str, Any]:
    if isinstance(value, list):
        return {"type": "array", "items": _type_of(value[0] if value else "")}
    if isinstance(value, dict):
        return _record({name: _type_of(each) for name, each in value.items()})
    return {"type": TYPES.get(type(value), "string")}


def schema_for(task: Task, mode_corrects: bool, question: Question) -> dict[str, Any] | None:
    """Return the schema of an answer; None where it is no JSON, as the replies of a task with a parser of its own."""
    if mode_corrects:
        return correction_schema(question)
    return None if task.parse else thought_schema(question)
