"""Guards by name."""

from gtrturbo.algorithms.guards import GUARDS, Guard
from gtrturbo.errors import GtrTurboError
from gtrturbo.plugins import find


def find_guard(name: str) -> Guard:
    """Return the guard that is built in under a name, or the user's own.

    Raises:
        GtrTurboError: there is none, or it is no Guard.
    """
    found = find("guard", name, GUARDS)
    if not isinstance(found, Guard):
        raise GtrTurboError(
            f"{name} is a {type(found).__name__}, not a Guard.", "make one with: from gtrturbo.algorithms.guards import Guard"
        )
    return found
