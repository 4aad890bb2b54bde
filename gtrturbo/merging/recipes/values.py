"""What a parameter of a recipe is for one tensor: a number, a list that runs over the layers, or the first filter that fits.

Source: mergekit 0.1.5, `evaluate_setting`; a list of m numbers over t in [0, 1] is joined by straight lines, its places being
t = 0, 1 / (m − 1), …, 1.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.parameters import TRUTHS, as_number

Settings = Mapping[str, Any]
# Filters that fit every tensor.
EVERY = (None, "*")


def settle(
    name: str, scopes: Iterable[Settings], *, tensors: Collection[str], t: float, truth: bool = False
) -> float | bool | None:
    """Find what a parameter is, the innermost scope first; None where none says so.

    Args:
        name: of the parameter.
        scopes: parameters of model, slice, module and recipe.
        tensors: names of the tensor that filters look at, on disk and in memory.
        t: place of the layer among its own, in [0, 1].
        truth: it is true or false, and no number.

    Raises:
        GtrTurboError: it is none of the three.
    """
    for scope in scopes:
        if name in scope and (value := _settle(name, scope[name], tensors, t, truth=truth)) is not None:
            return value
    return None


def _settle(name: str, setting: Any, tensors: Collection[str], t: float, *, truth: bool) -> float | bool | None:
    if isinstance(setting, dict):
        setting = [setting]
    if not isinstance(setting, list):
        return scalar(name, setting, truth=truth)
    if any(isinstance(each, dict) for each in setting):
        for each in setting:
            wanted = each["filter"]
            if wanted in EVERY or any(wanted in tensor for tensor in tensors):
                return _settle(name, each["value"], tensors, t, truth=truth)
        return None
    values = [scalar(name, each, truth=truth) for each in setting]
    if truth:
        return values[int(t * (len(values) - 1))]
    place = t * (len(values) - 1)
    first = int(place)
    share = place - first
    return (1 - share) * values[first] + share * values[min(len(values) - 1, first + 1)]


def check(where: str, name: str, setting: Any, *, truth: bool) -> None:
    """Refuse what is no setting before any work.

    Raises:
        GtrTurboError: says what it may be.
    """
    said = f"{where}{name}"
    if isinstance(setting, dict):
        setting = [setting]
    if not isinstance(setting, list):
        scalar(said, setting, truth=truth)
        return
    if not setting:
        raise GtrTurboError(f"{said} is an empty list.", "leave it out.")
    filters = [each for each in setting if isinstance(each, dict)]
    if filters and len(filters) < len(setting):
        raise GtrTurboError(f"{said} mixes numbers and filters in one list.", "write - value: NUMBER for the last one.")
    for each in filters:
        if "value" not in each or each.keys() - {"filter", "value"} or not isinstance(each.get("filter"), str | None):
            raise GtrTurboError(f"{said} has an entry that is no filter with a value.", "write - filter: mlp and value: 0.5.")
        each.setdefault("filter", None)
        if isinstance(each["value"], dict) or (
            isinstance(each["value"], list) and any(isinstance(v, dict) for v in each["value"])
        ):
            raise GtrTurboError(f"{said} has a filter within a filter.", "write them one below the other.")
        check(where, name, each["value"], truth=truth)
    for each in setting if not filters else []:
        if isinstance(each, list):
            raise GtrTurboError(f"{said} is a list of lists.", "a list of numbers runs over the layers.")
        scalar(said, each, truth=truth)


def scalar(name: str, value: Any, *, truth: bool) -> float | bool:
    """Read a number or a truth, also where it is quoted, as mergekit does.

    Raises:
        GtrTurboError: it is neither.
    """
    if truth:
        if isinstance(value, bool):
            return value
        if str(value).lower() in TRUTHS or value in (0, 1):
            return TRUTHS.get(str(value).lower(), value == 1)
        raise GtrTurboError(f"{name} must be true or false, got {str(value)[:40]!r}.", "write true or false.")
    number = float(value) if isinstance(value, int | float) else as_number(value) if isinstance(value, str) else None
    if number is None or not math.isfinite(number):
        raise GtrTurboError(
            f"{name} must be a number, got {str(value)[:40]!r}.", "or a list over the layers, or filters with a value."
        )
    return number


def filters(scope: Settings) -> set[str]:
    """Texts that filters of some parameters look for in names of tensors."""
    listed = [setting if isinstance(setting, list) else [setting] for setting in scope.values()]
    found = {each["filter"] for setting in listed for each in setting if isinstance(each, dict)}
    return {wanted for wanted in found if wanted not in EVERY}


def varies(setting: Any) -> bool:
    """Tell whether a setting may differ from tensor to tensor."""
    return isinstance(setting, dict | list)
