"""Numbers in plain digits, as settings and options of a task are written: no 1_0, and no other script's digits."""

import re

MOST_DIGITS = 40  # of a number in a text: more than any range has


def whole(text: str) -> int | None:
    """Read a whole number in plain digits; None where it is none."""
    return int(text) if len(text) <= MOST_DIGITS and re.fullmatch(r"[+-]?[0-9]+", text) else None


def real(text: str) -> float | None:
    """Read a number in plain digits, such as 1e-5; nan and inf are read, and refused by every range. None: it is none."""
    number = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|[+-]?(inf|nan)"
    return float(text) if len(text) <= MOST_DIGITS and re.fullmatch(number, text, re.IGNORECASE) else None
