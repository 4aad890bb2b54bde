"""Pictures as they are saved: PNG, whole or not at all, under the hash of their pixels, so that a wrong one is noticed."""

import hashlib
import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

from gtrturbo.errors import GtrTurboError
from gtrturbo.store.files import write_one_of_many
from gtrturbo.store.pictures import load_picture
from gtrturbo.store.seen import Mark, mark_of

PNG_END = b"IEND\xaeB`\x82"  # The last chunk: its name and checksum.
# How files looked whose pixels this process knows, so that a picture that comes again is not decoded again.
_known: dict[Path, Mark] = {}


def save_image(folder: Path, pixels: np.ndarray) -> str:
    """Write a picture, [H, W, 3] uint8, under the hash of its pixels, once; return its path relative to the artifact.

    What is there under this name and is another picture, or is cut off, is written anew.
    """
    name = _name(pixels)
    if not is_saved(folder, name):
        target = folder / name
        target.parent.mkdir(exist_ok=True)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format="PNG")
        write_one_of_many(target, file.getvalue())
        _known[target] = mark_of(target)
    return name


def is_saved(folder: Path, name: str) -> bool:
    """Tell whether a picture is there, to its end, and is the one that its name says."""
    file = folder / name
    if not file.is_file():
        return False
    mark = mark_of(file)
    if _known.get(file) == mark:
        return True
    try:
        right = _name(load_picture(folder, name)) == name and _has_end(file)
    except GtrTurboError:
        return False
    if right:
        _known[file] = mark
    return right


def _has_end(file: Path) -> bool:
    """Tell whether a PNG's last chunk is there, without which Pillow reads one all the same."""
    with file.open("rb") as opened:
        opened.seek(-len(PNG_END), os.SEEK_END)
        return opened.read() == PNG_END


def _name(pixels: np.ndarray) -> str:
    digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:32]
    return f"images/{digest}.png"
