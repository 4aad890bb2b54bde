"""What a teacher said of turns, as demos: the student's action kept, each with its teacher's name; and how useful it is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gtrturbo.console import stderr
from gtrturbo.errors import GtrTurboError
from gtrturbo.store.records import Demo, Turn, mean, said
from gtrturbo.tasks.reply import Reply
from gtrturbo.tasks.task import Task

LEAST_USABLE = 0.5
EXAMPLE_SHOWN = 120  # characters of a reply that an error shows
LOOK = (
    "look at what it is asked and answers (documentation: teachers): --prompt, --max-new-tokens, --reply-format, or another "
    "teacher."
)


@dataclass(frozen=True)
class Taught:
    """One legal turn and what a teacher said of it: a whole reply, which parses or not; None: nothing. `teacher` is its name."""

    turn: Turn
    text: str | None
    reply: Reply | None
    teacher: str

    @property
    def corrected(self) -> str:
        """The reply with the student's action in place of the teacher's."""
        assert self.text is not None and self.reply is not None and self.turn.action is not None
        start, end = self.reply.action_span
        return self.text[:start] + self.turn.action + self.text[end:]


def keep_action(task: Task, turn: Turn, text: str, reply: Reply, images: list[str], teacher: str | None = None) -> Demo:
    """Put the student's action in the place of the teacher's, and mark it so that it is never cloned."""
    assert turn.action is not None
    start, end = reply.action_span
    # In JSON an action that is a number may stand without quotes, which another action needs.
    bare = task.parse is None and text[start - 1] != '"'
    action = f'"{turn.action}"' if bare else turn.action
    replied = said(text[:start] + action + text[end:])
    span = (start, start + len(action))
    return Demo(messages=[*turn.messages[:-1], replied], images=images, masked_spans=[span], teacher=teacher)


def usefulness(task: Task, taught: Sequence[Taught]) -> dict[str, float]:
    """Count what a teacher said.

    Returns: `turns` that it was asked about, `demos` that came of them, replies that are `unparsed`; of all turns the
        `usable_share`, at which it said what can be read, if only that the student is right; of the demos the
        `differing_share`, other than the student's own reply, and where the task knows the truth the `right_share`, which
        read the picture truly and act as its scripted expert, if there is one, would.
    """
    demos = [each for each in taught if each.reply is not None]
    unparsed = sum(each.text is not None and each.reply is None for each in taught)
    told: dict[str, float] = {"turns": len(taught), "demos": len(demos), "unparsed": unparsed}
    if taught:
        told["usable_share"] = 1 - unparsed / len(taught)
    if demos:
        told["differing_share"] = mean(each.corrected != each.turn.reply for each in demos)
        if task.truth:
            told["right_share"] = mean(_is_right(task, each) for each in demos)
    return told


def _is_right(task: Task, taught: Taught) -> bool:
    reply, info = taught.reply, taught.turn.info
    assert reply is not None
    if not task.perception_correct(reply, info):
        return False
    good = task.read(task.expert_reply(info), info) if task.expert else None
    return good is None or good.action == reply.action


def require_useful(name: str, metrics: dict[str, float], *, example: str) -> None:
    """Refuse a teacher of whose replies none can be used, and warn where most cannot.

    Args:
        name: of the teacher.
        metrics: see `usefulness`.
        example: a reply that could not be read, or why.

    Raises:
        GtrTurboError: not one of its replies could be used.
    """
    share, turns = metrics.get("usable_share", 1.0), int(metrics["turns"])
    shown = f" One of them: {example[:EXAMPLE_SHOWN]}" if example else ""
    if turns and not share:
        raise GtrTurboError(f"none of the {turns} replies of teacher {name} could be used.{shown}", LOOK)
    if share < LEAST_USABLE:
        stderr.print(
            f"only {share:.0%} of the {turns} replies of teacher {name} could be used.{shown}", style="yellow", soft_wrap=True
        )


def unread(taught: Sequence[Taught]) -> Iterator[str]:
    """Yield replies that could not be read."""
    return (repr(each.text) for each in taught if each.text and each.reply is None)
