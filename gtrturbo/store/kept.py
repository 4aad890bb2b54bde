"""Numbers that take long to find and never change, kept in the user's own cache by the sha256 of all that they are made from."""

import json
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from gtrturbo.config.regular_files import read_regular
from gtrturbo.store.files import write_whole
from gtrturbo.store.own_cache import is_own, make_private, user_cache

Numbers = dict[str, float]
MOST_BYTES = 1 << 16


def kept(kind: str, made_from: Mapping[str, Any], make: Callable[[], Numbers | None]) -> Numbers | None:
    """Return numbers that were found before for the same, else find and keep them.

    What cannot be read or written of the cache costs time alone; nothing is kept where nothing was found.

    Args:
        kind: folder in the cache.
        made_from: all that the numbers depend on, as JSON.
        make: finds them.
    """
    text = json.dumps(made_from, sort_keys=True)
    folder = user_cache()
    file = folder / kind / f"{sha256(text.encode()).hexdigest()}.json" if folder else None
    found = _read(file, text) if file else None
    if found is None and (found := make()) is not None and file:
        _write(file, {"made_from": text, "numbers": found})
    return found


def _read(file: Path, text: str) -> Numbers | None:
    try:
        content = json.loads(read_regular(file, most=MOST_BYTES)) if is_own(file) else {}
        numbers = TypeAdapter(Numbers).validate_python(content.get("numbers"), strict=True)
    except (OSError, ValueError, ValidationError, AttributeError):
        return None
    return numbers if content.get("made_from") == text else None


def _write(file: Path, content: dict[str, Any]) -> None:
    try:
        make_private(file.parent)
        write_whole(file, json.dumps(content).encode(), mode=0o600)  # As `seen.remember`.
    except OSError:
        return
