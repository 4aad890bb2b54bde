"""What a teacher said of turns, as demos: the student's action kept, each with its teacher's name; and how useful it is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from gtrturbo.console import stderr
from gtrturbo.errors import GtrTurboError
from gtrturbo.store.records import Demo, Turn, mean, said
from gtrturbo.tasks.reply import Reply
from gtrturbo.tasks.task import Task
from gtrturbo.tasks.wording import chooses, with_action

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


def heard(task: Task, turn: Turn, text: str | None, teacher: str) -> Taught:
    """Read what a teacher said; it cannot be read either where that is so of it with the student's action in its place."""
    reply = task.read(text, turn.info) if text is not None else None
    taught = Taught(turn, text, reply, teacher)
    if reply is None or chooses(task, turn.info, corrected(task, taught)[0], _action(turn)):
        return taught
    return replace(taught, reply=None)


def corrected(task: Task, taught: Taught) -> tuple[str, tuple[int, int]]:
    """Return the reply with the student's action in place of the teacher's, and where it stands; see `with_action`."""
    assert taught.text is not None and taught.reply is not None
    return with_action(task, taught.turn.info, taught.text, taught.reply, _action(taught.turn))


def _action(turn: Turn) -> str:
    assert turn.action is not None
    return turn.action


def keep_action(task: Task, turn: Turn, text: str, reply: Reply, images: list[str], teacher: str | None = None) -> Demo:
    """Put the student's action in the place of the teacher's, and mark it so that it is never cloned."""
    whole, span = with_action(task, turn.info, text, reply, _action(turn))
    return Demo(messages=[*turn.messages[:-1], said(whole)], images=images, masked_spans=[span], teacher=teacher)


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
        told["differing_share"] = mean(corrected(task, each)[0] != each.turn.reply for each in demos)
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
