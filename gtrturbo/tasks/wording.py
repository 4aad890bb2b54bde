"""A reply for an action that somebody else chose: how a task is played by hand, and its parser is tried on every action."""

import json
from collections.abc import Iterator

import numpy as np

from gtrturbo.tasks.task import Task
from gtrturbo.tasks.view import Info


def reply_with(task: Task, info: Info, action: str) -> str | None:
    """Return a whole reply that chooses an action; None where the task has a parser of its own and no expert shows a reply."""
    return next(written(task, info, action), None)


def written(task: Task, info: Info, action: str) -> Iterator[str]:
    """Yield the expert's and the random expert's reply with their action's characters exchanged for another action's.

    Where a reply is the usual JSON and there is no expert, it has no thoughts.
    """
    shown = action if task.parse else json.dumps(action, ensure_ascii=False)[1:-1]
    for text in replies(task, info):
        reply = task.read(text, info)
        if reply is not None:
            start, end = reply.action_span
            yield text[:start] + shown + text[end:]


def replies(task: Task, info: Info) -> Iterator[str]:
    """Yield the replies that the task itself can write in a state."""
    if task.expert:
        yield task.expert_reply(info)
    if task.writes_random_replies:
        yield task.random_expert_reply(info, np.random.default_rng(0))
