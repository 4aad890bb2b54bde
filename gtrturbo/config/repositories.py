"""Names of repositories on a hub."""

import re

from gtrturbo.errors import GtrTurboError

# Letters, digits, -, _ and . within, as huggingface.co has them; 96 characters at most.
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?/[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
LONGEST = 96


def repository_of(name: str) -> str:
    """Return a repository's name as it is.

    Raises:
        GtrTurboError: it is not ORG/NAME.
    """
    if not NAME.fullmatch(name) or len(name) > LONGEST or "--" in name or ".." in name:
        raise GtrTurboError(f"{name!r} is no name of a repository.", "write it as ORG/NAME, in letters, digits, - _ and .")
    return name
