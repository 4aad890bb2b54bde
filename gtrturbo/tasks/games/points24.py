"""Points24: make 24 from four cards with `+ - * /` and brackets.

Rules as in RL4VLM (Zhai et al., 2024), `gym_cards/Points24-v0`; GTR (Wei et al., 2025) and GTR-Turbo (arXiv 2512.13043)
train on the same game. A hand need not have a solution: 20,876 of the 28,561 ordered draws have one.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal
from zlib import crc32

import numpy as np
from PIL import Image, ImageDraw

from gtrturbo.tasks.deals import HELD_OUT, panel_seeds
from gtrturbo.tasks.games import formula
from gtrturbo.tasks.games.arithmetic import Arithmetic
from gtrturbo.tasks.games.cards import Card, random_card
from gtrturbo.tasks.games.drawing import BLACK, CELL, GREEN, WHITE, card_face, font, grid, ink, paste_card, wrapped
from gtrturbo.tasks.games.solver import solve
from gtrturbo.tasks.options import Choice, Option, Switch, check_options

HandFamily = Literal["any", "signs", "sums"]
Deals = Literal["all", "train", "held-out"]
POINTS24_OPTIONS: dict[str, Option] = {
    **formula.FORMULA_OPTIONS,
    "solvable_only": Switch(False),
    "family": Choice(("any", "signs", "sums")),
    "deals": Choice(("all", "train", "held-out")),
}
PANELS = ("held-out", "solvable", "unsolvable")
SOLVABLE: dict[int | None, bool] = {PANELS.index("solvable"): True, PANELS.index("unsolvable"): False}


def _full(cards: tuple[Card, ...], items: tuple[str, ...]) -> np.ndarray:
    picture = Image.new("RGB", (300, 300), GREEN)
    for x, card in zip((5, 78, 152, 226), cards, strict=True):
        paste_card(picture, card_face(card, 67, 93), x, 103)
    draw = ImageDraw.Draw(picture)
    draw.text((10, 210), "Formula:", fill=WHITE, font=font(16))
    draw.text((10, 240), wrapped(items, 20, 280), fill=WHITE, font=font(20))
    return np.array(picture)


def _tiny(cards: tuple[Card, ...], items: tuple[str, ...]) -> np.ndarray:
    glyphs = {(at % 8, 1 + at // 8): (item, BLACK) for at, item in enumerate(items)}
    for at, card in enumerate(cards):
        glyphs[2 * at, 0] = ("10" if card.rank == "T" else card.rank, ink(card.suit))
        glyphs[2 * at + 1, 0] = (card.suit.lower(), ink(card.suit))
    return grid(8, 4, glyphs)


POINTS24 = formula.Rules(
    name="Points24",
    target=24,
    hand=4,
    limit=20,
    signs="+-*/()",
    full=_full,
    tiny=_tiny,
    tiny_shape=(4 * CELL, 8 * CELL, 3),
)


FAMILIES = {"any": POINTS24.operators, "signs": "+-", "sums": "+-"}
# What the expert tries one after another: a hand of sums that was begun otherwise may still be won with other signs.
TRIED = {"any": (POINTS24.operators,), "signs": ("+-",), "sums": ("+-", POINTS24.operators)}


def held_out(values: tuple[int, ...]) -> bool:
    """Say whether a hand, given by its values in ascending order, is one of the fifth that training never sees."""
    return crc32(" ".join(map(str, values)).encode()) % HELD_OUT == 0


def deal_four(
    rng: np.random.Generator,
    face_cards_as_10: bool = True,
    solvable_only: bool = False,
    family: HandFamily = "any",
    deals: Deals = "all",
    panel: int | None = None,
) -> tuple[Card, ...]:
    """Draw four cards with replacement, rank and suit uniform; again and again until the hand is of those that are wanted.

    Hands of a panel are held out, whatever `deals` says.
    """
    half = deals == "held-out" or panel is not None
    wanted = SOLVABLE.get(panel, True if solvable_only or family == "sums" else None)
    while True:
        cards = tuple(random_card(rng) for _ in range(POINTS24.hand))
        values = tuple(sorted(card.value(face_cards_as_10) for card in cards))
        if (deals != "all" or half) and held_out(values) != half:
            continue
        if wanted is None or wanted is (solve(values, POINTS24.target, FAMILIES[family]) is not None):
            return cards


def panels(options: Mapping[str, Any]) -> dict[str, Sequence[int]]:
    """Return the panels, of hands that are held out: as they are dealt, and, where not all have a solution, apart by that.

    A solution is one by ordinary arithmetic with the family's signs, whatever rule judges.
    """
    names = ["held-out"] if options["solvable_only"] or options["family"] == "sums" else [*PANELS]
    return {name: panel_seeds(PANELS.index(name)) for name in names}


def make_env(
    image: Literal["full", "tiny"] = "full",
    face_cards_as_10: bool = True,
    arithmetic: Arithmetic = "exact",
    overlong: formula.Overlong = "ends",
    solvable_only: bool = False,
    family: HandFamily = "any",
    deals: Deals = "all",
    render_mode: str | None = None,
) -> formula.FormulaEnv:
    """Make the environment. The tiny picture is 224 x 112 pixels.

    Args:
        image, face_cards_as_10, arithmetic, overlong, render_mode: as for `FormulaEnv`.
        solvable_only: deal until ordinary arithmetic with the family's operators makes 24 of the hand; by default any hand is
            dealt.
        family: `signs` lets both experts only add and subtract, and the expert gives up what is not won that way. `sums`
            deals only hands that make 24 that way: 57 hands, order and suits aside, of which 41 add up to 24 and 16 do with the
            smallest card subtracted. With face cards above 10 there are more. The expert multiplies and divides there only to
            save what was begun otherwise.
        deals: `held-out` deals one fifth of the hands, whatever their order and suits, `train` the others.
    """
    check_options({"solvable_only": solvable_only, "family": family, "deals": deals}, POINTS24_OPTIONS)
    return formula.FormulaEnv(
        POINTS24,
        lambda rng, panel: deal_four(rng, face_cards_as_10, solvable_only, family, deals, panel),
        image=image,
        face_cards_as_10=face_cards_as_10,
        arithmetic=arithmetic,
        overlong=overlong,
        render_mode=render_mode,
    )


def prompt(info: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """Ask for the next item."""
    return formula.prompt(POINTS24, info, options)


def truth(info: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ranks and the formula on the picture."""
    return formula.truth(info)


def expert(info: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[str, str]:
    """Return true thoughts and the next item."""
    return formula.expert(POINTS24, info, options, TRIED[options["family"]])


def random_expert(info: Mapping[str, Any], options: Mapping[str, Any], rng: np.random.Generator) -> tuple[str, str]:
    """Return a plan that is left to chance, and its next item."""
    return formula.random_expert(POINTS24, info, rng, FAMILIES[options["family"]])
