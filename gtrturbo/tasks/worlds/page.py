"""What stands on a page of MiniWoB, and what can be done there: clicks at a pixel or on an element, and typing."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

WIDTH, HEIGHT = 160, 210  # Pixels of every page.
LONGEST_TEXT = 400  # Characters of an action.
CLICK, TYPE = '{"click": [x, y]} or {"click": number}', '{"type": "text"}'
WHOLE = ("button", "a", "select")  # Tags that are one element, whatever is inside.
TICKED = ("input_checkbox", "input_radio")
LEAST_SIDE = 3  # Pixels; what is thinner is no thing to click on.

Info = Mapping[str, Any]


def elements(dom: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """List the elements that can be clicked, in the order of the page: leaves, and buttons and links as one each.

    Each has `ref` (the package's number of it), `kind` (its tag), `text` (a tick box's is the one beside it), `value`, `id`,
    `classes`, `focused`, and `at`, its middle in pixels [x, y], which lies in the picture.
    """
    dom = list(dom)
    beside = {each["parent"]: each["text"].strip() for each in dom if each["tag"] == "t"}
    inside: set[int] = set()
    found = []
    for each in dom:
        whole = each["tag"] in WHOLE
        if each["parent"] in inside or whole:
            inside.add(each["ref"])
        left, top, width, height = (float(each[side][0]) for side in ("left", "top", "width", "height"))
        x, y = int(left + width / 2), int(top + height / 2)
        shown = min(width, height) >= LEAST_SIDE and 0 <= x < WIDTH and 0 <= y < HEIGHT
        leaf = bool(each["flags"][3]) and each["parent"] not in inside
        if each["ref"] > 0 and shown and (whole or leaf):
            text = beside.get(each["parent"], "") if each["tag"] in TICKED else each["text"].strip()
            found.append(
                {"ref": int(each["ref"]), "kind": each["tag"], "text": text, "value": each["value"], "id": each["id"]}
                | {"classes": each["classes"], "focused": bool(each["flags"][0]), "at": [x, y]}
            )
    return found


def action_of(text: str, info: Info, *, listed: bool = True) -> dict[str, Any] | None:
    """Read an action; None where it is none.

    Args:
        text: JSON: {"click": [x, y]} in pixels, {"click": number} of an element, counted from 1, or {"type": "text"} into what
            has the focus.
        info: what is known of the page.
        listed: whether elements can be named by number.
    """
    try:
        action = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(action, dict) or len(action) != 1 or len(text) > LONGEST_TEXT:
        return None
    (name, value), *_ = action.items()
    if name == "type":
        return action if isinstance(value, str) and value and value.isprintable() else None
    if name != "click":
        return None
    if isinstance(value, list):
        fine = len(value) == 2 and all(type(each) is int for each in value)
        return action if fine and 0 <= value[0] < WIDTH and 0 <= value[1] < HEIGHT else None
    return action if listed and type(value) is int and 1 <= value <= len(info["elements"]) else None


def action_text(action: Mapping[str, Any]) -> str:
    """Write an action as `action_of` reads it; the same action is always the same text."""
    return json.dumps(action, ensure_ascii=False)


def actions(info: Info, *, listed: bool = True) -> tuple[str, ...]:
    """List a few actions of a state, for play by chance: a click on each element, and what the task names typed.

    Where elements have no numbers, clicks are at their middles; on a page without any, in its own middle.
    """
    count = range(len(info["elements"]))
    clicks = [{"click": place + 1 if listed else info["elements"][place]["at"]} for place in count]
    typed = [{"type": value} for value in dict.fromkeys(value for _, value in info["fields"]) if value.isprintable() and value]
    return tuple(dict.fromkeys(map(action_text, [*clicks, *typed]))) or (action_text({"click": [WIDTH // 2, HEIGHT // 2]}),)


def in_words(info: Info) -> str:
    """Put the elements of a page into words, with the numbers that they are clicked by."""
    return "; ".join(f"{place} {_worded(each)}" for place, each in enumerate(info["elements"], start=1))


def _worded(element: Mapping[str, Any]) -> str:
    ticked = element["kind"] in TICKED
    parts = [element["kind"].replace("_", " "), json.dumps(element["text"], ensure_ascii=False) if element["text"] else ""]
    if ticked:
        parts.append("chosen" if element["value"] else "")
    elif element["value"]:
        parts.append(f"holding {json.dumps(element['value'], ensure_ascii=False)}")
    parts.append("with the focus" if element["focused"] else "")
    return " ".join(filter(None, parts))
