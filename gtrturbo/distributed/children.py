"""Processes that this one starts and that end with it, however it ends: what goes on without its parent would hold its lock."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

PARENT = "GTRTURBO_PARENT"  # in a child's environment: the number of the process that started it
TELLS = "GTRTURBO_TELLS"  # the number of the pipe into which it says why it failed
SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux' sys/prctl.h
TIME_TO_CLEAR = 10.0  # seconds in which a child may clear up
GLANCE = 0.2  # seconds
MOST_SAID = 4000  # characters of what a child says; a pipe holds ten times as much where nobody reads yet
CALLED_OFF = b"called off"
# Ends when its input does; nothing was said there if whoever holds the other end is gone.
KILL_LATER = """
import os, signal, sys
if not sys.stdin.buffer.read():
    for number in map(int, sys.argv[1:]):
        try:
            os.kill(number, signal.SIGKILL)
        except OSError:
            continue
"""
_followed: list[str] = []
_pipes: list[int] = []


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code, and in its own words what was wrong and what mends it; empty where it said nothing."""

    code: int
    what: str = ""
    fix: str = ""


def run_child(words: Sequence[str]) -> Ended:
    """Run a command of gtrturbo as a process of its own, which ends with this one, and say how it ended.

    Its messages go to our stderr, but why it failed, which is for us to tell. What interrupts this process ends the child first.
    """
    said, says = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", *words],
            stdout=subprocess.DEVNULL,
            env=os.environ | {PARENT: str(os.getpid()), TELLS: str(says)},
            pass_fds=(says,),
        )
        return Ended(_wait(process), **_read(said))
    finally:
        os.close(said)
        os.close(says)


def _read(said: int) -> dict[str, str]:
    os.set_blocking(said, False)  # What the child started may still hold the other end.
    with suppress(BlockingIOError):
        return json.loads(os.read(said, 1 << 16))
    return {}


def tell_parent(what: str, fix: str) -> bool:
    """Say to the process that started this one by `run_child` why it fails; tell whether there is one that then tells it."""
    if not _pipes:
        return False
    said = json.dumps({"what": what[:MOST_SAID], "fix": fix[:MOST_SAID]}).encode()
    os.write(_pipes.pop(), said)
    return True


def _wait(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(TIME_TO_CLEAR)
        process.kill()
        process.wait()
        raise


def take_along(numbers: Sequence[int]) -> Callable[[], None]:
    """Let processes that are not ours to start, such as a browser's, be killed once this one is gone, however it ends.

    A small process waits for that, in a session of its own.

    Args:
        numbers: of the processes; a negative one is of a whole group, as for `os.kill`.

    Returns: what calls it off; to do so twice is no more.
    """
    waiting = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", KILL_LATER, *map(str, numbers)], stdin=subprocess.PIPE, start_new_session=True
    )
    assert waiting.stdin is not None

    def call_off() -> None:
        if waiting.poll() is None:
            waiting.communicate(CALLED_OFF)

    return call_off


def follow_parent() -> None:
    """End this process with the one that started it by `run_child`; do nothing in any other."""
    parent, pipe = os.environ.pop(PARENT, None), os.environ.pop(TELLS, "")  # Not for processes that this one starts.
    if parent is None or not parent.isdecimal():
        return
    _followed.append(parent)
    if pipe.isdecimal():
        os.set_inheritable(int(pipe), False)
        _pipes.append(int(pipe))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_DEATH_SIGNAL, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    # It may have ended between the start of this process and the line above.
    if str(os.getppid()) != parent:
        _end()


def follows_parent() -> bool:
    """Tell whether this process was started by `run_child`: then its parent tells the user what interrupts both."""
    return bool(_followed)


def _watch(parent: str) -> None:
    while str(os.getppid()) == parent:
        time.sleep(GLANCE)
    _end()


def _end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
