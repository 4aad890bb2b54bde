"""A gtrturbo command in a fork of this process, which has torch loaded: it begins at once, and may be killed.

The parent must never have run a backward pass: autograd's threads do not survive a fork.
"""

import atexit
import os
import resource
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 60.0  # seconds until Ctrl-C, and what it then has to answer
GRACE = 8.0
# Bytes beyond what a command begins with, and bytes of a file: whoever asks for more is refused, and the machine stays whole.
MEMORY = 4 << 30
FILE = 1 << 30


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code, negative for the signal that killed it, and what it said."""

    code: int
    out: bytes
    err: bytes
    seconds: float
    interrupted: bool = False
    hung: bool = False

    @property
    def said(self) -> str:
        return self.err.decode(errors="replace")


def forked(
    words: Sequence[str],
    folder: Path,
    *,
    before: Callable[[], None] | None = None,
    kill_after: float | None = None,
    patience: float = PATIENCE,
) -> Ended:
    """Run a command with `folder` as the working directory.

    Args:
        before: called in the child before the command.
        kill_after: seconds after which the child is killed by SIGKILL.
        patience: seconds after which it gets Ctrl-C, and GRACE later SIGKILL.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pipes = [os.pipe(), os.pipe()]
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _become(words, folder, pipes, before)
    for _, end in pipes:
        os.close(end)
    try:
        return _watch(pid, [begin for begin, _ in pipes], started, kill_after, patience)
    finally:
        for begin, _ in pipes:
            os.close(begin)


def _become(words: Sequence[str], folder: Path, pipes: list[tuple[int, int]], before: Callable[[], None] | None) -> None:
    """Turn this fork into the command, as a fresh interpreter would run it. Never returns."""
    code = 70
    try:
        os.setsid()
        for target, (_, end) in enumerate(pipes, start=1):
            os.dup2(end, target)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.closerange(3, 256)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115  As long as the process.
        os.chdir(folder)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _limit()
        sys.argv = ["gtrturbo", *words]
        if before:
            before()
        code = _as_a_process(words)
    finally:
        os._exit(code)


def _limit() -> None:
    begun_with = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (begun_with + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE, FILE))


def _as_a_process(words: Sequence[str]) -> int:
    from gtrturbo.__main__ import main

    sys.argv = ["gtrturbo", *words]
    code: object = 0
    try:
        main()
    except SystemExit as error:
        code = error.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # As an interpreter ends: threads are waited for.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        code = 1
    return int(code) & 0xFF if isinstance(code, int) else int(code is not None)


def _watch(pid: int, pipes: list[int], started: float, kill_after: float | None, patience: float) -> Ended:
    said: dict[int, bytearray] = {pipe: bytearray() for pipe in pipes}
    left, interrupted, hung, killed = set(pipes), False, False, False
    status = None
    while left or status is None:
        passed = time.monotonic() - started
        if kill_after is not None and passed > kill_after and not killed:
            _signal(pid, signal.SIGKILL)
            killed = True
        if passed > patience and not interrupted:
            _signal(pid, signal.SIGINT)
            interrupted = True
        if passed > patience + GRACE and not hung:
            _signal(pid, signal.SIGKILL)
            hung = True
        if status is None:
            ended, found = os.waitpid(pid, os.WNOHANG)
            status = found if ended else None
        if not left:
            time.sleep(0.002)
            continue
        wait = 0.0 if status is not None else 0.01 if kill_after is None else 0.002
        ready, _, _ = select.select(list(left), [], [], wait)
        for pipe in ready:
            block = os.read(pipe, 1 << 16)
            said[pipe] += block
            if not block:
                left.discard(pipe)
        if status is not None and not ready:
            break  # A grandchild may hold the pipe; what the command said is read.
    _end_group(pid)
    out, err = (bytes(said[pipe]) for pipe in pipes)
    code = os.waitstatus_to_exitcode(status if status is not None else 0)
    return Ended(code, out, err, time.monotonic() - started, interrupted=interrupted and not hung, hung=hung)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _end_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
