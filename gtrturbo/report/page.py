"""The page around the pictures: HTML that needs nothing else, readable in light and dark and on a phone."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from gtrturbo.distributed.escapes import visible

STYLE = Path(__file__).with_name("page.css")
# The page may load nothing, whatever is in it.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
BEGINNING = (
    "<!doctype html>\n"
    '<html lang="en"><head><meta charset="utf-8">\n'
    f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
)
WRITER = '<meta name="generator" content="gtrturbo report">'


def shown(text: str) -> str:
    """Write a text of others as HTML: no markup in it counts, and nothing in it turns what follows around."""
    return escape(visible(text))


def page(title: str, sections: Iterable[str], *, reload: int | None = None) -> str:
    """Return a whole HTML document, which is read anew every so many seconds if it says so."""
    return "\n".join(
        [
            f"{BEGINNING}{WRITER}",
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            *([f'<meta http-equiv="refresh" content="{reload}">'] if reload else []),
            f"<title>{shown(title)}</title>",
            f"<style>\n{STYLE.read_text(encoding='utf-8')}</style></head>",
            "<body><main>",
            f"<h1>{shown(title)}</h1>",
            *sections,
            "</main></body></html>",
            "",
        ]
    )


def is_page(content: bytes) -> bool:
    """Tell whether a file is such a page: by who it says wrote it, or, as pages at first did not, by how all of them begin."""
    head = content.partition(b"<title>")[0]
    return WRITER.encode() in head or head.startswith(BEGINNING.encode())


def section(title: str, *parts: str, level: int = 2) -> str:
    """Return a titled part of the page."""
    return "\n".join(["<section>", f"<h{level}>{shown(title)}</h{level}>", *filter(None, parts), "</section>"])


def paragraph(text: str, *, kind: str = "") -> str:
    """Return a paragraph of plain text."""
    return f'<p class="{kind}">{shown(text)}</p>' if kind else f"<p>{shown(text)}</p>"


def listing(items: Sequence[str], *, kind: str = "") -> str:
    """Return a list of plain texts; nothing for none."""
    rows = "".join(f"<li>{shown(item)}</li>" for item in items)
    return f'<ul class="{kind}">{rows}</ul>' if items else ""


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of plain texts whose first column names the rows; it scrolls by itself where it is too wide."""
    titles = "".join(f'<th scope="col">{shown(title)}</th>' for title in head)
    body = "".join(_row(row) for row in rows)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{shown(caption)}"><table><caption>{shown(caption)}</caption>'
        f"<thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row(cells: Sequence[str]) -> str:
    first, *rest = cells
    return f'<tr><th scope="row">{shown(first)}</th>{"".join(f"<td>{shown(cell)}</td>" for cell in rest)}</tr>'


def grid(figures: Iterable[str]) -> str:
    """Set figures side by side, as many as fit."""
    return f'<div class="grid">{"".join(figures)}</div>'


def details(summary: str, *parts: str) -> str:
    """Return a part that opens on a click."""
    return f"<details><summary>{shown(summary)}</summary>{''.join(parts)}</details>"
