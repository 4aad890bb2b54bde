"""What mends a folder whose files are damaged or missing: an artifact is checked by its manifest, another is fetched anew."""

from pathlib import Path

from gtrturbo.distributed.escapes import shell_word
from gtrturbo.store.names import MANIFEST

FETCH_AGAIN = "download it again, or choose another model."
WRITE_AGAIN = "download it again, or write it anew with save_pretrained of its model and its processor."


def mend_of(folder: str | Path) -> str:
    """Say what to do about a folder, or a model of that hub id: only what has a manifest can be held against it."""
    if (Path(folder) / MANIFEST).is_file():
        return f"see: gtrturbo show {shell_word(str(folder))} --check"
    return WRITE_AGAIN if Path(folder).is_dir() else FETCH_AGAIN
