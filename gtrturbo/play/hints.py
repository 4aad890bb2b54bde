"""Hints: what a teacher is told in words besides what the student saw, the field's privileged information.

Sources: OPSD (arXiv 2601.18734), whose teacher is the model itself, told a solution; SDPO (arXiv 2601.20802), told what came of
the attempt; HERO (arXiv 2606.11559), told it turn by turn.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gtrturbo.algorithms.returns import undiscounted
from gtrturbo.config.choices import GOOD_REPLY, HINTS, OUTCOME, TRUTH
from gtrturbo.errors import GtrTurboError
from gtrturbo.store.records import Message, Turn, parts_of

if TYPE_CHECKING:  # What only reads artifacts must not wait for Gymnasium.
    from gtrturbo.tasks.task import Task
    from gtrturbo.tasks.view import ChatPrompt, View

TOLD = "The following is known and true:"


@dataclass(frozen=True)
class EpisodeEnd:
    """How an episode ended: whether it was won, and its return, the undiscounted sum of its rewards."""

    won: bool
    total: float


def outcome_of(turns: Sequence[Turn]) -> EpisodeEnd:
    """Say how one whole episode ended."""
    return EpisodeEnd(turns[-1].won, undiscounted(turn.reward for turn in turns))


def outcomes(turns: Iterable[Turn]) -> dict[int, EpisodeEnd]:
    """Say how each episode ended, by its index; all of its turns have to be there."""
    episodes: dict[int, list[Turn]] = {}
    for turn in turns:
        episodes.setdefault(turn.episode, []).append(turn)
    return {index: outcome_of(played) for index, played in episodes.items()}


def require_known(hints: Sequence[str], task: "Task") -> None:
    """Refuse hints that a task cannot give.

    Raises:
        GtrTurboError: names the hint and the task.
    """
    if TRUTH in hints and task.truth is None:
        raise GtrTurboError(f"{task.name} does not know what its pictures show.", f"leave out --hints {TRUTH}.")
    if GOOD_REPLY in hints and task.expert is None:
        raise GtrTurboError(f"{task.name} has no expert.", f"leave out --hints {GOOD_REPLY}.")


def in_words(hints: Sequence[str], task: "Task | None", info: Mapping[str, Any], outcome: EpisodeEnd | None) -> str:
    """Put what is known of a state into words, a line for each hint; empty for none.

    Args:
        hints: any of `HINTS`.
        task: knows truth and expert; where only the outcome is told it is not asked.
        info: what is known of the state.
        outcome: of the episode; where it is not told, it need not be known.
    """
    lines = []
    for hint in (each for each in HINTS if each in hints):
        if hint == OUTCOME:
            assert outcome is not None
            lines.append(f"How the episode ended: {'won' if outcome.won else 'not won'}, with a return of {outcome.total:g}")
            continue
        assert task is not None
        if hint == TRUTH:
            assert task.truth is not None
            lines.append(f"What the picture shows: {json.dumps(task.true_values(info), ensure_ascii=False)}")
        else:
            lines.append(f"A good reply: {task.expert_reply(info)}")
    return "\n".join(lines)


def told(messages: Sequence[Message], hints: str) -> list[Message]:
    """Append hints in words to the last message that a user wrote; the others, and its pictures, stay."""
    if not hints:
        return list(messages)
    last = max(place for place, message in enumerate(messages) if message["role"] == "user")
    parts = parts_of(messages[last])
    more = f"\n\n{TOLD}\n{hints}"
    if parts and parts[-1]["type"] == "text":  # Not a part of its own: chat templates join parts in different ways.
        parts = [*parts[:-1], parts[-1] | {"text": parts[-1]["text"] + more}]
    else:
        parts = [*parts, {"type": "text", "text": more.strip()}]
    return [*messages[:last], messages[last] | {"content": parts}, *messages[last + 1 :]]


def told_task(task: "Task", hints: Sequence[str]) -> "Task":
    """Make a task whose prompts hold the hints while it is played.

    Raises:
        GtrTurboError: the task cannot give them, or nobody can yet: how an episode ends.
    """
    if not hints:
        return task
    if OUTCOME in hints:
        raise GtrTurboError("how an episode ends is not known while it is played.", f"leave out --hints {OUTCOME}.")
    require_known(hints, task)

    def prompt(view: "View") -> "ChatPrompt":
        asked = task.ask(view)
        return replace(asked, messages=told(asked.messages, in_words(hints, task, view.info, None)))

    return replace(task, prompt=prompt)
