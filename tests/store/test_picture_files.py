"""Pictures of artifacts: PNG and JPEG inside the artifact, of a bounded size, and nothing else, whoever looks at them."""

import ast
import io
import os
import struct
import subprocess
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import gtrturbo
from gtrturbo.errors import GtrTurboError
from gtrturbo.store.pictures import copy_picture, load_picture
from gtrturbo.store.saved_pictures import save_image

PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
NAME = "images/0.png"


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(
    width: int = 6, height: int = 4, *, more: bytes = b"", data: bytes | None = None, colours: int = 2, bits: int = 8
) -> bytes:
    """Write a PNG by hand: each row of RGB bytes after a 0, as the specification has it."""
    rows = b"".join(b"\0" + row.tobytes() for row in PIXELS) if data is None else data
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def saved(form: str, **settings) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, format=form, **settings)
    return file.getvalue()


@pytest.fixture
def artifact(tmp_path):
    (tmp_path / "a" / "images").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "0.png").write_bytes(png())
    return tmp_path / "a"


def test_a_png_and_a_jpeg_are_read_as_their_pixels(artifact):
    (artifact / NAME).write_bytes(png())
    assert np.array_equal(load_picture(artifact, NAME), PIXELS)
    (artifact / NAME).write_bytes(saved("JPEG", quality=95))
    assert load_picture(artifact, NAME).shape == PIXELS.shape


def test_what_a_jpeg_says_of_its_orientation_is_not_heeded(artifact):
    exif = Image.Exif()
    exif[0x0112] = 6  # Turned by a quarter.
    (artifact / NAME).write_bytes(saved("JPEG", exif=exif))
    assert load_picture(artifact, NAME).shape == (4, 6, 3)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch RAN) (w) file\nshowpage\n"
MOVING = chunk(b"acTL", struct.pack(">II", 2, 0)) + chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 6, 4, 0, 0, 1, 1, 0, 0))
BOMB = b"note\0\0" + zlib.compress(b"x" * (1 << 26))
BAD = {
    "gif": (saved("GIF"), "neither PNG nor JPEG"),
    "tiff": (saved("TIFF"), "neither PNG nor JPEG"),
    "bmp": (saved("BMP"), "neither PNG nor JPEG"),
    "webp": (saved("WEBP"), "neither PNG nor JPEG"),
    "psd": (b"8BPS" + bytes(40), "neither PNG nor JPEG"),
    "eps": (POSTSCRIPT, "neither PNG nor JPEG"),
    "eps after the start of a jpeg": (b"\xff\xd8\xff" + POSTSCRIPT, ""),
    "empty": (b"", "neither PNG nor JPEG"),
    "cut off": (png()[:50], ""),
    "its start alone": (png()[:8], ""),
    "moving": (png(more=MOVING), "it moves"),
    "10^9 pixels": (png(100_000, 10_000), "100000 × 10000 pixels"),
    "2^62 pixels": (png(2**31 - 1, 2**31 - 1), "pixels"),
    "12,000 squared": (png(12_000, 12_000), "12000 × 12000 pixels"),
    "no pixels": (png(0, 4, data=b""), ""),
    "a jpeg of 65,500 squared": (saved("JPEG").replace(struct.pack(">HH", 4, 6), b"\xff\xdc\xff\xdc", 1), "pixels"),
    "a bomb in its text": (png(more=chunk(b"zTXt", BOMB)), ""),
    "a bomb in its profile": (png(more=chunk(b"iCCP", BOMB)), ""),
}


@pytest.mark.parametrize(("content", "said"), BAD.values(), ids=BAD)
def test_what_is_no_single_picture_of_a_known_format_and_size_is_refused_at_once(artifact, content, said, monkeypatch):
    (artifact / NAME).write_bytes(content)
    started: list = []
    monkeypatch.setattr(subprocess, "Popen", lambda *words, **_: started.append(words))
    begin = time.process_time()
    with pytest.raises(GtrTurboError, match=rf"a/images/0\.png is no picture: .*{said}"):
        load_picture(artifact, NAME)
    assert time.process_time() - begin < 1 and started == []


@pytest.mark.parametrize(("content", "said"), [case for case in BAD.values() if case[1]])
def test_nor_is_it_copied(artifact, content, said):
    (artifact / NAME).write_bytes(content)
    with pytest.raises(GtrTurboError, match=rf"a/images/0\.png is no picture: .*{said}"):
        copy_picture(artifact, artifact / "copy", NAME)
    assert not (artifact / "copy").exists()


@pytest.mark.parametrize("name", ["../outside/0.png", "images/../../outside/0.png", "linked/0.png", "link.png", "hidden"])
@pytest.mark.parametrize("read", [load_picture, lambda folder, name: copy_picture(folder, folder / "copy", name)])
def test_pictures_outside_the_artifact_are_not_read_and_not_copied(artifact, name, read):
    outside = artifact.parent / "outside"
    (artifact / "linked").symlink_to(outside)
    (artifact / "link.png").symlink_to(outside / "0.png")
    os.mkfifo(artifact / "hidden")
    for place in (name, str(outside / "0.png"), f"file://{outside}/0.png"):
        with pytest.raises(GtrTurboError, match=f"see: gtrturbo show {artifact} --check"):
            read(artifact, place)
    assert not (artifact / "copy").exists()


def test_a_copy_has_the_same_bytes_and_takes_the_place_of_nothing(artifact, tmp_path):
    name = save_image(artifact, PIXELS)
    copy_picture(artifact, tmp_path / "b", name)
    assert (tmp_path / "b" / name).read_bytes() == (artifact / name).read_bytes()
    (artifact / "images" / "1.png").write_bytes(png())
    (tmp_path / "b" / "images" / "1.png").symlink_to(tmp_path / "victim")
    with pytest.raises(FileExistsError, match="File exists"):
        copy_picture(artifact, tmp_path / "b", "images/1.png")
    assert not (tmp_path / "victim").exists()


def test_no_one_else_opens_pictures():
    package = Path(gtrturbo.__file__).parent
    opening = [
        file.relative_to(package).as_posix()
        for file in package.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Image.open", "PIL.Image.open", "open_image", "imread")
    ]
    assert opening == []
