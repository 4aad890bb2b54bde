"""The solver against an exhaustive search written another way."""

import random
from collections import Counter
from fractions import Fraction
from itertools import combinations_with_replacement, permutations, product
from math import factorial

import pytest

from gtrturbo.tasks.games.arithmetic import exact_value
from gtrturbo.tasks.games.solver import completion, solve


def pairwise(numbers: tuple[Fraction, ...], target: int) -> bool:
    """Replace two numbers by their sum, difference, product or quotient until one is left."""
    if len(numbers) == 1:
        return numbers[0] == target
    for i, j in permutations(range(len(numbers)), 2):
        a, b = numbers[i], numbers[j]
        rest = tuple(numbers[k] for k in range(len(numbers)) if k not in (i, j))
        results = [a - b, *([a + b, a * b] if i < j else []), *([a / b] if b else [])]
        if any(pairwise((*rest, value), target) for value in results):
            return True
    return False


def test_20876_of_the_28561_ordered_draws_are_solvable():
    # Once per multiset of ranks, times the number of its orders: 4! / (m1! m2! …).
    ordered = solvable = 0
    for ranks in combinations_with_replacement(range(1, 14), 4):
        orders = 24
        for count in Counter(ranks).values():
            orders //= factorial(count)
        ordered += orders
        solvable += orders * (solve(tuple(min(rank, 10) for rank in ranks), 24) is not None)
    assert (ordered, solvable) == (28561, 20876)


def test_solver_agrees_with_exhaustive_search():
    hands = list(combinations_with_replacement(range(1, 14), 4))
    for hand in random.Random(0).sample(hands, 60):
        found = solve(hand, 24)
        assert (found is not None) == pairwise(tuple(map(Fraction, hand)), 24), hand


def test_solutions_use_each_number_once_and_are_worth_the_target():
    four = [(hand, 24) for hand in combinations_with_replacement(range(1, 11), 4)]
    three = [(hand, target) for hand in combinations_with_replacement(range(2, 10), 3) for target in (2, 3, 6)]
    for hand, target in four + three:
        found = solve(hand, target)
        if found:
            assert exact_value(found) == target, found
            assert sorted(int(item) for item in found if item.isdecimal()) == list(hand)


def test_brackets_are_used_only_where_no_formula_does_without():
    orders_and_signs = list(product(permutations(range(4)), product("+-*/", repeat=3)))
    for hand in random.Random(3).sample(list(combinations_with_replacement(range(1, 11), 4)), 12):
        texts = ("{}{}{}{}{}{}{}".format(*interleaved([hand[i] for i in order], signs)) for order, signs in orders_and_signs)
        without_brackets = any(abs(eval(text) - 24) < 1e-9 for text in texts)
        assert (len(solve(hand, 24) or ()) == 7) == without_brackets, hand


def interleaved(numbers: list[int], signs: tuple[str, ...]) -> list[int | str]:
    return [part for pair in zip(numbers, (*signs, ""), strict=True) for part in pair][:-1]


def complete(formula: str, hand: tuple[int, ...], limit: int = 20):
    return completion(tuple(formula.split()), hand, 24, limit=limit, operators="+-*/", arithmetic="exact")


def test_completion_goes_on_from_what_is_there():
    for start in ("5", "5 *", "5 * (", "( 5", "(", "( (", "( 5 - 1", "- (", "-", "+", "( -", "- - ("):
        rest = complete(start, (1, 5, 5, 5))
        assert rest is not None and exact_value([*start.split(), *rest]) == 24, start
    assert complete("5 -", (1, 5, 5, 5)) is None


def test_completion_finds_one_exactly_when_there_is_one():
    # Every continuation of "a - b" by two numbers, two signs and brackets in any sensible place, for many hands.
    hands = random.Random(2).sample(list(combinations_with_replacement(range(1, 11), 4)), 40)
    shapes = ["{0}-{1}{p}{2}{q}{3}", "{0}-{1}{p}({2}{q}{3})"]
    for hand in hands:
        a, b, c, d = hand
        texts = [
            shape.format(*map("Fraction({})".format, (a, b, *order)), p=p, q=q)
            for shape in shapes
            for order in ((c, d), (d, c))
            for p, q in product("+-*/", repeat=2)
        ]
        exists = any(value(text) == 24 for text in texts)
        assert (complete(f"{a} - {b}", hand) is not None) == exists, hand


def value(text: str):
    try:
        return eval(text, {"Fraction": Fraction})
    except ZeroDivisionError:
        return None


@pytest.mark.parametrize("formula", ["1 2", "2 * *", "( )", "9", "1 1"])
def test_nothing_completes_a_spoilt_formula(formula):
    assert complete(formula, (1, 2, 3, 4)) is None


def test_a_complete_formula_needs_nothing_more():
    assert complete("4 * 3 * 2 * 1", (1, 2, 3, 4)) == ()


def test_completion_respects_the_limit():
    assert complete("( " * 6, (1, 2, 3, 4), limit=20) is not None  # 6 + 7 + 6 = 19 items
    assert complete("( " * 7, (1, 2, 3, 4), limit=20) is None  # 21 items


def test_original_completion_avoids_what_floats_get_wrong():
    options = {"limit": 20, "operators": "+-*/"}
    assert completion((), (3, 3, 8, 8), 24, arithmetic="exact", **options) is not None
    assert completion((), (3, 3, 8, 8), 24, arithmetic="original", **options) is None


def test_after_a_minus_the_rest_must_make_minus_24():
    # -(e) with e worth -24, and every formula that begins with a sign can be written so.
    for hand in [(4, 5, 6, 9), (1, 1, 4, 6), (3, 6, 7, 8), (1, 2, 3, 4), (2, 2, 7, 7)]:
        numbers = tuple(map(Fraction, hand))
        assert (complete("-", hand) is not None) == pairwise(numbers, -24)
