"""A teacher that is asked in words: what it is asked about a turn, what its answer says, and a repair of what is unreadable."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gtrturbo.play.teachers import Question, is_right
from gtrturbo.play.teaching.answers import UnreadableError, correction_schema, read_correction, read_thought, thought_schema
from gtrturbo.play.teaching.kept_answers import Answered
from gtrturbo.play.teaching.templates import Templates, filled
from gtrturbo.store.prices import TokenCounts
from gtrturbo.store.records import Message, said

UNREADABLE = ""  # What is given for an answer that could not be read: no task reads it either.
Ask = Callable[[Sequence[Question], Callable[[Question], dict[str, Any] | None]], list[Answered]]


@dataclass(frozen=True)
class _Heard:
    """What became of a turn: the text to imitate, None for nothing to say; a name to count it by; why it could not be read."""

    text: str | None
    counted: str
    why: str = ""


class WordedTeacher:
    """Asks about turns, reads the answers, asks once more where one cannot be read, and counts.

    Args:
        ask: answers questions whose messages are put in words already.
        templates: what is asked.
        corrects: the student's thoughts, and says nothing where they are right; else it gives thoughts of its own.
    """

    def __init__(self, ask: Ask, templates: Templates, *, corrects: bool) -> None:
        self._ask, self._templates, self._corrects = ask, templates, corrects
        self.counts: Counter[str] = Counter()
        self.forms: Counter[str] = Counter()  # That answers were held to.
        self.own_temperature = 0  # Answers of a server that takes none.
        self.tokens, self.models, self.fingerprints = TokenCounts(), set[str](), set[str]()
        self.example = ""

    def __call__(self, questions: Sequence[Question]) -> list[str | None]:
        """Return for each turn a whole reply, None where there is nothing to say, and what no task reads where it is none."""
        asked = [self._worded(question) for question in questions]
        answers = self._answers(asked)
        outcomes = [self._read(*each) for each in zip(answers, questions, strict=True)]
        unreadable = [place for place, outcome in enumerate(outcomes) if outcome.why and not answers[place].refused]
        again = [self._repairing(asked[place], answers[place], outcomes[place].why) for place in unreadable]
        for place, answer in zip(unreadable, self._answers(again), strict=True):
            outcomes[place] = self._read(answer, questions[place])
            self.counts["repaired"] += not outcomes[place].why
        self.counts["repairs"] += len(unreadable)
        for question, outcome, answer in zip(questions, outcomes, answers, strict=True):
            self._count(question, outcome, answer)
        return [outcome.text for outcome in outcomes]

    def _answers(self, questions: Sequence[Question]) -> list[Answered]:
        if not questions:
            return []
        answers = self._ask(questions, correction_schema if self._corrects else thought_schema)
        self.counts["calls"] += len(answers)
        for answer in answers:
            self.tokens += answer.tokens
            self.models |= {answer.model} - {""}
            self.fingerprints |= {answer.fingerprint} - {""}
        self.forms.update(answer.form for answer in answers if answer.form)
        self.own_temperature += sum(not answer.heated for answer in answers)
        self.counts["truncated"] += sum(answer.truncated for answer in answers)
        return answers

    def _worded(self, question: Question) -> Question:
        """Put a turn into the words of the template, which says where the hints stand; its pictures come first."""
        text = filled(self._templates.question, question)
        parts: list[dict[str, Any]] = [*({"type": "image"} for _ in question.images), {"type": "text", "text": text}]
        return replace(question, messages=[{"role": "user", "content": parts}], hints="")

    def _repairing(self, asked: Question, answer: Answered, why: str) -> Question:
        text = self._templates.repair.substitute(why=why).strip()
        more: list[Message] = [said(answer.text), {"role": "user", "content": [{"type": "text", "text": text}]}]
        return replace(asked, messages=[*asked.messages, *more], attempt=1)

    def _read(self, answer: Answered, question: Question) -> _Heard:
        if answer.refused:
            return _Heard(UNREADABLE, "refused", "it declined")
        try:
            if not self._corrects:
                return _Heard(read_thought(answer.text, question), "thoughts")
            correction = read_correction(answer.text, question)
        except UnreadableError as error:
            return _Heard(UNREADABLE, "unreadable", str(error))
        return _Heard(correction.reply, correction.verdict)

    def _count(self, question: Question, outcome: _Heard, answer: Answered) -> None:
        self.counts[outcome.counted] += 1
        if outcome.why and not self.example:
            self.example = f"{outcome.why}: {answer.text!r}"
        task = question.task
        if outcome.counted in ("right", "wrong") and task is not None and task.expert and task.truth:
            self.counts["verdicts"] += 1
            self.counts["agreed"] += (outcome.counted == "right") == is_right(question)

    @property
    def metrics(self) -> dict[str, float]:
        """Numbers that follow from the answers alone, whenever they were paid for."""
        names = (
            "calls",
            "repairs",
            "repaired",
            "refused",
            "truncated",
            *(("right", "wrong", "unsolvable") if self._corrects else ()),
        )
        return {f"teacher_{name}": self.counts[name] for name in names}

    @property
    def parts(self) -> dict[str, tuple[float, float]]:
        """Shares that follow from the answers: the part and the whole of each."""
        return {"teacher_verdict_agreement": (self.counts["agreed"], self.counts["verdicts"])}

    @property
    def token_metrics(self) -> dict[str, float]:
        """TokenCounts of all answers, as a server counts them."""
        tokens = self.tokens
        return {
            "teacher_input_tokens": tokens.input,
            "teacher_cached_tokens": tokens.cached,
            "teacher_output_tokens": tokens.output,
        }
