"""An artifact whose files a test changed, with a manifest that says so: as if a stage had written them."""

from pathlib import Path

from gtrturbo.store.files import list_files, save_json
from gtrturbo.store.ids import sha256_file
from gtrturbo.store.names import MANIFEST
from gtrturbo.store.strict_json import parse_json


def reseal(folder: Path, **changes) -> Path:
    """Name the files as they are now, and change what else is given."""
    content = parse_json((folder / MANIFEST).read_bytes())
    files = {name: sha256_file(folder / name) for name in list_files(folder)}
    save_json(folder / MANIFEST, content | {"files": files} | changes)
    return folder
