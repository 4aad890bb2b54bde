"""EZPoints: make 12 from two cards with `+` and `*`.

Rules as in RL4VLM (Zhai et al., 2024), `gym_cards/EZPoints-v0`.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw

from gtrturbo.tasks.games import formula
from gtrturbo.tasks.games.arithmetic import Arithmetic
from gtrturbo.tasks.games.cards import RANKS, Card, random_suit
from gtrturbo.tasks.games.drawing import BLACK, CELL, GREEN, WHITE, card_face, font, grid, ink, paste_card


def _full(cards: tuple[Card, ...], items: tuple[str, ...]) -> np.ndarray:
    picture = Image.new("RGB", (300, 300), GREEN)
    for x, card in zip((5, 153), cards, strict=True):
        paste_card(picture, card_face(card, 135, 189), x, 55)
    ImageDraw.Draw(picture).text((10, 258), " ".join(("Formula:", *items)), fill=WHITE, font=font(20))
    return np.array(picture)


def _tiny(cards: tuple[Card, ...], items: tuple[str, ...]) -> np.ndarray:
    glyphs = {(column, 1): (item, BLACK) for column, item in enumerate(items)}
    for column, card in zip((0, 3), cards, strict=True):
        glyphs[column, 0] = ("10" if card.rank == "T" else card.rank, ink(card.suit))
        glyphs[column + 1, 0] = (card.suit.lower(), ink(card.suit))
    return grid(6, 2, glyphs)


EZPOINTS = formula.Rules(
    name="EZPoints",
    target=12,
    hand=2,
    limit=5,
    signs="+*",
    full=_full,
    tiny=_tiny,
    tiny_shape=(2 * CELL, 6 * CELL, 3),
)


def deal_pair(rng: np.random.Generator, face_cards_as_10: bool = True) -> tuple[Card, ...]:
    """Draw two cards that make 12.

    The first card is uniform on 2 to king. The second makes 12 by product, half of the time and where it can, else by
    sum; a second card worth 10 is a ten. The order is then drawn too. With face cards above 10 the king, which has no
    partner, is not drawn, and the queen's partner is an ace.
    """
    number = int(rng.integers(2, 14 if face_cards_as_10 else 13))
    value = min(number, 10) if face_cards_as_10 else number
    by_product = value == 12 or (value in (2, 3, 4, 6) and rng.random() < 0.5)
    partner = 12 // value if by_product else 12 - value
    pair = (Card(random_suit(rng), RANKS[number - 1]), Card(random_suit(rng), RANKS[partner - 1]))
    return pair if rng.random() < 0.5 else pair[::-1]


def make_env(
    image: Literal["full", "tiny"] = "full",
    face_cards_as_10: bool = True,
    arithmetic: Arithmetic = "exact",
    overlong: formula.Overlong = "ends",
    render_mode: str | None = None,
) -> formula.FormulaEnv:
    """Make the environment; the arguments are those of `FormulaEnv`. The tiny picture is 168 x 56 pixels."""
    return formula.FormulaEnv(
        EZPOINTS,
        lambda rng, panel: deal_pair(rng, face_cards_as_10),
        image=image,
        face_cards_as_10=face_cards_as_10,
        arithmetic=arithmetic,
        overlong=overlong,
        render_mode=render_mode,
    )


def prompt(info: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """Ask for the next item."""
    return formula.prompt(EZPOINTS, info, options)


def truth(info: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ranks and the formula on the picture."""
    return formula.truth(info)


def expert(info: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[str, str]:
    """Return true thoughts and the next item."""
    return formula.expert(EZPOINTS, info, options)


def random_expert(info: Mapping[str, Any], options: Mapping[str, Any], rng: np.random.Generator) -> tuple[str, str]:
    """Return a plan that is left to chance, and its next item."""
    return formula.random_expert(EZPOINTS, info, rng)
