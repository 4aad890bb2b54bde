"""What is checked of a task's prompts and replies: their form, who reads them, and where the action stands."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from gtrturbo.play.episodes import State
from gtrturbo.play.trial import Check, Episodes, different, player, range_of, states
from gtrturbo.tasks.task import Task
from gtrturbo.tasks.wording import replies, written

MOST_WORDED = 4000
MOST_STATES = 40  # States in which every action is tried.


def prompts(task: Task, episodes: Episodes) -> Check:
    """Tell how many pictures prompts have, and of what size; what no prompt may have is refused when it is asked."""
    sizes = sorted({image.shape[:2] for state in states(episodes) for image in state.images})
    counts = sorted({len(state.images) for state in states(episodes)})
    shown = ", ".join(f"{width} × {height}" for height, width in sizes[:4])
    if not sizes:
        return Check("prompts", True, "text alone, no picture.")
    return Check("prompts", True, f"pictures in each: {range_of(counts)}, of {shown} pixels.")


def known(task: Task, episodes: Episodes) -> Check:
    """See that what is known is the same after it was written and read again, and gives the same advice."""
    for state in states(episodes):
        try:
            again = json.loads(json.dumps(state.info, allow_nan=False))
        except ValueError:
            return Check("known", False, "what is known holds a number that is not finite.", "let `known` say null.")
        if again != state.info or (task.expert and task.expert_reply(again) != task.expert_reply(state.info)):
            return Check("known", False, "what is known changes when it is written as JSON.", "use texts, numbers, lists, dicts.")
    names = ", ".join(next(states(episodes)).info) or "nothing"
    return Check("known", True, f"is JSON: {names}.")


def round_trip(task: Task, episodes: Episodes) -> Check:
    """Read the expert's own replies in every state, and the random expert's, those that were played with too."""
    name, count = "expert's replies", 0
    if task.expert is None and not task.writes_random_replies:
        return Check(name, None, "there is no expert.")
    for state in states(episodes):
        for place, text in enumerate(replies(task, state.info)):
            reply = task.read(text, state.info)
            if reply is None:
                return _unread(name, task, text, state)
            advice = task.expert(state.info) if task.expert and place == 0 else ""
            if not isinstance(advice, str) and reply.action != advice[1]:
                return Check(name, False, f"{text!r} is read as {reply.action!r}.", "mend parse, or expert.")
        count += 1
    for played in (played for episode in episodes for played in episode):
        if played.reply is None and player(task, played.state.episode) != "chance":
            return _unread(name, task, played.response.text, played.state)
    whose = "" if task.expert else ", the random expert's; there is no other"
    return Check(name, True, f"are read as they were meant in {count} states{whose}.")


def _unread(name: str, task: Task, text: str, state: State) -> Check:
    return Check(
        name,
        False,
        f"{text!r} cannot be read, or its action is none of {', '.join(task.allowed(state.info))}.",
        "mend parse, or the experts; thoughts are text, and what is read off the picture comes as `reads` says.",
    )


def spans(task: Task, episodes: Episodes) -> Check:
    """Put every allowed action at the place that the parser names, and read it again."""
    tried = 0
    for state, action, text in worded(task, episodes):
        reply = task.read(text, state.info)
        start, end = reply.action_span if reply else (0, 0)
        if reply is None or reply.action != action:
            found = f"{reply.action!r} at {text[start:end]!r}" if reply else "nothing"
            return Check(
                "spans",
                False,
                f"in {text!r} the parser finds {found}, not {action!r}.",
                "let action_span be the first and past-the-last character of the action's own text.",
            )
        tried += 1
    if not tried:
        return Check("spans", None, untried(task))
    return Check("spans", True, f"the parser finds the characters of every allowed action, {tried} tried.")


def untried(task: Task) -> str:
    """Say why there is no reply to try."""
    shown = task.expert or task.writes_random_replies
    why = "no reply of its experts can be read" if shown else "the task has its own parser and no expert to show a reply"
    return f"not checked: {why}."


def worded(task: Task, episodes: Episodes) -> Iterator[tuple[State, str, str]]:
    """Yield states with each allowed action and a reply that chooses it."""
    found = (
        (state, action, text)
        for state in islice(different(episodes), MOST_STATES)
        for action in task.allowed(state.info)
        for text in written(task, state.info, action)
    )
    yield from islice(found, MOST_WORDED)


def perception(task: Task, episodes: Episodes) -> Check:
    """See that the expert's replies read truly, and that a changed field does not."""
    if task.truth is None or task.expert is None:
        missing = "truth" if task.truth is None else "expert"
        return Check("perception", None, f"not checked: there is no {missing}.")
    for state in states(episodes):
        reply = task.read(task.expert_reply(state.info), state.info)
        if reply is None:
            return Check("perception", False, "an expert's reply cannot be read.", "see above.")
        if not task.perception_correct(reply, state.info):
            return Check(
                "perception",
                False,
                f"the expert's {dict(reply.fields)} is not what truth says: {task.true_values(state.info)}.",
                "let truth, reads and the parser's fields bear the same names.",
            )
        for field in task.true_values(state.info):
            for value in (f"not {reply.fields[field]}", _other(reply.fields[field])):
                wrong = replace(reply, fields={**reply.fields, field: value})
                if task.perception_correct(wrong, state.info):
                    return Check("perception", False, f"a wrong {field}, {value!r}, counts as read truly.", "mend truth.")
    return Check("perception", True, f"true of the expert's replies, false where one of {', '.join(task.reads)} is changed.")


def _other(value: Any) -> Any:
    """Return another value of the same kind; of null, which is alone of its kind, a number."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return 2 * abs(value) + 1
    if isinstance(value, list):
        return [_other(value[0]), *value[1:]] if value else [0]
    if isinstance(value, dict):
        return {name: _other(each) for name, each in value.items()} if value else {"": 0}
    return f"{value} and more" if isinstance(value, str) else 0
