"""Several servers of one checkpoint: they share its requests, and what one of them loses goes to the others."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from threading import Lock
from typing import TypeVar

from gtrturbo.distributed.escapes import complain
from gtrturbo.distributed.processes import group
from gtrturbo.play.server import Server
from gtrturbo.play.wire import BACKOFF, SOON, AwayError

Answered = TypeVar("Answered")
LOOKED_AT_AGAIN = 30.0  # seconds after which a server that was away is asked again, by one request at a time


class Servers:
    """Give each request to the server that has the fewest; one that is away is left out until it answers again.

    Args:
        servers: at least one; a single one is waited for as long as `request` waits, of several each only shortly.
    """

    def __init__(self, servers: Sequence[Server]) -> None:
        self._all = list(servers)
        self._running = dict.fromkeys(self._all, 0)
        self._away: dict[Server, float] = {}
        self._left_out: set[Server] = set()
        self._lock = Lock()
        self._turns = itertools.count(group().world.rank)  # Several processes do not all begin with the first.
        for server in self._all if len(self._all) > 1 else []:
            server.tries = SOON

    def __iter__(self) -> Iterator[Server]:
        return iter(self._asked)

    def __len__(self) -> int:
        return len(self._asked)

    @property
    def _asked(self) -> list[Server]:
        return [server for server in self._all if server not in self._left_out]

    def speaker(self, server: Server) -> str:
        """Name who speaks: the model or adapter, and of several servers which, as they were named, from 1; no address."""
        return server.name if len(self._all) == 1 else f"{server.name} on server {self._all.index(server) + 1}"

    def ask(self, question: Callable[[Server], Answered]) -> tuple[Server, Answered]:
        """Ask one server; where it is away another, and all of them again for as long as one alone would be waited for.

        Raises:
            GtrTurboError: a server refuses the question, each of them fails at it, or none comes back.
        """
        until, failed = time.monotonic() + sum(BACKOFF), set[Server]()
        while True:
            server, begun = self._take(), time.monotonic()
            try:
                answer = question(server)
            except AwayError as error:
                failed |= set() if error.passing else {server}
                self.lose(server, error)
                if len(self) == 1 or failed == set(self) or time.monotonic() >= until:
                    raise
            else:
                self._has_answered(server, begun)
                return server, answer
            finally:
                with self._lock:
                    self._running[server] -= 1

    def lose(self, server: Server, why: AwayError) -> None:
        """Leave a server out for now, and say so."""
        with self._lock:
            new = server not in self._away
            self._away[server] = time.monotonic()
        if new and len(self) > 1:
            complain(f"{why.what} Its episodes go to the other servers.")

    def leave_out(self, server: Server, why: AwayError) -> None:
        """Ask a server no more, of which it cannot be proved what it served last, and say so; one has to be left."""
        self._left_out.add(server)
        if len(self) == 1:
            self._asked[0].tries = len(BACKOFF)
        complain(f"{why.what} Nothing proves what it served last: what it answered since it was proved is asked of the others.")

    def _take(self) -> Server:
        with self._lock:
            now, turn = time.monotonic(), next(self._turns)
            asked = self._asked
            present = [each for each in asked if now - self._away.get(each, -LOOKED_AT_AGAIN) >= LOOKED_AT_AGAIN]
            if present:
                order = {each: (self._all.index(each) - turn) % len(self._all) for each in present}
                server = min(present, key=lambda each: (self._running[each], order[each]))
            else:
                server = min(asked, key=self._away.__getitem__)
            if server in self._away:
                self._away[server] = now
            self._running[server] += 1
            return server

    def _has_answered(self, server: Server, begun: float) -> None:
        with self._lock:  # What was begun before it was lost does not tell that it is back.
            is_back = self._away.get(server, begun) < begun
            if is_back:
                del self._away[server]
        if is_back and len(self._all) > 1:
            complain(f"{server.base_url} answers again.")
