"""What the pictures show, and where."""

from itertools import product

import numpy as np
import pytest

from gtrturbo.tasks.games.blackjack import CARD_HEIGHT, CARD_WIDTH, _full, _places, _tiny
from gtrturbo.tasks.games.cards import RANKS, SUITS, Card
from gtrturbo.tasks.games.drawing import CELL, glyph, wrapped
from gtrturbo.tasks.games.ezpoints import EZPOINTS
from gtrturbo.tasks.games.numberline import _tiny as number_line
from gtrturbo.tasks.games.points24 import POINTS24

GLYPHS = [*"0123456789TCAJQK+-*/()hsdc# ", "10", "11", "12", "13"]
HAND = tuple(Card("H", rank) for rank in "A7TK")
GREEN = (53, 101, 77)


def test_every_glyph_is_centred_large_and_clear_of_the_edge():
    for text in GLYPHS:
        rows, columns = np.nonzero(glyph(text).min(axis=2) < 255)
        assert max(np.ptp(rows), np.ptp(columns)) + 1 >= 14, text
        for inked in (rows, columns):
            assert inked.min() >= 1 and inked.max() <= CELL - 2, text
            assert abs(inked.min() + inked.max() - (CELL - 1)) <= 2, text


def test_glyphs_differ():
    shapes = {glyph(text).tobytes() for text in GLYPHS}
    assert len(shapes) == len(GLYPHS)


def test_every_glyph_has_its_own_shape_in_the_font():
    # A character that the font lacks is drawn as the same box as any other missing one.
    missing = glyph("\u0378").tobytes()
    assert all(glyph(text).tobytes() != missing for text in GLYPHS)


def test_every_state_of_the_number_line_has_its_own_tiny_picture():
    pictures = {number_line(target, current).tobytes() for target, current in product(range(100), repeat=2)}
    assert len(pictures) == 100 * 100
    assert number_line(99, 99).shape == (56, 112, 3)


@pytest.mark.parametrize(("rules", "size"), [(EZPOINTS, (56, 168, 3)), (POINTS24, (112, 224, 3))])
def test_tiny_cards_and_formulas_differ(rules, size):
    hands = [(*HAND[: rules.hand - 1], Card(suit, rank)) for suit in SUITS for rank in RANKS]
    assert len({rules.tiny(hand, ()).tobytes() for hand in hands}) == 52
    items = ("10", *rules.signs, " ")
    longest = tuple(items[at % len(items)] for at in range(rules.limit + 1))
    formulas = [longest[:length] for length in range(rules.limit + 2)]
    pictures = [rules.tiny(HAND[: rules.hand], formula) for formula in formulas]
    assert len({picture.tobytes() for picture in pictures}) == rules.limit + 2
    assert {picture.shape for picture in pictures} == {size}


@pytest.mark.parametrize(
    ("rules", "boxes"),
    [
        (EZPOINTS, [(x, 55, 135, 189) for x in (5, 153)]),
        (POINTS24, [(x, 103, 67, 93) for x in (5, 78, 152, 226)]),
    ],
)
def test_full_cards_lie_where_the_original_has_them(rules, boxes):
    picture = rules.full(HAND[: rules.hand], ())
    assert picture.shape == (300, 300, 3) and tuple(picture[0, 0]) == GREEN
    not_table = (picture != GREEN).any(axis=2)
    for x, y, width, height in boxes:
        card = not_table[y : y + height, x : x + width]
        assert card[height // 2].all() and card[:, width // 2].all()
        assert not not_table[y - 1, x : x + width].any() and not not_table[y : y + height, x - 1].any()


def test_full_cards_and_formulas_differ():
    hands = [(*HAND[:3], Card(suit, rank)) for suit in SUITS for rank in RANKS]
    assert len({POINTS24.full(hand, ()).tobytes() for hand in hands}) == 52
    formulas = [("5",), ("5", "*"), ("5", "+"), ("5", "-"), ("5", "/"), ("(",), (")",), ("10",), ("1",)]
    assert len({POINTS24.full(HAND, formula).tobytes() for formula in formulas}) == len(formulas)


def test_the_longest_formula_stays_on_the_picture():
    for filler in ("+", "*", "(", " "):
        longest = ("10",) * 4 + (filler,) * 17  # no hand has more than four numbers to give
        assert wrapped(longest, 20, 280).count("\n") <= 1
        assert (POINTS24.full(HAND, longest)[-4:] == GREEN).all() and (POINTS24.full(HAND, longest)[:, -4:] == GREEN).all()


def test_four_cards_lie_side_by_side_as_in_the_original():
    assert _places(4) == [(5, 150), (79, 150), (153, 150), (227, 150)]


@pytest.mark.parametrize("count", range(2, 23))
def test_every_card_of_the_player_stays_on_the_picture_with_its_corner_in_sight(count):
    places = _places(count)
    assert all(x + CARD_WIDTH <= 300 and y + CARD_HEIGHT <= 300 for x, y in places)
    for at, (x, y) in enumerate(places):
        for later_x, later_y in places[at + 1 :]:
            assert later_x - x >= 22 or later_y - y >= 50 or later_x + CARD_WIDTH <= x


def test_the_player_sees_every_new_card():
    hand = [Card("S", "A")] * 2
    pictures = [(_full(HAND[0], hand + [Card("S", "A")] * more), _tiny(HAND[0], hand + [Card("S", "A")] * more))
                for more in range(21)]  # fmt: skip
    assert len({full.tobytes() for full, _ in pictures}) == 21
    assert len({tiny.tobytes() for _, tiny in pictures}) == 21
    assert pictures[-1][1].shape == (112, 168, 3)
