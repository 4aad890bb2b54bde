"""Pictures in artifacts, as all that looks at one reads it: PNG or JPEG, inside the artifact, and of a size that is known before.

What a row names is data of others. No other reader of Pillow's is ever asked, so that nothing is run for a picture, and the size
that a picture's header tells is looked at before a pixel is decoded.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from gtrturbo.errors import GtrTurboError, naming
from gtrturbo.store.inside import open_inside

# By the bytes that such a file begins with.
FORMATS = {b"\x89PNG\r\n\x1a\n": PngImageFile, b"\xff\xd8\xff": JpegImageFile}
# A square of 4096, above what a Qwen2.5-VL takes at all (16,384 patches of 28 × 28 pixels); decoded in half a second.
MOST_PIXELS = 1 << 24
MOST_FILE_BYTES = 1 << 26
# What Pillow raises of files that are cut off or damaged.
DAMAGES = (OSError, EOFError, SyntaxError, ValueError, TypeError, IndexError, KeyError, struct.error, zlib.error)


def load_picture(folder: Path, name: str) -> np.ndarray:
    """Read a picture of an artifact as pixels, [H, W, 3] uint8; what a JPEG says of its orientation is not heeded.

    Raises:
        GtrTurboError: the name leads out of the artifact, or what is there is no single picture of a known format and size.
    """
    with _opened(folder, name) as (image, _):
        return np.asarray(image.convert("RGB"))


def copy_picture(source: Path, folder: Path, name: str) -> None:
    """Copy a picture of one artifact into another that is being written, byte for byte.

    Raises:
        GtrTurboError: as `load_picture`, as far as its beginning tells.
    """
    with _opened(source, name) as (_, read):
        content = read
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with naming(target), target.open("xb") as file:  # What fails here, such as a full disk, is not the picture's fault.
        file.write(content)


@contextmanager
def _opened(folder: Path, name: str) -> Iterator[tuple[PngImageFile | JpegImageFile, bytes]]:
    """Yield a picture whose header was read, and the bytes of its file."""
    try:
        with open_inside(folder, name) as file:
            content = file.read(MOST_FILE_BYTES + 1)
        if len(content) > MOST_FILE_BYTES:
            raise ValueError(f"it has more than {MOST_FILE_BYTES} bytes")
        reader = next((reader for start, reader in FORMATS.items() if content.startswith(start)), None)
        if reader is None:
            raise ValueError("it is neither PNG nor JPEG")
        with reader(io.BytesIO(content)) as image:
            width, height = image.size
            if not 0 < width * height <= MOST_PIXELS:
                raise ValueError(f"it is {width} × {height} pixels, and at most {MOST_PIXELS} are read")
            if getattr(image, "is_animated", False):
                raise ValueError("it moves, and only single pictures are read")
            yield image, content
    except DAMAGES as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise GtrTurboError(f"{folder / name} is no picture: {reason}.", f"see: gtrturbo show {folder} --check") from None
