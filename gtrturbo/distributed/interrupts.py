"""What a process does when it is told to end: it clears up as after Ctrl-C, says in one line how to go on, and leaves.

A signal becomes an exception of the main thread, so that drafts go away and locks are let go. Python drops an exception that
arises while it disposes of an object; such a one is raised again a moment later.
"""

import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

from gtrturbo.distributed.children import follows_parent
from gtrturbo.distributed.escapes import complain
from gtrturbo.distributed.processes import world

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))  # Windows has two.
MOMENT = 0.02  # seconds
GOES_ON = "the same command goes on from what was finished"
NOTHING_YET = "nothing of this stage is kept yet, which the same command begins anew"
_told: list[int] = []


class Interrupted(KeyboardInterrupt):
    """A signal told this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def answer_signals() -> None:
    """Let SIGINT, SIGTERM and SIGHUP raise `Interrupted`; one that is ignored, as by nohup, stays so."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _raise)
    signal.signal(signal.SIGALRM, _raise_again)
    sys.unraisablehook = _unraisable


def _raise(number: int, frame: FrameType | None) -> None:
    # Who asks twice by Ctrl-C does not want to wait; a second SIGTERM would only stop the clearing up.
    if _told and number != signal.SIGINT:
        return
    _told.append(number)
    raise Interrupted(number)


def _raise_again(number: int, frame: FrameType | None) -> None:
    raise Interrupted(_told[-1] if _told else signal.SIGINT)


def _unraisable(unraisable: Any) -> None:
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, MOMENT)
    else:
        sys.__unraisablehook__(unraisable)


def behind(error: BaseException | None) -> BaseException | None:
    """Return the signal that told the command to end where another error came of it: a module that is being loaded fails."""
    return Interrupted(_told[0]) if _told and isinstance(error, Exception) else error


def leave(error: SystemExit) -> NoReturn:
    """End the process: after a signal at once, without waiting for threads that are still at work for nobody.

    Raises:
        SystemExit: no signal told it to end.
    """
    if not _told or not isinstance(error.code, int):
        raise error
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(error.code)


def exit_code(error: KeyboardInterrupt, *, kept: bool | None = None) -> int:
    """Say in one line what ended the command and whether the same one goes on from what was finished; None: say nothing of it.

    Returns: the code to leave with: 130 after Ctrl-C, 143 after SIGTERM.
    """
    number = error.number if isinstance(error, Interrupted) else signal.SIGINT
    if world().first and not follows_parent():
        with suppress(OSError):  # The terminal may be gone.
            on = GOES_ON if kept and NOTHING_YET not in getattr(error, "__notes__", ()) else NOTHING_YET
            complain(f"interrupted by {signal.Signals(number).name}{'' if kept is None else f'; {on}'}.")
    return 128 + number
