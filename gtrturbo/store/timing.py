"""What timing.json says: seconds, memory and machine of an artifact, which are no part of it; it may be gone."""

from pathlib import Path
from typing import Any

from gtrturbo.errors import GtrTurboError
from gtrturbo.store.json_files import read_json
from gtrturbo.store.strict_json import is_number


def read_timing(file: Path) -> dict[str, Any]:
    """Read a timing.json; `seconds` are wall-clock seconds, `peak_memory_gib` GiB.

    Raises:
        GtrTurboError: it is damaged.
    """
    mend = f"remove it: no result depends on it. rm {file}"
    timing = read_json(file, dict[str, Any], mend=mend)
    for name in ("seconds", "peak_memory_gib"):
        value = timing.get(name, 0.0)
        if not is_number(value) or value < 0:
            raise GtrTurboError(f"{file} is damaged: {name} is no number of at least 0.", mend)
    return timing
