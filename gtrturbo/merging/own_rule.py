"""A merge rule of the user's own becomes a method: what it must be, and what it may not ask for together."""

import inspect
from collections.abc import Callable
from typing import Any, Literal

from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.method import ASKED, MergeMethod, MergeRule, keywords

KIND = "merge rule"
CONTRACT = "it must be a function (task_vectors [k, n], weights [k], *, …) -> [n], or a MergeRule of one."
FINISHES = "its combine must be a function (sums [m, n], *, …) -> [n]."
ADDS = "its add must be a function (sums [m, n], task_vector [n], weight) -> [m, n]."


def method_of_rule(name: str, found: MergeRule | Callable[..., Any]) -> MergeMethod:
    """Make a method of a rule, or of a function alone.

    Args:
        name: that the user gave it.
        found: what the user's code holds there.

    Raises:
        GtrTurboError: it is no rule.
    """
    rule = found if isinstance(found, MergeRule) else MergeRule(found)
    if rule.add or rule.sums:
        _require_sums(name, rule)
    else:
        _require_function(name, rule.combine, CONTRACT, None, None)
    if rule.measure:
        _require_function(name, rule.measure, CONTRACT, None, None)
    if rule.trims and rule.measure:
        raise GtrTurboError(f"{name} trims and measures.", "a rule does one of the two.")
    return MergeMethod(
        summary=rule.combine.__doc__ or "",
        keeps=_kept_by(rule),
        normalizes=rule.normalizes and not rule.sums,
        running_sums=rule.sums > 0,
        rule=rule,
        own=True,
    )


def _require_sums(name: str, rule: MergeRule) -> None:
    """Refuse a rule of sums that is not whole, or asks for what sums do not hold."""
    if not rule.add or rule.sums < 1:
        raise GtrTurboError(
            f"{name} has {'sums' if rule.sums else 'add'} alone.", "a rule of sums has both, and at least one sum."
        )
    _require_function(name, rule.combine, FINISHES, None)
    _require_function(name, rule.add, ADDS, None, None, None)
    asked = sorted((keywords(rule.combine).keys() & ASKED - {"base"}) | keywords(rule.add).keys())
    asked += [what for what in ("rows", "measure") if getattr(rule, what)]
    if asked:
        raise GtrTurboError(
            f"{name} is a rule of sums, and asks for {', '.join(asked)}.", "sums hold none of that: leave it out."
        )


def _kept_by(rule: MergeRule) -> Literal["largest", "random"] | None:
    if rule.trims:
        return "largest"
    return "random" if {"noise", "densities"} & keywords(rule.combine).keys() else None


def _require_function(name: str, combine: Any, contract: str, *arguments: Any) -> None:
    if not callable(combine):
        raise GtrTurboError(f"{name} is no {KIND} but of type {type(combine).__name__}.", contract)
    try:
        named = dict.fromkeys(keywords(combine))
        inspect.signature(combine).bind(*arguments, **named)
    except (TypeError, ValueError) as error:
        raise GtrTurboError(f"{name} cannot be called as a {KIND}: {error}.", contract) from None
