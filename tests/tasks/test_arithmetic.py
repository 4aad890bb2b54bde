"""Verdicts on formulas, exact and as in the original environments."""

import random
import time
from fractions import Fraction

import pytest

from gtrturbo.tasks.games.arithmetic import equals, exact_value, original_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8 / ( 3 - 8 / 3 )", 24),
        ("2 - 3 - 4", -5),  # left to right
        ("24 / 4 / 3", 2),
        ("2 + 3 * 4", 14),
        ("( 2 + 3 ) * 4", 20),
        ("1 / 3", Fraction(1, 3)),
        ("- 3 + 27", 24),
        ("2 * - 3", -6),
        ("8 - ( - 2 )", 10),
        ("12 / - 4 * 2", -6),
        ("( ( 7 ) )", 7),
        ("10", 10),
    ],
)
def test_exact_value_is_that_of_school_arithmetic(text, value):
    assert exact_value(text.split()) == value


@pytest.mark.parametrize(
    "text", ["1 2", "2 * * 3", "4 / / 2", "6 ( 4 )", "( 6 ) 4", "( 2", "2 )", "", "( )", "2 +", "* 2", "3 / ( 2 - 2 )"]
)
def test_exact_arithmetic_refuses_what_is_no_formula(text):
    assert exact_value(text.split()) is None


def test_a_refused_number_leaves_a_blank_that_exact_arithmetic_skips():
    assert exact_value(["2", " ", "+", " ", "3"]) == 5


@pytest.mark.parametrize(
    ("items", "wins"),
    [
        (["1", "2", "+", "1", "2"], True),  # 12+12: digits join
        (["5", "*", "*", "2", "-", "1", "*", "1"], True),  # 5**2-1*1: two signs are a power
        (["10", "0"], False),
        (["7", "/", "/", "2", "*", "8"], True),  # 7//2*8 = 3*8
        (["8", "/", "(", "3", "-", "8", "/", "3", ")"], False),  # 23.999999999999989
        (["6", "(", "4", ")"], False),  # a call in Python
        (["(", "6", ")", "(", "4", ")"], False),
        (["4", "*", "6"], True),
        (["1", " ", "2", "+", "1", "2"], False),  # a refused number between digits is a blank: no formula
        ([" ", "4", "*", "6"], True),  # a leading blank is stripped
        (["4", "*", " ", "*", "6"], False),
        (["-", "2", "*", "*", "2", "+", "28"], True),  # -(2**2) + 28
        (["2", "*", "*", "-", "1", "*", "48"], True),  # 0.5 * 48
        (["2", "*", "*", "3", "*", "*", "2", "-", "488"], True),  # 2**(3**2) - 488
        (["24", "/", "(", "3", "-", "3", ")"], False),
        ([], False),
        (["(", ")"], False),
    ],
)
def test_original_verdicts(items, wins):
    assert equals(items, 24, "original") is wins


@pytest.mark.parametrize("text", ["9**9**9**9", "9**9**9-10", "(10**10)**(10**10)", "1**9**9**9", "2.0**9**9**9"])
def test_original_powers_never_hang(text):
    started = time.perf_counter()
    assert original_value(list(text.replace(".0", "/1"))) is None
    assert time.perf_counter() - started < 1


def test_exact_and_original_disagree_on_the_float_that_misses_24():
    items = ["8", "/", "(", "3", "-", "8", "/", "3", ")"]
    assert equals(items, 24, "exact") and not equals(items, 24, "original")


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_original_value_is_what_python_computes():
    # The oracle is Python itself, on random short strings of digits, signs and brackets; each test string is built here.
    rng = random.Random(0)
    agreed = 0
    for _ in range(20_000):
        items = rng.choices(["1", "2", "3", "7", "10", "+", "-", "*", "/", "(", ")", " "], k=rng.randint(1, 7))
        assert original_value(items) == python_value("".join(items)), items
        agreed += original_value(items) is not None
    assert agreed > 500


def python_value(text: str):
    try:
        value = eval(compile(text.lstrip(), "formula", "eval", dont_inherit=True), {"__builtins__": {}})
    except (SyntaxError, TypeError, ArithmeticError):
        return None
    return value if isinstance(value, int | float | complex) else None


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_exact_value_agrees_with_python_on_fractions():
    rng = random.Random(1)
    agreed = 0
    for _ in range(5_000):
        items = rng.choices(["1", "2", "3", "7", "+", "-", "*", "/", "(", ")"], k=rng.randint(1, 7))
        text = " ".join(f"Fraction({item})" if item.isdecimal() else item for item in items)
        joins = any(sign in "".join(items) for sign in ("**", "//"))
        try:
            expected = None if joins or "Fraction" not in text else eval(text, {"Fraction": Fraction})
        except (SyntaxError, TypeError, ArithmeticError):
            expected = None
        assert exact_value(items) == expected, items
        agreed += expected is not None
    assert agreed > 100
