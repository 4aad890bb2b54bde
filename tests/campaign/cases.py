"""What a case is, what comes of one, and which outcomes are faults of the product."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

# What is as it should be. Everything else is a fault.
FINE = {
    "same": "the result is that of the undisturbed command",
    "refused": "one sentence says what is wrong",
    "accepted": "what changed is valid, or is not for this reader to know",
    "done": "the command worked",
    "interrupted": "legitimate work that lasts was ended by Ctrl-C",
}
FAULTS = {
    "traceback": "a traceback, or the handler of last resort",
    "silent": "something wrong that the reader uses was accepted",
    "hang": "no end, and no answer to Ctrl-C",
    "lost": "the same command does not go on after a kill",
    "different": "after a kill the result has other bytes",
    "half": "an artifact is there and not whole",
    "leftovers": "files are left that no one owns",
    "touched": "an input was changed",
    "raw": "control characters reached the terminal",
    "mute": "a failure without a sentence",
    "broken": "the harness itself failed",
}


@dataclass(frozen=True)
class Verdict:
    """What came of a case: one of FINE or FAULTS, a line that says more, and how many events (kills, …) it stands for."""

    outcome: str
    detail: str = ""
    events: int = 1

    @property
    def is_fault(self) -> bool:
        return self.outcome not in FINE


@dataclass(frozen=True)
class Case:
    """One case: `kind` is the line of the summary that it counts in, `run` does it in an empty folder of its own."""

    kind: str
    name: str
    run: Callable[[Path], Verdict]


@dataclass(frozen=True)
class Group:
    """Cases of one subject, whose names begin with `name`/. They are made when the artifacts that they need are prepared.

    `every`: those that are not drawn, too, each of which may be asked for by its whole name.
    """

    name: str
    needs: Sequence[str]
    cases: Callable[[], Iterable[Case]]
    every: Callable[[], Iterable[Case]] | None = None


class FoundError(Exception):
    """A fault, raised where it is found."""

    def __init__(self, outcome: str, detail: str) -> None:
        super().__init__(f"{outcome}: {detail}")
        self.verdict = Verdict(outcome, detail)
