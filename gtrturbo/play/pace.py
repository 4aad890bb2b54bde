"""How long the answers of servers take, and from that how long one is waited for: a server that hangs says nothing."""

from collections import deque
from threading import Lock

RECENT = 64  # answers
SLOW = 4.0  # times the longest of these: so long may one take when a server is fuller than before
SHORTEST = 30.0  # seconds for any answer
FIRST = 120.0  # seconds while no answer came: a server that has just been started makes its kernels with the first


class Pace:
    """The seconds that the last answers took, of all servers of a checkpoint; may be used from several threads."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, int]] = deque(maxlen=RECENT)
        self._least = SHORTEST
        self._lock = Lock()

    def limit(self, tokens: int) -> float:
        """Return the seconds after which an answer of up to so many tokens is late; 0 where none is generated.

        Replies that might be as long say how long they take; where there are none yet, shorter ones do, by the token.
        """
        with self._lock:
            if not tokens:
                return self._least
            if not self._recent:
                return max(self._least, FIRST)
            as_long = [seconds for seconds, most in self._recent if most >= tokens]
            longest = max(as_long or [seconds * tokens / most for seconds, most in self._recent])
            return max(self._least, SLOW * longest)

    def answered(self, seconds: float, tokens: int) -> None:
        """Count an answer of up to so many tokens."""
        with self._lock:
            self._recent.append((seconds, tokens))
            self._least = SHORTEST

    def missed(self, limit: float) -> None:
        """Wait twice as long until one comes: where all of them are late the limit is wrong, and not the servers."""
        with self._lock:
            self._least = max(self._least, 2 * limit)
