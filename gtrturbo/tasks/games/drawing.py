"""Pictures of cards, text and glyph grids, drawn with Pillow and its embedded font; no file is read.

A picture is a function of what it shows: the same state gives the same bytes. Nothing here is random.
"""

from collections.abc import Mapping
from functools import lru_cache
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gtrturbo.tasks.games.cards import Card, shown_rank

CELL = 28  # pixels; one cell is one visual token of Qwen2.5-VL (2 x 2 patches of 14 pixels)
BLACK, WHITE, RED, GREEN = (0, 0, 0), (255, 255, 255), (200, 16, 30), (53, 101, 77)
FINE = 4  # shapes are drawn this many times larger and then reduced, for smooth edges

Colour = tuple[int, int, int]


def ink(suit: str) -> Colour:
    """Return the colour of a suit."""
    return RED if suit in "HD" else BLACK


@lru_cache(maxsize=64)
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return Pillow's embedded font at a size in pixels."""
    loaded = ImageFont.load_default(size)
    assert isinstance(loaded, ImageFont.FreeTypeFont)  # every wheel of Pillow is built with FreeType
    return loaded


def _disc(x: float, y: float, radius: float) -> list[tuple[float, float]]:
    return [(x + radius * cos(k * pi / 24), y + radius * sin(k * pi / 24)) for k in range(48)]


# Each suit as polygons in a unit square, y downwards.
STEM = [(0.5, 0.5), (0.68, 1.0), (0.32, 1.0)]
SHAPES: Mapping[str, list[list[tuple[float, float]]]] = {
    "H": [_disc(0.27, 0.29, 0.26), _disc(0.73, 0.29, 0.26), [(0.05, 0.42), (0.5, 0.33), (0.95, 0.42), (0.5, 1.0)]],
    "S": [_disc(0.28, 0.57, 0.25), _disc(0.72, 0.57, 0.25), [(0.06, 0.45), (0.5, 0.68), (0.94, 0.45), (0.5, 0.0)], STEM],
    "D": [[(0.5, 0.0), (0.9, 0.5), (0.5, 1.0), (0.1, 0.5)]],
    "C": [_disc(0.5, 0.24, 0.24), _disc(0.24, 0.58, 0.24), _disc(0.76, 0.58, 0.24), _disc(0.5, 0.5, 0.16), STEM],
}


@lru_cache(maxsize=64)
def suit_shape(suit: str, size: int) -> Image.Image:
    """Draw a suit as a mask of `size` x `size` pixels."""
    mask = Image.new("L", (size * FINE, size * FINE), 0)
    draw = ImageDraw.Draw(mask)
    for polygon in SHAPES[suit]:
        draw.polygon([(x * (size * FINE - 1), y * (size * FINE - 1)) for x, y in polygon], fill=255)
    return mask.resize((size, size), Image.Resampling.BOX)


@lru_cache(maxsize=512)
def text_shape(text: str, height: int, width: int) -> Image.Image:
    """Draw bold text as a mask cut to its ink, with capitals of `height` pixels, squeezed where wider than `width`."""
    letters = font(round(height * FINE * 1.42))  # capitals of this font are 0.70 of its size
    stroke = max(1, height * FINE // 28)
    _, _, right, bottom = letters.getbbox(text, stroke_width=stroke)
    mask = Image.new("L", (int(right) + stroke, int(bottom) + stroke), 0)
    ImageDraw.Draw(mask).text((stroke, 0), text, fill=255, font=letters, stroke_width=stroke)
    mask = mask.crop(mask.getbbox())
    size = (min(width, max(1, round(mask.width / FINE))), max(1, round(mask.height / FINE)))
    return mask.resize(size, Image.Resampling.BOX)


@lru_cache(maxsize=256)
def card_face(card: Card, width: int, height: int) -> Image.Image:
    """Draw a card: rank and suit in two corners, upside down in the second, and a large suit in the middle."""
    face = _blank_card(width, height, WHITE)
    rank = text_shape(shown_rank(card.rank), round(width * 0.24), round(width * 0.36))
    small, large = suit_shape(card.suit, round(width * 0.22)), suit_shape(card.suit, round(width * 0.42))
    margin = max(3, width // 15)
    corner = Image.new("L", (width, height), 0)
    column = margin + max(rank.width, small.width) // 2
    corner.paste(rank, (column - rank.width // 2, margin + 1))
    corner.paste(small, (column - small.width // 2, margin + rank.height + 4))
    for mask in (corner, corner.rotate(180)):
        face.paste(ink(card.suit), (0, 0), mask)
    face.paste(ink(card.suit), ((width - large.width) // 2, (height - large.height) // 2), large)
    return face


@lru_cache(maxsize=4)
def card_back(width: int, height: int) -> Image.Image:
    """Draw the back of a card: blue, with a lattice."""
    back = _blank_card(width, height, WHITE)
    draw = ImageDraw.Draw(back)
    draw.rounded_rectangle((5, 5, width - 6, height - 6), radius=4, fill=(40, 70, 150))
    for x in range(12, width - 6, 10):
        draw.line((x, 6, x, height - 7), fill=(150, 170, 220))
    for y in range(12, height - 6, 10):
        draw.line((6, y, width - 7, y), fill=(150, 170, 220))
    return back


def _blank_card(width: int, height: int, colour: Colour) -> Image.Image:
    """Draw an empty card; outside its rounded corners it is transparent."""
    card = Image.new("RGBA", (width * FINE, height * FINE), (*colour, 0))
    box = (0, 0, width * FINE - 1, height * FINE - 1)
    ImageDraw.Draw(card).rounded_rectangle(box, width * FINE // 12, (*colour, 255), (90, 90, 90, 255), FINE)
    return card.resize((width, height), Image.Resampling.BOX)


def paste_card(picture: Image.Image, card: Image.Image, x: int, y: int) -> None:
    """Lay a card onto a picture, with its upper left corner at (x, y)."""
    picture.paste(card, (x, y), card)


def wrapped(items: tuple[str, ...], size: int, width: int) -> str:
    """Join items with spaces, and break the line where it would be wider than `width` pixels."""
    lines = [""]
    for item in items:
        longer = f"{lines[-1]} {item}" if lines[-1] else item
        if font(size).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(item)
    return "\n".join(lines)


@lru_cache(maxsize=512)
def glyph(text: str, colour: Colour = BLACK) -> np.ndarray:
    """Draw one glyph in the middle of a white cell, uint8 [28, 28, 3].

    The letters `h s d c` in lower case are the suits, a blank is an empty box, `#` the back of a card; a text of two
    digits is squeezed into the cell.
    """
    mask = _glyph_shape(text)
    cell = Image.new("RGB", (CELL, CELL), WHITE)
    cell.paste(colour, ((CELL - mask.width) // 2, (CELL - mask.height) // 2), mask)
    return np.asarray(cell)


def _glyph_shape(text: str) -> Image.Image:
    if text in ("h", "s", "d", "c"):
        return suit_shape(text.upper(), 22)
    if text == "#":
        return Image.fromarray((np.indices((24, 18)).sum(0) // 3 % 2 * 255).astype(np.uint8))
    if text == " ":
        box = Image.new("L", (16, 22), 0)
        ImageDraw.Draw(box).rectangle((0, 0, 15, 21), outline=255, width=2)
        return box
    return text_shape(text, 40 if text in ("*", "-") else 26 if text == "+" else 20, 24)


def grid(columns: int, rows: int, glyphs: Mapping[tuple[int, int], tuple[str, Colour]]) -> np.ndarray:
    """Lay glyphs onto a white grid.

    Args:
        columns: width of the grid in cells.
        rows: height of the grid in cells.
        glyphs: for (column, row), the glyph and its colour.

    Returns: uint8 [28 rows, 28 columns, 3].
    """
    picture = np.full((rows * CELL, columns * CELL, 3), 255, dtype=np.uint8)
    for (column, row), (text, colour) in glyphs.items():
        picture[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = glyph(text, colour)
    return picture
