"""What a formula is worth: exactly, or as the original environments judged it; no text is ever executed.

Formulas are sequences of items: numbers such as `10`, the signs `+ - * /`, brackets, and a blank for each refused number.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

Arithmetic = Literal["exact", "original"]
MAX_POWER_BITS = 100_000  # 9**9**9 would never end; no winning formula of four numbers passes through more than 5,000 bits


@dataclass(frozen=True)
class Partial:
    """The beginning of a formula, reduced to what its continuation can depend on.

    Attributes:
        levels: for each open bracket, outermost first, `(total, product, divides)`: the terms already added up, the term
            that is being multiplied (its sign included), and whether the next operand divides it.
        whole: the last item ended an operand, so that a sign, a `)` or the end may follow.
    """

    levels: tuple[tuple[Any, Any, bool], ...] = ((0, 1, False),)
    whole: bool = False


def read_item(partial: Partial, item: str, number: Callable[[str], Any] = Fraction) -> Partial | None:
    """Append one item to a formula with `+ - * /`, signs and brackets; None where the grammar forbids it.

    Args:
        partial: the formula so far.
        item: the next item.
        number: `Fraction` for exact values; `int` for the values that Python's own arithmetic gives.

    Raises: ArithmeticError: A division by zero or beyond the range of floats.
    """
    levels, whole = partial.levels, partial.whole
    total, product, divides = levels[-1]
    if item.isdecimal():
        return None if whole else _operand(levels, number(item))
    if item == "(":
        return None if whole else Partial((*levels, (0, 1, False)), False)
    if item == ")":
        return _operand(levels[:-1], total + product) if whole and len(levels) > 1 else None
    if item in ("+", "-"):
        sign = 1 if item == "+" else -1
        level = (total + product, sign, False) if whole else (total, sign * product, divides)
        return Partial((*levels[:-1], level), False)
    return Partial((*levels[:-1], (total, product, item == "/")), False) if whole and item in ("*", "/") else None


def _operand(levels: tuple[tuple[Any, Any, bool], ...], value: Any) -> Partial:
    total, product, divides = levels[-1]
    product = product / value if divides else product * value
    return Partial((*levels[:-1], (total, product, False)), True)


def read_items(items: Sequence[str], number: Callable[[str], Any] = Fraction) -> Partial | None:
    """Read a formula item by item, blanks skipped; None where it cannot be the beginning of any formula."""
    partial: Partial | None = Partial()
    try:
        for item in items:
            if partial is not None and item.strip():
                partial = read_item(partial, item, number)
    except ArithmeticError:
        return None
    return partial


def exact_value(items: Sequence[str]) -> Fraction | None:
    """Evaluate a formula of whole numbers, `+ - * /`, signs and brackets in exact fractions.

    Two numbers side by side are an error (nothing joins digits), and so are `**` and `//`.

    Returns: The value, or None where the items are no formula or divide by zero.
    """
    partial = read_items(items)
    if partial is None or not partial.whole or len(partial.levels) != 1:
        return None
    total, product, _ = partial.levels[0]
    return Fraction(total + product)


def original_value(items: Sequence[str]) -> int | float | complex | None:
    """Evaluate a formula as Python would evaluate the joined items, which is how the original environments judge.

    So digits join (`1`, `2` is 12), two `*` are a power, two `/` round down, and `/` gives a float. A bracket after a
    number is an error (Python would call it), and a power beyond `MAX_POWER_BITS` bits counts as one.

    Returns: The value, or None for any error.

    Source: the environments of RL4VLM (Zhai et al., 2024).
    """
    tokens = re.findall(r"\d+|\*\*|//|[-+*/()]", "".join(items))
    try:
        value, end = _sum(tokens, 0)
    except (ArithmeticError, SyntaxError, TypeError):
        return None
    return value if end == len(tokens) else None


def equals(items: Sequence[str], target: int, arithmetic: Arithmetic) -> bool:
    """Say whether a formula is worth `target`; the original rule compares floats for equality."""
    value = exact_value(items) if arithmetic == "exact" else original_value(items)
    return value is not None and value == target


def _sum(tokens: list[str], at: int) -> tuple[Any, int]:
    value, at = _product(tokens, at)
    while at < len(tokens) and tokens[at] in ("+", "-"):
        right, end = _product(tokens, at + 1)
        value = value + right if tokens[at] == "+" else value - right
        at = end
    return value, at


def _product(tokens: list[str], at: int) -> tuple[Any, int]:
    value, at = _signed(tokens, at)
    while at < len(tokens) and tokens[at] in ("*", "/", "//"):
        right, end = _signed(tokens, at + 1)
        value = value * right if tokens[at] == "*" else value / right if tokens[at] == "/" else value // right
        at = end
    return value, at


def _signed(tokens: list[str], at: int) -> tuple[Any, int]:
    if at < len(tokens) and tokens[at] in ("+", "-"):
        value, end = _signed(tokens, at + 1)
        return (value if tokens[at] == "+" else -value), end
    return _power(tokens, at)


def _power(tokens: list[str], at: int) -> tuple[Any, int]:
    # A power binds tighter than the sign before it and looser than the one after it: -2**2 is -4, 2**-1 is 0.5.
    base, at = _atom(tokens, at)
    if at == len(tokens) or tokens[at] != "**":
        return base, at
    exponent, end = _signed(tokens, at + 1)
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * exponent > MAX_POWER_BITS:
        raise OverflowError
    return base**exponent, end


def _atom(tokens: list[str], at: int) -> tuple[Any, int]:
    if at < len(tokens) and tokens[at].isdecimal():
        return int(tokens[at]), at + 1
    if at == len(tokens) or tokens[at] != "(":
        raise SyntaxError
    value, end = _sum(tokens, at + 1)
    if end == len(tokens) or tokens[end] != ")":
        raise SyntaxError
    return value, end + 1
