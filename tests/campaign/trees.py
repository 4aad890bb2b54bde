"""Folders as data: what lies in them, byte for byte, and what differs between two."""

import hashlib
import os
import re
from pathlib import Path

# What belongs to no id: seconds and memory.
TIMED = {"timing.json"}
# A demo names the checkpoint that taught it by the beginning of its id, which is another where a manifest was sealed again.
NAMED_TEACHER = re.compile(rb'"checkpoint [0-9a-f]{12}"')


def contents(folder: Path) -> dict[str, str]:
    """Hash every file by its relative name, hidden ones too; folders and links by what they are."""
    found: dict[str, str] = {}
    for place, folders, files in os.walk(folder):
        for name in folders:
            path = Path(place, name)
            found[str(path.relative_to(folder))] = f"link to {os.readlink(path)}" if path.is_symlink() else "folder"
        for name in files:
            path = Path(place, name)
            found[str(path.relative_to(folder))] = _described(path)
    return found


def _described(path: Path) -> str:
    if path.is_symlink():
        return f"link to {os.readlink(path)}"
    if not path.is_file():
        return "special"
    return "timed" if path.name in TIMED else hashlib.sha256(NAMED_TEACHER.sub(b"", path.read_bytes())).hexdigest()


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """Name what is not in both, or not the same in both."""
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


def signature(folder: Path) -> dict[str, tuple[int, int]]:
    """Sizes and times of all files: cheap, and enough to see that a command wrote into its inputs."""
    found = {}
    for place, _, files in os.walk(folder):
        for name in files:
            stat = os.lstat(os.path.join(place, name))
            found[os.path.join(place, name)] = (stat.st_size, stat.st_mtime_ns)
    return found
