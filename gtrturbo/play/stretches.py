"""What servers answered since it was last proved what each of them serves: it is believed when that is proved again."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from gtrturbo.play.episodes import Stretch
from gtrturbo.play.server import Server


class Stretches:
    """The answers of servers, in stretches from one proof to the next; may be used from several threads."""

    def __init__(self) -> None:
        self._open: dict[Server, Stretch] = {}
        self._closed: dict[Server, list[Stretch]] = {}
        self._lock = Lock()

    def add(self, server: Server) -> Stretch:
        """Count an answer that has come, and return the stretch that it is of."""
        with self._lock:
            stretch = self._open.setdefault(server, Stretch())
            stretch.answers += 1
            return stretch

    def is_open(self, server: Server, stretch: Stretch) -> bool:
        """Tell whether no proof was begun since."""
        return self._open.get(server) is stretch

    def has_unproved(self, server: Server) -> bool:
        """Tell whether a server gave answers that are not believed yet."""
        return server in self._open or server in self._closed

    @contextmanager
    def proving(self, server: Server) -> Iterator[None]:
        """Believe what came before this block if it ends well: what comes meanwhile may be another server's."""
        with self._lock:
            if stretch := self._open.pop(server, None):
                self._closed.setdefault(server, []).append(stretch)
        yield
        with self._lock:
            for stretch in self._closed.pop(server, []):
                stretch.believed = True
