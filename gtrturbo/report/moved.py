"""What the last merge of a run moved, as a report draws it: a row per module, a square per layer, the darker the more."""

from collections.abc import Iterator, Sequence

from gtrturbo.analysis.groups import RunGroup
from gtrturbo.analysis.moved import MovedPicture, pictures, short_names
from gtrturbo.report.chart import drawn
from gtrturbo.report.page import details, paragraph, shown, table

ROW, NAME, SQUARE = 14, 190, 16
SAID = "Of the last teacher of the first seed. Each square is a layer of a module, from left to right; darker is more."


def moved_figures(name: str, groups: Sequence[RunGroup]) -> Iterator[str]:
    """Draw ‖ΔW‖, sign conflicts and overlap of each method's last merge."""
    for place, group in enumerate(groups):
        merges = group.runs[min(group.runs)].at("teachers")
        last = merges[max(merges)].moved if merges else None
        for number, picture in enumerate(pictures(last)):
            yield _figure(f"{name}-{place}-{number}", f"{group.method}: {picture.title}", picture)


def _figure(name: str, title: str, picture: MovedPicture) -> str:
    said = f"{SAID} Darkest: {picture.top:.3g}."
    rows = [[module, *("–" if value is None else f"{value:.3g}" for value in row)] for module, row in picture.rows.items()]
    width = max(map(len, picture.rows.values()))
    full = [[*row, *[""] * (width + 1 - len(row))] for row in rows]
    values = table("by module", ["module", *map(str, range(width))], full)
    head = f"<figcaption>{shown(title)}</figcaption>{paragraph(said, kind='faint')}"
    return f"<figure>{head}{_squares(name, title, picture)}{details('numbers', values)}</figure>"


def _squares(name: str, title: str, picture: MovedPicture) -> str:
    width = max(map(len, picture.rows.values()))
    side = min(SQUARE, (380 - NAME) / width)
    body, told = [], []
    names = short_names(list(picture.rows))
    for place, (module, row) in enumerate(picture.rows.items()):
        top = place * ROW
        body.append(f'<text x="0" y="{top + ROW - 4}">{shown(_short(names[place]))}</text>')
        for number, value in enumerate(row):
            if value is not None:
                at = f'x="{NAME + number * side:.2f}" y="{top + 1}" width="{side:.2f}" height="{ROW - 2}"'
                body.append(f'<rect class="p0" {at} fill-opacity="{value / picture.top:.3f}"/>')
        known = [value for value in row if value is not None]
        told.append(f"{module}: {min(known):.3g} to {max(known):.3g}" if known else f"{module}: none")
    return drawn(name, title, ". ".join(told), len(picture.rows) * ROW, body)


def _short(module: str, most: int = 32) -> str:
    return module if len(module) <= most else f"…{module[-most + 1 :]}"
