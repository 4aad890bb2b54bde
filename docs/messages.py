"""Write docs/messages.md, each error message of the package with what mends it, from its source: `python -m docs.messages`."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "gtrturbo"
PAGE = Path(__file__).with_name("messages.md")
RAISED = {"GtrTurboError", "Collapse", "UnprovedError"}
HEAD = """# Error messages

<!-- Written by `make docs` from the package's source; do not edit. -->

A message says what is wrong, with the value, and in a second line what mends it. Every one that the package itself raises stands
here under the room that raises it, with `…` for names, numbers and paths. Search for the words of yours.
[Troubleshooting](troubleshooting.md) tells the common ones at length.

A sentence of the operating system (a full disk, a file in the place of a folder, a missing permission) names the path; make
room or change it, and give the same command again: what was finished is kept. *This is a fault of gtrturbo* (exit code 70)
is none of yours: `--debug` shows its trace, which belongs into a report.
"""


def page() -> str:
    """Return the page's text: a table per room."""
    rooms: dict[str, dict[str, str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).parts
        for what, fix in messages(path):
            rooms.setdefault(parts[0].removesuffix(".py"), {}).setdefault(what, fix)
    return "\n".join([HEAD, *(_section(room, found) for room, found in sorted(rooms.items()))])


def messages(path: Path) -> Iterator[tuple[str, str]]:
    """Find what a module's errors say and what mends it; what is no text in the source is told as …."""
    for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(function, ast.Call) or not isinstance(function.func, ast.Name) or function.func.id not in RAISED:
            continue
        named = {word.arg: word.value for word in function.keywords}
        given = [*function.args, *(named[name] for name in ("what", "fix") if name in named)]
        texts = [" ".join(_text(each).split()) for each in given[:2]]
        if texts and texts[0].strip(" …:"):
            yield texts[0], texts[1] if len(texts) > 1 else ""


def _text(node: ast.expr) -> str:
    """Return an expression's text, with … for all that is known only when it is said."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(_text(value) for value in values)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _text(left) + _text(right)
        case ast.IfExp(body=body, orelse=other):
            return " / ".join(filter(None, (_text(body), _text(other))))
    return "…"


def _section(room: str, found: dict[str, str]) -> str:
    rows = [f"| {_cell(what)} | {_cell(fix)} |" for what, fix in sorted(found.items())]
    return "\n".join([f"## {room}", "", "| it says | mend |", "|---|---|", *rows, ""])


def _cell(text: str) -> str:
    for letter in "\\`*_<>[]|":
        text = text.replace(letter, f"\\{letter}")
    return text


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
