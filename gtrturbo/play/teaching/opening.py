"""Make a teacher of what the user named: a model on a server, or a local one that is asked in words."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gtrturbo.errors import GtrTurboError
from gtrturbo.play.checkpoint_teacher import Ask, hotter
from gtrturbo.play.teachers import SERVER_AT_ONCE, Account, Question, Teacher
from gtrturbo.play.teaching.budget import Budget
from gtrturbo.play.teaching.chat import ChatModel, Sampling, Schema
from gtrturbo.play.teaching.kept_answers import Answered, KeptAnswers, default_folder
from gtrturbo.play.teaching.templates import Templates
from gtrturbo.play.teaching.worded import WordedTeacher
from gtrturbo.store.ids import seed_for, sha256_of
from gtrturbo.store.prices import read_prices


@dataclass(frozen=True)
class Asking:
    """How a teacher is asked in words.

    Attributes:
        corrects: the student's thoughts; else thoughts of its own are asked for.
        templates: what is asked.
        hints: what it is told besides, see `DistillConfig`.
        temperature, max_tokens: of sampling; longest answer in tokens.
        seed: of what is random in local answers.
    """

    corrects: bool
    templates: Templates
    hints: tuple[str, ...]
    temperature: float
    max_tokens: int
    seed: int


@dataclass(frozen=True)
class Paying:
    """Where a model on a server is, and what may be paid for it; see `DistillConfig` for each."""

    address: str | None
    reply_format: Any
    prices: Path | None
    max_calls: int | None
    max_cost: float | None
    answers: Path | None
    ledger: Path | None
    at_once: int
    timeout: float


@dataclass(frozen=True)
class AskedWords:
    """A question to a checkpoint: the turn's row, the attempt, and the words by their hash; its pictures are the turn's."""

    row: int
    attempt: int
    words: str

    @classmethod
    def of(cls, question: Question) -> "AskedWords":
        told = json.dumps(question.told, ensure_ascii=False, sort_keys=True)
        return cls(question.row, question.attempt, sha256_of(told.encode()))


@dataclass(frozen=True)
class AnswerLog:
    """Answers of a checkpoint to questions, those that an interrupted command had `found`, and where more are kept, with who
    of several servers spoke."""

    found: dict[AskedWords, str]
    keep: Callable[[AskedWords, str, str | None], None]

    def remembering(self, ask: Ask) -> Ask:
        """Have a checkpoint reply to those questions alone whose answers are not here, and keep each as soon as that may be."""

        def reply(questions: Sequence[Question], *, seeds: Sequence[int], temperature: float) -> list[str]:
            keys = [AskedWords.of(question) for question in questions]
            new = [place for place, key in enumerate(keys) if key not in self.found]

            def keep(place: int, text: str, speaker: str | None = None) -> None:
                key = keys[new[place]]
                self.found[key] = text
                self.keep(key, text, speaker)

            if new:
                ask(
                    [questions[place] for place in new], seeds=[seeds[place] for place in new], temperature=temperature, keep=keep
                )
            return [self.found[key] for key in keys]

        return reply


def open_served(model: str, asking: Asking, paying: Paying, *, on_answer: Callable[[], None]) -> Teacher:
    """Make a teacher of a model on a server.

    Raises:
        GtrTurboError: no address, no name, or no price where money is bounded.
    """
    if not model:
        raise GtrTurboError("--teacher openai: names no model.", "write it as in --teacher openai:gpt-4o")
    if paying.address is None:
        raise GtrTurboError(
            f"--teacher openai:{model} is on a server, and none is named.",
            "add: --address https://api.openai.com, or that of a server of your own, such as http://localhost:8000",
        )
    prices = read_prices(paying.prices)
    price = prices.of(model) if prices else None
    budget = Budget(model, price, max_calls=paying.max_calls, max_cost=paying.max_cost, ledger=paying.ledger)
    sampling = Sampling(asking.temperature, asking.max_tokens, paying.reply_format)
    kept = KeptAnswers(paying.answers or default_folder())
    served = ChatModel(paying.address, model, kept, budget, sampling, at_once=paying.at_once, timeout=paying.timeout)

    def ask(questions: Sequence[Question], schema: Schema) -> list[Answered]:
        return served.ask(questions, schema, on_answer=on_answer)

    worded = WordedTeacher(ask, asking.templates, corrects=asking.corrects)

    def account() -> Account:
        paid: dict[str, Any] = {"paid_calls": budget.calls, "teacher_seconds": round(budget.seconds, 3)}
        if price and prices:
            paid["paid"] = round(budget.cost, 6)
            paid["cost"] = round(price.of(int(worded.counts["calls"]), worded.tokens), 6)
            paid |= {"currency": prices.currency, "prices_dated": prices.dated.isoformat()}
        return Account(
            metrics=worded.metrics | worded.token_metrics,
            parts=worded.parts,
            timing=paid,
            example=worded.example,
            about=_about(f"openai:{model}", asking)
            | {"address": served.address, "models": sorted(worded.models), "fingerprints": sorted(worded.fingerprints)}
            | {"forms": dict(sorted(worded.forms.items())), "at_its_own_temperature": worded.own_temperature}
            | {"calls": int(worded.counts["calls"]), "tokens": asdict(worded.tokens)},
        )

    return _teacher(worded, account, at_once=SERVER_AT_ONCE)


def open_local(ask: Ask, asking: Asking, *, name: str, at_once: int, log: AnswerLog) -> Teacher:
    """Make a teacher of a model that replies to questions in this process.

    Args:
        ask: replies to questions; see `Ask`.
        name: of it, as demos tell.
        log: of what it answered, which is not asked again.
    """

    reply = log.remembering(ask)

    def answer(questions: Sequence[Question], _: Schema) -> list[Answered]:
        missing = [question for question in questions if AskedWords.of(question) not in log.found]
        for start in range(0, len(missing), at_once):
            part = missing[start : start + at_once]
            [attempt] = {question.attempt for question in part}
            seeds = [seed_for(asking.seed, "answer", question.row, attempt) for question in part]
            reply(part, seeds=seeds, temperature=hotter(asking.temperature, attempt))
        return [Answered(log.found[AskedWords.of(question)]) for question in questions]

    worded = WordedTeacher(answer, asking.templates, corrects=asking.corrects)
    return _teacher(
        worded,
        lambda: Account(metrics=worded.metrics, parts=worded.parts, about=_about(name, asking), example=worded.example),
        at_once=SERVER_AT_ONCE,
    )


def _about(name: str, asking: Asking) -> dict[str, Any]:
    sampling = {"temperature": asking.temperature, "max_tokens": asking.max_tokens}
    return {
        "teacher": name,
        "mode": "correct" if asking.corrects else "thoughts",
        "templates": asking.templates.sha256,
        "hints": list(asking.hints),
        "sampling": sampling,
    }


def _teacher(worded: WordedTeacher, account: Callable[[], Account], *, at_once: int) -> Teacher:
    return Teacher(thoughts=worded, corrections=worded, at_once=at_once, account=account, remembers=True)
