"""Formulas that use each card once and make the target: from nothing, or going on from what is already there."""

from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import lru_cache
from itertools import combinations
from math import prod
from typing import Any

from gtrturbo.tasks.games.arithmetic import Arithmetic, Partial, equals, read_item, read_items

Items = tuple[str, ...]
# Shortest formula of a value for each outermost operation: "number", "product" (* and /) or "sum" (+ and -).
Shortest = dict[tuple[Fraction, str], Items]


@lru_cache(maxsize=4096)
def solve(values: tuple[int, ...], target: int, operators: str = "+-*/") -> Items | None:
    """Return a shortest winning formula, or None if no formula of these numbers is worth the target.

    Every way to split the numbers in two is tried; for the last operation the second half's value is not searched but
    computed, which leaves about a thousand exact operations for four numbers.

    Args:
        values: the numbers, each to be used once, in ascending order.
        target: the wanted value.
        operators: the operations allowed between two numbers; brackets only if these include a minus or a division.
    """
    hands: dict[tuple[int, ...], Shortest] = {}
    numbers = tuple(range(len(values)))
    for size in range(1, len(values)):
        for chosen in combinations(numbers, size):
            hands[chosen] = _all_values(tuple(values[i] for i in chosen), chosen, hands, operators)
    found: list[Items] = [(str(values[0]),)] if len(values) == 1 and values[0] == target else []
    for chosen, others in _splits(numbers):
        found.extend(_last_operations(hands[chosen], hands[others], Fraction(target), operators))
    return min(found, key=lambda items: (len(items), items)) if found else None


def _splits(chosen: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield each way to cut the chosen indices into a left and a right part, both ways round."""
    for size in range(1, len(chosen)):
        for left in combinations(chosen, size):
            yield left, tuple(i for i in chosen if i not in left)


def _all_values(
    values: tuple[int, ...], chosen: tuple[int, ...], hands: dict[tuple[int, ...], Shortest], operators: str
) -> Shortest:
    """Return the shortest formulas of every value that these numbers can make."""
    if len(values) == 1:
        return {(Fraction(values[0]), "number"): (str(values[0]),)}
    shortest: Shortest = {}
    for left_part, right_part in _splits(chosen):
        for (left, left_kind), left_items in hands[left_part].items():
            for (right, right_kind), right_items in hands[right_part].items():
                for operator in operators:
                    value = _apply(operator, left, right)
                    if value is None:
                        continue
                    items = _joined(operator, left_kind, left_items, right_kind, right_items)
                    key = (value, "product" if operator in "*/" else "sum")
                    if key not in shortest or (len(items), items) < (len(shortest[key]), shortest[key]):
                        shortest[key] = items
    return shortest


def _last_operations(lefts: Shortest, rights: Shortest, target: Fraction, operators: str) -> Iterator[Items]:
    for (left, left_kind), left_items in lefts.items():
        for operator in operators:
            right = _missing(operator, left, target)
            for right_kind in ("number", "product", "sum"):
                if right is not None and (right, right_kind) in rights:
                    yield _joined(operator, left_kind, left_items, right_kind, rights[right, right_kind])


def _apply(operator: str, left: Fraction, right: Fraction) -> Fraction | None:
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        return left * right
    return left / right if right else None


def _missing(operator: str, left: Fraction, target: Fraction) -> Fraction | None:
    """Return the right operand that makes the target, which is never 0; None if there is none."""
    if operator == "+":
        return target - left
    if operator == "-":
        return left - target
    if not left:
        return None
    return target / left if operator == "*" else left / target


def _joined(operator: str, left_kind: str, left: Items, right_kind: str, right: Items) -> Items:
    """Write an operation, with brackets only where precedence needs them."""
    if operator in "*/" and left_kind == "sum":
        left = ("(", *left, ")")
    if (operator in "*/-" and right_kind == "sum") or (operator == "/" and right_kind == "product"):
        right = ("(", *right, ")")
    return (*left, operator, *right)


@lru_cache(maxsize=4096)
def completion(
    formula: Items, values: tuple[int, ...], target: int, *, limit: int, operators: str, arithmetic: Arithmetic
) -> Items | None:
    """Return few items that turn a formula into a winning one, or None if nothing does.

    The formula that `solve` gives is kept to while what is there is its beginning. Otherwise the search is exhaustive
    in the exact grammar; under the original rules it never joins digits nor builds powers, and gives up where the
    formula already did. A hand that exact arithmetic cannot solve is given up at once.

    Args:
        formula: items so far, a blank for each refused number.
        values: the numbers of the hand in ascending order.
        target: the wanted value.
        limit: the most items that the whole formula may have.
        operators: the operations that the game has.
        arithmetic: the rule that will judge the formula.
    """
    written = tuple(item for item in formula if item.strip())
    room = limit - len(formula)
    start = read_items(written, Fraction if arithmetic == "exact" else int)
    left = Counter(values)
    left.subtract(int(item) for item in written if item.isdecimal())
    solution = solve(values, target, operators)
    if start is None or solution is None or min(left.values()) < 0:
        return None
    if solution[: len(written)] == written:
        rest = solution[len(written) :]
    elif left.total() == len(values):
        rest = _after_signs(start, values, target, operators)
        if rest is None:
            return None
    else:
        rest = None
    if rest is not None and len(rest) <= room and equals((*written, *rest), target, arithmetic):
        return rest
    return _search(start, tuple(sorted(left.elements())), Fraction(target), room, operators, arithmetic)


def _after_signs(start: Partial, values: tuple[int, ...], target: int, operators: str) -> Items | None:
    """Go on from nothing but brackets and signs, which together ask for the target or for minus the target."""
    sign = prod(product for _, product, _ in start.levels)
    inner = solve(values, int(target * sign), operators)
    if inner is not None and start.levels[-1][1] < 0:
        inner = ("(", *inner, ")")
    return None if inner is None else (*inner, *(")",) * (len(start.levels) - 1))


def _search(
    start: Partial, left: tuple[int, ...], target: Fraction, room: int, operators: str, arithmetic: Arithmetic
) -> Items | None:
    """Search breadth first, so that the first winning formula is a shortest; equal states are followed once."""
    number = Fraction if arithmetic == "exact" else int
    deepest = len(start.levels) + len(left) - 1 if "-" in operators else 1
    frontier: list[tuple[Partial, tuple[int, ...], Items]] = [(start, left, ())]
    seen: set[tuple[Partial, tuple[int, ...]]] = set()
    for length in range(room + 1):
        following: list[tuple[Partial, tuple[int, ...], Items]] = []
        for partial, numbers, items in frontier:
            if not numbers and partial.whole and len(partial.levels) == 1 and sum(partial.levels[0][:2]) == target:
                return items
            for item in _next_items(partial, numbers, operators, deepest):
                grown, known = _grown(partial, item, number), len(seen)
                if grown is None:
                    continue
                state = (grown, _without(numbers, item))
                if length + 1 + _fewest(*state) > room:
                    continue
                seen.add(state)
                if len(seen) > known:
                    following.append((*state, (*items, item)))
        frontier = following
    return None


def _fewest(partial: Partial, numbers: tuple[int, ...]) -> int:
    """Return how many items at least are missing: numbers, a sign for each but perhaps the first, and brackets."""
    return 2 * len(numbers) - (not partial.whole and bool(numbers)) + len(partial.levels) - 1


def _grown(partial: Partial, item: str, number: Callable[[str], Any]) -> Partial | None:
    try:
        return read_item(partial, item, number)
    except ArithmeticError:
        return None


def _next_items(partial: Partial, numbers: tuple[int, ...], operators: str, deepest: int) -> Iterator[str]:
    if partial.whole:
        if len(partial.levels) > 1:
            yield ")"
        yield from operators if numbers else ""
        return
    yield from dict.fromkeys(str(number) for number in numbers)
    if len(numbers) > 1 and len(partial.levels) < deepest:
        yield "("


def _without(numbers: tuple[int, ...], item: str) -> tuple[int, ...]:
    if not item.isdecimal():
        return numbers
    at = numbers.index(int(item))
    return numbers[:at] + numbers[at + 1 :]
