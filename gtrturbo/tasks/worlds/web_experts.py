"""Scripted experts for some pages of MiniWoB: what is known of a page in, an action and what it is for out."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gtrturbo.tasks.worlds.page import TICKED, Info

Element = Mapping[str, Any]
Step = tuple[str, dict[str, Any]]  # What it is for, and the action.


def _numbered(info: Info, *kinds: str) -> Iterator[tuple[int, Element]]:
    for number, element in enumerate(info["elements"], start=1):
        if element["kind"] in kinds or not kinds:
            yield number, element


def _first(info: Info, fits: Callable[[Element], bool], *kinds: str) -> int:
    """Return the number of the first element of some kinds that fits; of the first at all where none does."""
    return next((number for number, element in _numbered(info, *kinds) if fits(element)), 1)


def _click(info: Info, number: int) -> Step:
    element = info["elements"][number - 1]
    return f"click {element['text'] or element['kind'].replace('_', ' ')}", {"click": number}


def _called(info: Info, text: str, *kinds: str) -> Step:
    return _click(info, _first(info, lambda element: element["text"] == text, *kinds))


def _target(info: Info) -> str:
    return dict(info["fields"]).get("target", "")


def _any_button(info: Info) -> Step:
    return _click(info, _first(info, lambda element: True, "button"))


def _named_button(info: Info) -> Step:
    return _called(info, _target(info), "button")


def _one_then_two(info: Info) -> Step:
    first = next((each for _, each in _numbered(info, "button") if each["text"] == "ONE"), None)
    return _called(info, "TWO" if first and first["focused"] else "ONE", "button")


def _link(info: Info) -> Step:
    return _click(info, _first(info, lambda each: each["text"] == _target(info) and "alink" in each["classes"], "span"))


def _tab(info: Info) -> Step:
    return _called(info, f"Tab #{_target(info)}", "a")


def _close(info: Info) -> Step:
    return _click(info, _first(info, lambda each: "close" in each["classes"], "button"))


def _nth_box(info: Info) -> Step:
    boxes = [number for number, _ in _numbered(info, "input_text")]
    return _click(info, boxes[min(int(_target(info) or 1), len(boxes)) - 1])


def _filled(info: Info, texts: Mapping[str, str], press: str) -> Step:
    """Type each text into the box of its id, one after another, then press a button.

    What was begun is gone on with; what is wrong from its first letters on cannot be mended, and is sent off.
    """
    for number, box in _numbered(info, "input_text", "input_password"):
        rest = texts.get(box["id"], "").removeprefix(box["value"])
        if rest and texts[box["id"]] == box["value"] + rest:
            return (f"type {rest}", {"type": rest}) if box["focused"] else _click(info, number)
    return _called(info, press, "button")


def _enter_text(info: Info) -> Step:
    return _filled(info, {"tt": _target(info)}, "Submit")


def _enter_password(info: Info) -> Step:
    return _filled(info, {"password": _target(info), "verify": _target(info)}, "Submit")


def _login(info: Info) -> Step:
    return _filled(info, dict(info["fields"]), "Login")


def _tick(info: Info) -> Step:
    """Tick the boxes that are named, and no others, then press Submit."""
    wanted = {value for name, value in info["fields"] if name.startswith("target")}
    for number, box in _numbered(info, *TICKED):
        ticked = bool(box["value"])
        radio = box["kind"] == "input_radio"  # The others are unticked with it.
        if (box["text"] in wanted and not ticked) or (box["text"] not in wanted and ticked and not radio):
            return _click(info, number)
    return _called(info, "Submit", "button")


EXPERTS: dict[str, Callable[[Info], Step]] = {
    "click-test": _any_button,
    "click-test-2": _named_button,
    "click-button": _named_button,
    "click-button-sequence": _one_then_two,
    "click-link": _link,
    "click-tab": _tab,
    "click-dialog": _close,
    "focus-text": _nth_box,
    "focus-text-2": _nth_box,
    "enter-text": _enter_text,
    "enter-password": _enter_password,
    "login-user": _login,
    "click-checkboxes": _tick,
    "click-option": _tick,
}
