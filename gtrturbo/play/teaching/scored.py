"""What a teacher of the user's own says of the student's tokens: asked for a few turns at a time, and kept once it is there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from gtrturbo.play.teachers import Question, Teacher
from gtrturbo.store.resume_log import ResumeLog


@dataclass(frozen=True)
class ScoredTurn:
    """Log-probs in nats that a teacher gave for the tokens of one turn; teachers and turns are counted from 0."""

    teacher: int
    row: int
    logprobs: list[float]


def in_parts(teacher: Teacher, place: int, *, log: ResumeLog[ScoredTurn] | None) -> Teacher:
    """Let a teacher be asked for log-probs of at most `at_once` turns in a call, and not again for those that a log holds.

    Args:
        place: of the teacher among those that are asked.
        log: None where answers are not kept: a mode of the user's own may ask otherwise than once about each turn.
    """
    if teacher.logprobs is None:
        return teacher
    score = cast(Callable[[Sequence[Question]], list[np.ndarray]], teacher.logprobs)  # As `find_teacher` has it checked.
    kept = {each.row: np.array(each.logprobs, np.float32) for each in (log.found if log else []) if each.teacher == place}

    def ask(questions: Sequence[Question]) -> list[np.ndarray]:
        waiting = [question for question in questions if question.row not in kept]
        answers: list[np.ndarray] = []
        for start in range(0, len(waiting), teacher.at_once):
            part = waiting[start : start + teacher.at_once]
            rows = score(part)
            answers += rows
            for question, row in zip(part, rows, strict=True):
                if log:
                    log.append(ScoredTurn(place, question.row, row.tolist()))
        new = iter(answers)
        return [kept[question.row] if question.row in kept else next(new) for question in questions]

    return replace(teacher, logprobs=ask)
