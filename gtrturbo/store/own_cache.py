"""The user's own cache: what lies there is believed only where nobody else could have written it."""

import os
import stat
from pathlib import Path

ONLY_MINE = 0o700
WRITE_OF_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def user_cache() -> Path | None:
    """Return the folder of the user's own cache; None where there is no home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gtrturbo"
    except RuntimeError:
        return None


def make_private(folder: Path) -> None:
    """Make a folder that nobody else can write to, whatever the umask, and the cache itself if the folder is or lies in it.

    Of a cache that was made under a umask of 002 the group loses its right: what lies in it would never be believed.

    Raises:
        OSError: with the path.
    """
    cache = user_cache()
    if cache and cache in (folder, *folder.parents):
        cache.mkdir(parents=True, exist_ok=True, mode=ONLY_MINE)
        found = cache.stat()
        if found.st_uid == os.getuid() and found.st_mode & WRITE_OF_OTHERS == stat.S_IWGRP:
            cache.chmod(stat.S_IMODE(found.st_mode) & ~stat.S_IWGRP)
    folder.mkdir(parents=True, exist_ok=True, mode=ONLY_MINE)


def is_own(file: Path) -> bool:
    """Tell whether nobody else could have written a file: what it says is believed instead of reading gigabytes."""
    return all(path.stat().st_uid == os.getuid() and not path.stat().st_mode & WRITE_OF_OTHERS for path in (file, file.parent))
