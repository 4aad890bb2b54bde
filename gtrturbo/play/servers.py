"""Several servers of one checkpoint: they share its requests, and what one of them loses goes to the others."""

import itertools
import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from threading import Lock
from typing import TypeVar

from gtrturbo.distributed.escapes import complain
from gtrturbo.distributed.processes import group
from gtrturbo.play.failures import BACKOFF, AwayError, RefusedError
from gtrturbo.play.pace import Pace
from gtrturbo.play.server import Server
from gtrturbo.play.wire import SOON, TIMEOUT

Answered = TypeVar("Answered")
LOOKED_AT_AGAIN = 30.0  # seconds after which a server that was away is asked again, by one request at a time


class Servers:
    """Give each request to the server that has the fewest; one that is away is left out until it answers again.

    Args:
        servers: at least one; a single one is waited for as long as `request` waits, of several each only shortly, and for one
            answer as long as their `Pace` says.
    """

    def __init__(self, servers: Sequence[Server]) -> None:
        self._all = list(servers)
        self._running = dict.fromkeys(self._all, 0)
        self._away: dict[Server, float] = {}
        self._left_out: set[Server] = set()
        self._refused: set[Server] = set()  # Told as that.
        self._lock = Lock()
        self._turns = itertools.count(group().world.rank)  # Several processes do not all begin with the first.
        self._greet: Callable[[Server], object] = lambda _: None
        self._met: set[Server] = set()
        pace = Pace()
        for server in self._all if len(self._all) > 1 else []:
            server.tries, server.gives_way, server.pace = SOON, True, pace

    def __iter__(self) -> Iterator[Server]:
        return iter(self._asked)

    def __len__(self) -> int:
        return len(self._asked)

    @property
    def _asked(self) -> list[Server]:
        return [server for server in self._all if server not in self._left_out]

    @property
    def are_several(self) -> bool:
        """Whether more than one was named."""
        return len(self._all) > 1

    def speaker(self, server: Server) -> str:
        """Name who speaks: the model or adapter, and of several servers which, as they were named, from 1; no address."""
        return f"{server.name} on server {self._all.index(server) + 1}" if self.are_several else server.name

    def meet(self, greet: Callable[[Server], object]) -> None:
        """Do with each server what has to be done before it is asked anything; with one that is away, when it answers again.

        Raises: see `together`.
        """
        self._greet = greet
        self.together(lambda _: None)

    def _require_met(self, server: Server) -> None:
        if server not in self._met:
            self._greet(server)
            self._met.add(server)

    def together(self, work: Callable[[Sequence[Server]], object]) -> None:
        """Do something with all that are there; one that is away or refuses is left out, and it is begun anew with the others.

        Raises:
            GtrTurboError: each of them refuses it or fails at it, or none comes back for as long as one alone would be
                waited for.
        """
        until, failed = time.monotonic() + sum(BACKOFF), set[Server]()
        while True:
            there, begun = self._there(), time.monotonic()
            try:
                for server in there:
                    self._require_met(server)
                work(there)
            except (AwayError, RefusedError) as why:
                error = why.as_away()
                [lost] = [server for server in there if f"{error.url}/".startswith(f"{server.base_url}/")]
                failed |= set() if error.passing else {lost}
                self.lose(lost, error)
                if len(self) == 1 or failed == set(self) or (there == [lost] and time.monotonic() >= _end(until, error)):
                    raise
            else:
                for server in there:
                    self._has_answered(server, begun)
                return

    def ask(self, question: Callable[[Server], Answered]) -> tuple[Server, Answered]:
        """Ask one server; where it is away another, and all of them again for as long as one alone would be waited for.

        Raises:
            GtrTurboError: each of them refuses the question, or fails at it, or none comes back.
        """
        until, failed, refusing = time.monotonic() + sum(BACKOFF), set[Server](), set[Server]()
        while True:
            server, begun = self._take(refusing), time.monotonic()
            try:
                self._require_met(server)
                answer = question(server)
            except AwayError as error:
                failed |= set() if error.passing else {server}
                self.lose(server, error)
                if len(self) == 1 or failed == set(self) or time.monotonic() >= _end(until, error):
                    raise
            except RefusedError as error:
                refusing.add(server)
                with self._lock:
                    others = set(self) - self._away.keys() - refusing
                if not others:
                    raise
                self._tell_refusal(server, error)
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
            if why.fix and not why.passing:
                complain(why.fix)

    def _tell_refusal(self, server: Server, why: RefusedError) -> None:
        with self._lock:
            new = server not in self._refused
            self._refused.add(server)
        if new:
            complain(f"{why.what} What it refuses is asked of the other servers.")

    def leave_out(self, server: Server, why: AwayError) -> None:
        """Ask a server no more, of which it cannot be proved what it served last, and say so; one has to be left."""
        self._left_out.add(server)
        if len(self) == 1:
            self._asked[0].tries, self._asked[0].gives_way = len(BACKOFF), False
        complain(f"{why.what} Nothing proves what it served last: what it answered since it was proved is asked of the others.")

    def _take(self, refusing: Collection[Server]) -> Server:
        """Take the one that has the fewest requests of those that are there and do not refuse this one."""
        with self._lock:
            now, turn = time.monotonic(), next(self._turns)
            asked = [each for each in self._asked if each not in refusing] or self._asked
            present = [each for each in asked if now - self._away.get(each, -LOOKED_AT_AGAIN) >= LOOKED_AT_AGAIN]
            order = {each: (self._all.index(each) - turn) % len(self._all) for each in present}
            server = min(present, key=lambda each: (self._running[each], order[each])) if present else self._longest_away(asked)
            if server in self._away:
                self._away[server] = now
            self._running[server] += 1
            return server

    def _there(self) -> list[Server]:
        """Return those that are not away; where all are, the one that was asked longest ago."""
        with self._lock:
            return [server for server in self._asked if server not in self._away] or [self._longest_away(self._asked)]

    def _longest_away(self, servers: Sequence[Server]) -> Server:
        return min(servers, key=lambda server: self._away.get(server, math.inf))

    def _has_answered(self, server: Server, begun: float) -> None:
        with self._lock:  # What was begun before it was lost does not tell that it is back.
            is_back = self._away.get(server, begun) < begun
            if is_back:
                del self._away[server]
        if is_back and len(self._all) > 1:
            complain(f"{server.base_url} answers again.")


def _end(until: float, error: AwayError) -> float:
    """Return until when servers are waited for: of one that is there and takes its time, as long as for its answer."""
    return until + (TIMEOUT if error.late else 0.0)
