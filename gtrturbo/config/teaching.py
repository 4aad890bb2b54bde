"""Fields of teachers from outside: which server is asked, what may be paid, and where answers are kept."""

from pathlib import Path
from typing import Annotated, Literal

from gtrturbo.config.addresses import teacher_address
from gtrturbo.config.bounds import AT_LEAST_ONE, POSITIVE, THREADS, Between, EachBetween
from gtrturbo.config.choices import HINTS
from gtrturbo.config.fields import Absent, Checked, RestOf, Role, Seam
from gtrturbo.errors import GtrTurboError


def check_hints(hints: tuple[str, ...]) -> None:
    """Refuse what is no hint, or stands twice.

    Raises:
        GtrTurboError: names it.
    """
    for place, hint in enumerate(hints):
        if hint not in HINTS:
            raise GtrTurboError(f"hints must be among {', '.join(HINTS)}, got {hint}.")
        if hint in hints[:place]:
            raise GtrTurboError(f"hints holds {hint} twice.", "leave one out.")


Address = Annotated[
    str | None,
    "Where the server of --teacher openai:MODEL is, such as https://api.openai.com or http://localhost:8000; its key is taken "
    "from the environment as OPENAI_API_KEY, if there is one.",
    Checked(teacher_address),
    Absent(None, silent=True),
]
MoreTeachers = Annotated[
    tuple[Path, ...],
    "Further teachers, as --teacher given again.",
    Role.INPUT,
    Seam("teacher"),
    RestOf("teacher"),
    Absent((), silent=True),
]
TeacherWeights = Annotated[
    str | None,
    "Of several teachers: a number for each, such as 2,1. Scores are of their mixture, demos are shared among them in these "
    "parts; equal ones, which is ours, if not given.",
    EachBetween(0, 1e6, low_open=True),
    Absent(None, silent=True),
]
Hints = Annotated[
    tuple[str, ...],
    "What the teacher is told besides what the student saw: truth, what the picture shows; expert, a good reply of the task's "
    "expert; outcome, how the episode ended; repeatable. Nothing if not given, as in the paper.",
    Checked(check_hints),
    Absent((), silent=True),
]
Prices = Annotated[
    Path | None,
    "YAML file of what models cost, with the day that it is of (documentation: teachers); tokens are told without.",
    Role.RUNTIME,
]
MaxCalls = Annotated[
    int | None,
    "Most calls to the teacher's server; the command stops there, and goes on with a larger number.",
    AT_LEAST_ONE,
    Role.RUNTIME,
]
MaxCost = Annotated[
    float | None,
    "Most money for the teacher's server, by --prices; the command stops before it, and goes on with a larger number.",
    POSITIVE,
    Role.RUNTIME,
]
Answers = Annotated[
    Path | None,
    "Folder of the answers that were paid for, each asked once; ~/.cache/gtrturbo/answers if not given.",
    Role.RUNTIME,
]
Ledger = Annotated[
    Path | None, "File to which each call is added; --max-calls and --max-cost then count all that is in it.", Role.RUNTIME
]
AtOnce = Annotated[int, "Most requests at once to the teacher's server.", THREADS, Role.RUNTIME]
AnswerTimeout = Annotated[
    float, "Seconds for one answer of the teacher's server, from the first byte to the last.", Between(0.1, 86_400), Role.RUNTIME
]
PromptFile = Annotated[
    Path | None,
    "correct, thoughts of a server: what the teacher is asked, a file with $-names (documentation: teachers).",
    Role.RUNTIME,
]
RepairFile = Annotated[Path | None, "What it is asked once more where its answer does not parse, a file likewise.", Role.RUNTIME]
ReplyFormat = Annotated[
    Literal["auto", "schema", "json", "text"],
    "What a server is held to: a JSON schema, any JSON, or nothing; auto takes the first of these that it does not refuse.",
    Absent("auto", silent=True),
]
