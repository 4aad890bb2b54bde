"""Threads that take jobs from one list, where jobs may add jobs; the first error ends all."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

Job = Callable[[], object]


def default_threads() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS has no such call.


class Countdown:
    """Does something once a number of jobs are done."""

    def __init__(self, count: int, then: Job) -> None:
        self._left, self._then, self._lock = count, then, threading.Lock()

    def tick(self) -> None:
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last:
            self._then()


class WorkerPool:
    """Threads that work until the list is empty and no job is left that might add to it."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._jobs: deque[Job] = deque()
        self._ready = threading.Condition()
        self._busy = 0
        self._stopped = False

    def add(self, job: Job) -> None:
        self.add_all([job])

    def add_all(self, jobs: Sequence[Job], *, at_once: bool = False) -> None:
        """Add jobs, to be taken in their order: the file is hashed from its beginning while they write it."""
        with self._ready:
            self._jobs.extendleft(reversed(jobs)) if at_once else self._jobs.extend(jobs)
            self._ready.notify_all()

    def go_through(self, jobs: Iterator[Job]) -> None:
        """Do jobs of which other threads may take some."""
        for job in jobs:
            if self._stopped:
                return
            job()

    def run(self, start: Callable[["WorkerPool"], None]) -> None:
        """Let `start` add the first jobs, and work until all are done."""
        start(self)
        with ThreadPoolExecutor(self.threads) as pool:
            try:
                pending = {pool.submit(self._work) for _ in range(self.threads)}
                while pending:
                    # Not without end: a Ctrl-C that arrives just before such a wait is only seen after it.
                    ended, pending = wait(pending, timeout=1, return_when=FIRST_EXCEPTION)
                    for future in ended:
                        future.result()
            except BaseException:  # Of a job, or Ctrl-C, which reaches this thread alone.
                self._stop()
                raise

    def _work(self) -> None:
        while job := self._next():
            try:
                job()
            finally:
                with self._ready:
                    self._busy -= 1
                    self._ready.notify_all()

    def _next(self) -> Job | None:
        with self._ready:
            while not self._jobs and self._busy and not self._stopped:
                self._ready.wait()
            if self._stopped or not self._jobs:
                return None
            self._busy += 1
            return self._jobs.popleft()

    def _stop(self) -> None:
        with self._ready:
            self._stopped = True
            self._ready.notify_all()
