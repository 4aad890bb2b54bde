"""How a command ends where something is wrong: mistakes in the options, our own errors, faults; a line each, and an exit code."""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from gtrturbo.distributed.children import tell_parent
from gtrturbo.distributed.escapes import complain, one_line
from gtrturbo.distributed.interrupts import behind, exit_code
from gtrturbo.errors import COLLAPSE_CODE, Collapse, GtrTurboError, hidden, of_system, said_by
from gtrturbo.plugins import explained
from gtrturbo.stages.mistyped import meant_by, options_for

EXTRA = "Got unexpected extra argument(s)"
PAIRED = ("--env", "--eval-env", "--parameters", "--price")  # Options that take KEY=VALUE.
UNTOLD, UNTOLD_CODE = "unexpected error", 70  # EX_SOFTWARE of BSD's sysexits.h
CANNOT_ALLOCATE = "can't allocate memory"  # as torch says it of a CPU
# How torch.distributed's errors are known without its import: by the class of most, and by the file that gloo's begin with.
LOST, LOST_BY_GLOO = "DistError", re.compile(r"\[\S*gloo\S*\]\s*")
# What other toolkits call a command.
ALSO_CALLED = {
    "train": "run",
    "demo": "run",
    "evaluate": "eval",
    "test": "eval",
    "generate": "rollout",
    "sample": "rollout",
    "ppo": "ppo-step",
    "update": "ppo-step",
    "grpo": "ppo-step",
    "teacher": "distill",
    "score": "distill",
    "annotate": "distill",
    "finetune": "sft",
    "ties": "merge",
    "inspect": "show",
    "view": "show",
    "plot": "report",
    "html": "report",
    "diff": "compare",
}


class Commands(TyperGroup):
    """Tells mistakes in the options as all else is told: what was typed is a text of others, too."""

    def make_context(self, *given: Any, **more: Any) -> Any:
        with _plain_mistakes():
            return super().make_context(*given, **more)

    def invoke(self, ctx: Any) -> Any:
        with _plain_mistakes():
            return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Suggest the command that does what others call by another name, or what was nearly typed."""
        try:
            return super().resolve_command(ctx, args)
        except Exception as error:
            meant = get_close_matches(args[0], ALSO_CALLED, n=1) if args else []
            message = getattr(error, "message", "")
            if meant and "Did you mean" not in message:
                error.message = f"{message.rstrip('.')}. Did you mean {ALSO_CALLED[meant[0]]!r}?"  # type: ignore[attr-defined]
            raise


class NamedOptions(TyperCommand):
    """A command that says of a word too many which option it is the value of."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        typed = list(args)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            message = str(getattr(error, "message", ""))
            word = next((word for word in typed if message.startswith(f"{EXTRA} ({word}")), None)
            if word:
                error.message = f"{word} is a value without an option. {self._mend(typed, word)}"  # type: ignore[attr-defined]
            raise

    def _mend(self, typed: list[str], word: str) -> str:
        before = typed[max(0, typed.index(word) - 2) : typed.index(word)]
        options = [option for param in self.params if not getattr(param, "hidden", False) for option in param.opts]
        if len(before) == 2 and before[0] in PAIRED and "=" not in before[1]:
            return f"Write: {before[0]} {before[1]}={word}"
        meant = next((option for option in options_for(word) if option in options), None)
        return f"Write: {meant} {word}" if meant else f"See: gtrturbo {self.name} --help"


@contextmanager
def _plain_mistakes() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if isinstance(getattr(error, "message", None), str):
            _name_the_option(error)
            error.message = one_line(error.message)  # type: ignore[attr-defined]
        raise


def _name_the_option(error: Any) -> None:
    """Say of an option that there is not where what was meant by it is given, and suggest none that is gone."""
    command, typed = getattr(getattr(error, "ctx", None), "info_name", None), getattr(error, "option_name", None)
    if command and typed and hasattr(error, "possibilities") and (meant := meant_by(command, typed)):
        error.message, error.possibilities = f"No such option: {typed}. It is given as {meant}", None
    elif getattr(error, "possibilities", None):
        gone = {word for option in error.ctx.command.params if option.hidden for word in (*option.opts, *option.secondary_opts)}
        error.possibilities = [word for word in error.possibilities if word not in gone]


class ending:
    """Turn whatever ends a command into lines on stderr and an exit code; with --debug show where it comes from, too.

    Our own errors and those of the operating system are told as what they are, with the given code. What nothing else told is
    a fault of this program: one line, and exit code 70.

    Args:
        kept: a command that is interrupted keeps what was finished, and goes on from there when it is given again; None: there
            is nothing to keep.
    """

    def __init__(self, debug: bool | None, *, code: int, kept: bool | None = None) -> None:
        self.debug = debug
        self.code = code
        self.kept = kept

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, typer.Exit):
            return
        error = behind(error)
        if isinstance(error, KeyboardInterrupt):
            raise typer.Exit(exit_code(error, kept=self.kept))
        if not isinstance(error, Exception) or isinstance(error, BrokenPipeError):
            return  # typer ends quietly where nobody reads on.
        if self.debug:
            complain("".join(traceback.format_exception(error)).rstrip())
        told, code = _told(error, self.code)
        if tell_parent(told.what, told.fix):
            raise typer.Exit(code)
        complain(one_line(told.what))
        if told.fix:
            complain(one_line(told.fix))
        raise typer.Exit(code)


def _told(error: Exception, code: int) -> tuple[GtrTurboError, int]:
    """Return what a user is told of an error, and the exit code."""
    if isinstance(error, GtrTurboError):
        return error, COLLAPSE_CODE if isinstance(error, Collapse) else code
    if own := explained(error):
        return own, 1
    if system := error if isinstance(error, OSError) else hidden(error):
        return of_system(system), code
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or CANNOT_ALLOCATE in str(error):
        return GtrTurboError(
            "there is not enough memory.", "ask for less at once, such as shorter replies or smaller batches."
        ), 1
    if any(kind.__name__ == LOST for kind in type(error).__mro__) or LOST_BY_GLOO.match(str(error)):
        said = LOST_BY_GLOO.sub("", said_by(error)).partition(". ")[0]
        return GtrTurboError(
            f"another process of this stage ended, or is not reached: {said}.",
            "see what that one said last, and give all of them the same command again.",
        ), 1
    where = traceback.extract_tb(error.__traceback__)[-1]
    return GtrTurboError(
        f"{UNTOLD}: {type(error).__name__} at {Path(where.filename).name} line {where.lineno}: {said_by(error)}",
        "this is a fault of gtrturbo; for the full trace give the same command again with --debug.",
    ), UNTOLD_CODE
