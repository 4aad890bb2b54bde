"""A reply for an action that somebody else chose: how a task is played by hand, and its parser is tried on every action."""

import json
from collections.abc import Iterator

import numpy as np

from gtrturbo.tasks.reply import Reply
from gtrturbo.tasks.task import Task
from gtrturbo.tasks.view import Info


def reply_with(task: Task, info: Info, action: str) -> str | None:
    """Return a whole reply that chooses an action; None where the task has a parser of its own and no expert shows a reply."""
    return next(written(task, info, action), None)


def written(task: Task, info: Info, action: str) -> Iterator[str]:
    """Yield the expert's and the random expert's reply with their action's characters exchanged for another action's.

    Where a reply is the usual JSON and there is no expert, it has no thoughts.
    """
    for text in replies(task, info):
        reply = task.read(text, info)
        if reply is not None:
            yield with_action(task, info, text, reply, action)[0]


def with_action(task: Task, info: Info, text: str, reply: Reply, action: str) -> tuple[str, tuple[int, int]]:
    """Put another action in the place of a reply's own, written as the task reads it there, if it does at all.

    Args:
        task, info: what reads the reply, and in which state.
        text, reply: the whole reply, and what was read of it.
        action: the other action.

    Returns: the whole reply with it, and its first and past-the-last character.
    """
    start, end = reply.action_span
    made = [(text[:start] + shown + text[end:], (start, start + len(shown))) for shown in _ways(task, text, start, action)]
    return next((each for each in made if chooses(task, info, each[0], action)), made[0])


def chooses(task: Task, info: Info, text: str, action: str) -> bool:
    """Tell whether a task reads a reply, and this action in it."""
    reply = task.read(text, info)
    return reply is not None and reply.action == action


def _ways(task: Task, text: str, start: int, action: str) -> list[str]:
    """List how an action may have to be written at a place: as in JSON, where a number may stand without the quotes of a text."""
    quoted = json.dumps(action, ensure_ascii=False)
    if task.parse is None:
        return [quoted[1:-1] if text[start - 1] == '"' else quoted]
    return [action, quoted[1:-1], quoted]


def replies(task: Task, info: Info) -> Iterator[str]:
    """Yield the replies that the task itself can write in a state."""
    if task.expert:
        yield task.expert_reply(info)
    if task.writes_random_replies:
        yield task.random_expert_reply(info, np.random.default_rng(0))
