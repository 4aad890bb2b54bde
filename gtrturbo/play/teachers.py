"""Who teaches, and how: what a teacher is asked about a turn, what it may answer, and the modes in which turns are annotated.

A teacher of the user's own is a file that holds a `Teacher`, or a function alone. What it answers is checked: as many answers
as questions, and each of the kind that is asked for. Nothing here loads a model.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gtrturbo.errors import GtrTurboError
from gtrturbo.play.hints import told
from gtrturbo.plugins import calling, find
from gtrturbo.store.manifest import Manifest
from gtrturbo.store.pictures import load_picture
from gtrturbo.store.records import Message
from gtrturbo.store.tensors import TopLogprobs
from gtrturbo.store.turn_checks import ROUNDING

CORRECT, SERVER_AT_ONCE = "correct", 1024
BLIND = "release.py:BLIND"  # What an earlier version called --compat release.

if TYPE_CHECKING:  # What only reads artifacts must not wait for Gymnasium.
    from gtrturbo.tasks.task import Task

AT_ONCE = 64
EXPERT = "expert"

Needs = Literal["thoughts", "corrections", "logprobs", "policy"]


@dataclass(frozen=True)
class Question:
    """One turn of the student, as a teacher is asked about it.

    Attributes:
        row: place among the turns that are asked about, from 0; with a seed it may decide what is random in the answer.
        attempt: how often it was asked before; its replies did not parse.
        messages: chat messages without the student's reply.
        images: files of the pictures that the messages speak of.
        reply: the student's reply.
        action: what the reply chose; None where it did not parse.
        info: what is known of the state.
        perception_correct: whether the reply says what the pictures show; None where nobody knows.
        task: parses replies, and may have an expert; None where a checkpoint gives log-probs, which needs none.
        response_ids: tokens of the reply; None where nothing was sampled. [R] int32
        response_spans: characters of the reply that each token stands for. [R, 2] int32
        folder: the artifact that the pictures lie in.
        hints: what the teacher is told besides, in words; empty where it is not.
        temperature: of the softmax that the student's tokens were drawn from, and that their log-probs are of.
    """

    row: int
    messages: list[Message]
    images: list[Path]
    reply: str
    action: str | None
    info: Mapping[str, Any]
    perception_correct: bool | None
    task: "Task | None" = None
    response_ids: np.ndarray | None = None
    response_spans: np.ndarray | None = None
    attempt: int = 0
    folder: Path = Path()
    hints: str = ""
    temperature: float = 1.0

    def copied(self) -> "Question":
        """Return the same question, of whose parts none is this one's: code of others may change what it is given."""
        own = ("messages", "info", "response_ids", "response_spans")
        return replace(self, **{name: deepcopy(getattr(self, name)) for name in own}, images=[*self.images])

    @property
    def told(self) -> list[Message]:
        """The messages with the hints at the end of the last one."""
        return told(self.messages, self.hints)

    @property
    def pictures(self) -> list[np.ndarray]:
        """The pictures, read anew each time, each [H, W, 3] uint8."""
        return [load_picture(self.folder, image.relative_to(self.folder).as_posix()) for image in self.images]


@dataclass(frozen=True)
class Scores:
    """Log-probs of the student's tokens in nats, N × [R] float32, and maybe the likeliest tokens at each."""

    logprobs: Sequence[np.ndarray]
    top: TopLogprobs | None = None


@dataclass(frozen=True)
class Account:
    """What a teacher tells of its work when it is done.

    Attributes:
        metrics: counts that follow from its answers, for the manifest; those of several teachers are added up.
        parts: shares that follow from its answers, each as its part and the whole.
        timing: what it took, such as calls that were paid now and their seconds, for timing.json.
        about: who it was, for a file of the artifact; empty where the manifest says it.
        example: an answer that could not be read, and why.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    parts: dict[str, tuple[float, float]] = field(default_factory=dict)
    timing: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    example: str = ""


Thoughts = Callable[[Sequence[Question]], Sequence[str | None]]
Logprobs = Callable[[Sequence[Question]], Sequence[np.ndarray] | Scores]


@dataclass(frozen=True)
class Teacher:
    """What a teacher can do; what it cannot is None.

    Attributes:
        thoughts: for each turn a whole reply, or None for nothing to say.
        corrections: for each turn the student's reply as it should have been, or None where it is right or nothing can be said.
        logprobs: for each turn the log-probs of the student's own tokens, in nats, at `Question.temperature`. [R] A checkpoint
            alone gives the likeliest tokens, too.
        policy: a checkpoint in this process, for modes that compute with it; see `LocalPolicy`.
        at_once: most questions in one call of any of the three.
        retries: how often it is asked again about a turn for which its reply did not parse.
        account: tells of its work; None where there is nothing to tell.
        remembers: it keeps its answers itself, and is asked by one process alone.
        metrics: what the manifest says of who answered, asked for in the end.
    """

    thoughts: Thoughts | None = None
    corrections: Thoughts | None = None
    logprobs: Logprobs | None = None
    policy: Any = None
    at_once: int = AT_ONCE
    retries: int = 0
    account: Callable[[], Account] | None = None
    remembers: bool = False
    metrics: Callable[[], dict[str, float]] = dict

    def __post_init__(self) -> None:
        if self.at_once < 1 or self.retries < 0:
            raise ValueError(f"at_once must be at least 1 and retries at least 0, got {self.at_once} and {self.retries}.")


def _correct(questions: Sequence[Question]) -> list[str | None]:
    """GTR's corrector is silent where the student is right: it reads the picture truly and acts as the expert does."""
    return [None if is_right(question) else _expert(question) for question in questions]


def _expert(question: Question) -> str:
    assert question.task is not None
    return question.task.expert_reply(question.info)


def is_right(question: Question) -> bool:
    """Tell whether the student acts as the scripted expert does, and reads the pictures truly as far as anybody knows."""
    assert question.task is not None
    reply = question.task.read(_expert(question), question.info)
    return reply is not None and question.perception_correct is not False and question.action == reply.action


# Checkpoints are no entries: a folder is opened by the engine that is to run it.
TEACHERS = {EXPERT: Teacher(thoughts=_correct, corrections=_correct)}


@dataclass(frozen=True)
class Mode:
    """A way to annotate turns.

    Attributes:
        writes: scores of all turns, or demos for those whose reply is legal.
        needs: what of the teacher it asks for.
        annotate: asks; gives for each question log-probs (scores), or a whole reply or None (demos).
        comparable: its scores are log-probs of the tokens that were sampled, so that the student's may be subtracted.
    """

    writes: Literal["scores", "demos"]
    needs: Needs
    annotate: Callable[[Teacher, Sequence[Question]], Any]
    comparable: bool = False


def _ask_logprobs(teacher: Teacher, questions: Sequence[Question]) -> Sequence[np.ndarray] | Scores:
    assert teacher.logprobs is not None
    return teacher.logprobs(questions)


def _ask_thoughts(teacher: Teacher, questions: Sequence[Question]) -> Sequence[str | None]:
    assert teacher.thoughts is not None
    return teacher.thoughts(questions)


def _ask_corrections(teacher: Teacher, questions: Sequence[Question]) -> Sequence[str | None]:
    assert teacher.corrections is not None
    return teacher.corrections(questions)


MODES = {
    "kl": Mode(writes="scores", needs="logprobs", annotate=_ask_logprobs, comparable=True),
    "thoughts": Mode(writes="demos", needs="thoughts", annotate=_ask_thoughts),
    CORRECT: Mode(writes="demos", needs="corrections", annotate=_ask_corrections),
}


def find_mode(name: str) -> Mode:
    """Return a mode that is built in, or of the user's own.

    Raises:
        GtrTurboError: there is none of that name, or it is no `Mode`.
    """
    mode = find("mode", name, MODES)
    if not isinstance(mode, Mode):
        raise GtrTurboError(f"{name} is no mode: it is {type(mode).__name__}.", "make it a gtrturbo.play.teachers.Mode.")
    return mode


def find_teacher(name: str, needs: Needs) -> Teacher:
    """Return a teacher of the table, or one of the user's own that can do what is needed, its answers checked.

    Raises:
        GtrTurboError: there is none of that name, it is none, or it cannot.
    """
    found: Any = find("teacher", name, TEACHERS)
    alone = {
        "thoughts": Teacher(thoughts=found),
        "corrections": Teacher(corrections=found),
        "logprobs": Teacher(logprobs=found),
    }
    teacher = alone[needs] if callable(found) and needs in alone else found
    if not isinstance(teacher, Teacher):
        raise GtrTurboError(
            f"{name} is no teacher: it is {type(teacher).__name__}.", "make it a gtrturbo.play.teachers.Teacher, or a function."
        )
    if getattr(teacher, needs) is None:
        can = [each for each in ("thoughts", "corrections", "logprobs") if getattr(teacher, each) is not None]
        raise GtrTurboError(f"teacher {name} gives no {needs}.", f"it gives: {', '.join(can) or 'nothing'}.")
    checked = {each: _checked_thoughts(name, getattr(teacher, each)) for each in ("thoughts", "corrections")}
    return replace(teacher, **checked, logprobs=_checked_logprobs(name, teacher))


def _checked_thoughts(name: str, thoughts: Thoughts | None) -> Thoughts | None:
    if thoughts is None:
        return None

    def ask(questions: Sequence[Question]) -> list[str | None]:
        with calling("teacher", name):
            replies = list(thoughts(questions))
        return check_thoughts(f"teacher {name}", questions, replies)

    return ask


def _checked_logprobs(name: str, teacher: Teacher) -> Logprobs | None:
    def ask(questions: Sequence[Question]) -> list[np.ndarray]:
        assert teacher.logprobs is not None
        with calling("teacher", name):
            given = teacher.logprobs(questions)
            rows = [np.asarray(row) for row in (given.logprobs if isinstance(given, Scores) else given)]
        if isinstance(given, Scores) and given.top is not None:
            raise GtrTurboError(
                f"teacher {name} gives the likeliest tokens, too, which are kept of checkpoints alone.",
                "return Scores without top, or the log-probs alone.",
            )
        return check_logprobs(f"teacher {name}", questions, rows)

    return ask if teacher.logprobs else None


def check_thoughts(who: str, questions: Sequence[Question], replies: Sequence[Any]) -> list[str | None]:
    """Return replies as they are, if there is one for each question and each is a text or None.

    Raises:
        GtrTurboError: there are more or fewer, or one is something else.
    """
    _check_count(who, questions, replies)
    for question, reply in zip(questions, replies, strict=True):
        if not isinstance(reply, str | None):
            raise GtrTurboError(
                f"{who} replies to question {question.row} with {type(reply).__name__}.",
                "give a text, or None.",
            )
    return list(replies)


def check_logprobs(who: str, questions: Sequence[Question], rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return log-probs as float32, if there is one of each token of each reply, finite and not above 0.

    Raises:
        GtrTurboError: there are more or fewer, or one is no log-probability.
    """
    _check_count(who, questions, rows)
    for question, row in zip(questions, rows, strict=True):
        assert question.response_ids is not None
        if row.shape != question.response_ids.shape or row.dtype.kind not in "fiu":
            raise GtrTurboError(
                f"{who} gives {row.dtype} of shape {list(row.shape)} for question {question.row}, "
                f"whose reply has {len(question.response_ids)} tokens.",
                "give one log-prob of each token of question.response_ids.",
            )
        wrong = row[~(np.isfinite(row) & (row <= ROUNDING))]
        if len(wrong):
            raise GtrTurboError(
                f"{who} gives {wrong[0]:g} for a token of question {question.row}, which is no log-probability.",
                "log-probs are finite and at most 0, in nats.",
            )
    return [row.astype(np.float32, copy=False) for row in rows]


def _check_count(who: str, questions: Sequence[Question], answers: Sequence[Any]) -> None:
    if len(answers) != len(questions):
        raise GtrTurboError(f"{who} was asked {len(questions)} questions and gives {len(answers)} answers.", "give one for each.")


def tells_of_tokens(manifest: Manifest) -> bool:
    """Tell whether scores are log-probs of the tokens that were sampled, so that the student's may be subtracted.

    Of a mode that is not built in nobody knows: what an artifact names is not loaded.
    """
    mode = MODES.get(mode_of(manifest))
    return mode is not None and mode.comparable


def mode_of(manifest: Manifest) -> str:
    """Name the mode that scores were made by. Earlier versions had one that imitated the paper's published code."""
    return BLIND if manifest.config.get("compat") == "release" else manifest.config.get("mode", "kl")
