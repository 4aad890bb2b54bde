"""Pictures drawn as SVG by hand: curves with bands, and stacked bars. No library, no script, colours by CSS class."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gtrturbo.report.page import shown

WIDTH, HEIGHT = 380, 220
LEFT, RIGHT, TOP, BOTTOM = 48, 14, 10, 36
COLOURS = 6
TICKS = 5
RADIUS = 3.2
BAR, GAP = 20, 34


@dataclass(frozen=True)
class Point:
    """A value at an iteration, with an interval where there is one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Line:
    """A named curve; `style` chooses colour and marker, `dashed` tells two curves of one colour apart."""

    name: str
    points: list[Point]
    style: int
    dashed: bool = False


@dataclass(frozen=True)
class Rule:
    """A level to compare with, drawn across the picture."""

    name: str
    y: float


@dataclass(frozen=True)
class Axis:
    """A scale from values to places on the picture: linear, or of the values' logarithms, between which it lies then."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        if self.logarithmic:
            value = math.log(value)
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def curves(
    name: str,
    title: str,
    lines: Sequence[Line],
    *,
    rules: Sequence[Rule] = (),
    bounds: tuple[float, float] | None,
    axis: str = "iteration",
    logarithmic: bool = False,
) -> str:
    """Draw curves as one SVG element.

    Args:
        name: unique on the page, for the ids that assistive technology reads title and description by.
        title: what is drawn.
        lines: at least one with a point.
        rules: levels drawn across.
        bounds: what the vertical axis reaches over at least; the values alone if not given.
        axis: what the horizontal axis counts.
        logarithmic: whether equal ways along it are equal ratios; every x is above 0 then.
    """
    points = [point for line in lines for point in line.points]
    values = [v for p in points for v in (p.y, p.low, p.high) if v is not None] + [rule.y for rule in rules]
    low, high = bounds or (min(values), max(values))
    ticks = nice_ticks(min(low, *values), max(high, *values))
    labels = tick_labels(ticks)
    vertical = Axis(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP)
    scale = math.log if logarithmic else float
    first, last = scale(min(p.x for p in points)), scale(max(p.x for p in points))
    horizontal = Axis(
        first - 0.5 if first == last else first,
        last + 0.5 if first == last else last,
        LEFT,
        WIDTH - RIGHT,
        logarithmic=logarithmic,
    )
    body = [*_vertical_axis(ticks, labels, vertical), *_horizontal_axis(points, horizontal, axis)]
    body += [part for rule in rules for part in _rule(rule, vertical)]
    body += [_band(line, horizontal, vertical) for line in lines]
    body += [_curve(line, horizontal, vertical) for line in lines]
    return drawn(name, title, _described(lines, rules, axis), HEIGHT, body)


def bars(name: str, title: str, rows: Sequence[tuple[str, Sequence[tuple[str, float]]]], unit: str) -> str:
    """Draw one bar per row, stacked of named parts, whose order decides their colours; the sum stands at its end."""
    sums = [math.fsum(value for _, value in parts) for _, parts in rows]
    scale = Axis(0, max(*sums, 1e-9), 0, WIDTH - 70)
    names = list(dict.fromkeys(part for _, parts in rows for part, _ in parts))
    body = []
    for place, ((row, parts), total) in enumerate(zip(rows, sums, strict=True)):
        top, left = place * (BAR + GAP) + 18, 0.0
        body.append(f'<text class="name" x="0" y="{top - 5}">{shown(row)}</text>')
        for part, value in parts:
            width = scale(value)
            body.append(f'<rect class="p{names.index(part)}" x="{left:.1f}" y="{top}" width="{width:.1f}" height="{BAR}"/>')
            left += width
        body.append(f'<text x="{left + 5:.1f}" y="{top + BAR - 6}">{total:.3g} {unit}</text>')
    told = ". ".join(f"{row}: " + ", ".join(f"{part} {value:.3g} {unit}" for part, value in parts) for row, parts in rows)
    return drawn(name, title, told, len(rows) * (BAR + GAP), body)


def swatch(line: Line) -> str:
    """Draw a line's sample for a legend."""
    dash = ' stroke-dasharray="5 3"' if line.dashed else ""
    drawn = f'<path d="M0 7H28"{dash}/>{_marker(line.style, 14, 7)}'
    return f'<svg class="swatch s{line.style % COLOURS}" viewBox="0 0 28 14" aria-hidden="true">{drawn}</svg>'


def nice_ticks(low: float, high: float) -> list[float]:
    """Return round numbers, evenly spaced, that enclose a range; about five of them."""
    if high - low < 1e-12:
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    rough = (high - low) / (TICKS - 1)
    scale = 10 ** math.floor(math.log10(rough))
    step = next(each * scale for each in (1, 2, 2.5, 5, 10) if each * scale >= rough * (1 - 1e-9))
    # What rounding left beyond a tick needs no further one.
    first, last = math.floor(low / step + 1e-3), math.ceil(high / step - 1e-3)
    return [k * step for k in range(first, last + 1)]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Write evenly spaced ticks with as many decimals as their step needs; very small ones as powers of ten."""
    step = ticks[1] - ticks[0]
    decimals = next((d for d in range(4) if abs(round(step, d) - step) < 1e-6 * step), None)
    if decimals is None:
        digits = 2 + math.floor(math.log10(max(map(abs, ticks)))) - math.floor(math.log10(step))
        return ["0" if abs(tick) < step / 2 else f"{tick:.{digits}g}".replace("e-0", "e-") for tick in ticks]
    return [f"{round(tick, decimals) + 0.0:.{decimals}f}" for tick in ticks]


def _vertical_axis(ticks: Sequence[float], labels: Sequence[str], axis: Axis) -> list[str]:
    parts = []
    for tick, label in zip(ticks, labels, strict=True):
        y = axis(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    return parts


def _horizontal_axis(points: Sequence[Point], axis: Axis, name: str) -> list[str]:
    places = sorted({point.x for point in points})
    every = -(-len(places) // 9)
    labels = [f'<text x="{axis(x):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{x:g}</text>' for x in places[::every]]
    middle = (LEFT + WIDTH - RIGHT) / 2
    return [*labels, f'<text class="axis" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{shown(name)}</text>']


def _rule(rule: Rule, axis: Axis) -> list[str]:
    y = axis(rule.y)
    return [
        f'<path class="rule" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>',
        f'<text class="rule-name" x="{WIDTH - RIGHT - 2}" y="{y - 4:.1f}" text-anchor="end">{shown(rule.name)}</text>',
    ]


def _band(line: Line, x: Axis, y: Axis) -> str:
    """Shade the interval; a single point gets a bar."""
    sure = [(point, point.low, point.high) for point in line.points if point.low is not None and point.high is not None]
    style = f"s{line.style % COLOURS}"
    if not sure:
        return ""
    if len(sure) == 1:
        point, low, high = sure[0]
        return f'<path class="whisker {style}" d="M{x(point.x):.1f} {y(low):.1f}V{y(high):.1f}"/>'
    there = [f"{x(point.x):.1f} {y(high):.1f}" for point, _, high in sure]
    back = [f"{x(point.x):.1f} {y(low):.1f}" for point, low, _ in reversed(sure)]
    return f'<path class="band {style}" d="M{"L".join(there + back)}Z"/>'


def _curve(line: Line, x: Axis, y: Axis) -> str:
    if not line.points:
        return ""
    path = "L".join(f"{x(point.x):.1f} {y(point.y):.1f}" for point in line.points)
    dash = ' stroke-dasharray="5 3"' if line.dashed else ""
    markers = "".join(_marker(line.style, x(point.x), y(point.y)) for point in line.points)
    return f'<g class="s{line.style % COLOURS}"><path d="M{path}"{dash}/>{markers}</g>'


def _marker(style: int, x: float, y: float) -> str:
    """Draw a circle, a square, a triangle or a diamond: curves differ by more than colour."""
    r = RADIUS
    shapes = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}"/>',
        f'<rect x="{x - r:.1f}" y="{y - r:.1f}" width="{2 * r}" height="{2 * r}"/>',
        f'<polygon points="{x:.1f},{y - r - 1:.1f} {x + r + 1:.1f},{y + r:.1f} {x - r - 1:.1f},{y + r:.1f}"/>',
        f'<polygon points="{x:.1f},{y - r - 1:.1f} {x + r + 1:.1f},{y:.1f} {x:.1f},{y + r + 1:.1f} {x - r - 1:.1f},{y:.1f}"/>',
    )
    return shapes[style % len(shapes)]


def _described(lines: Sequence[Line], rules: Sequence[Rule], axis: str) -> str:
    """Say in words where each curve begins and ends."""
    told = []
    for line in lines:
        if line.points:
            first, last = line.points[0], line.points[-1]
            told.append(f"{line.name}: {first.y:.3g} at {axis} {first.x:g}, {last.y:.3g} at {axis} {last.x:g}")
    return ". ".join([*told, *(f"{rule.name}: {rule.y:.3g}" for rule in rules)])


def drawn(name: str, title: str, description: str, height: float, body: Sequence[str]) -> str:
    """Put the parts of a picture into one SVG element, with a title and its description in words."""
    head = f'<title id="{name}-t">{shown(title)}</title><desc id="{name}-d">{shown(description)}</desc>'
    attributes = f'class="picture" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="{name}-t {name}-d"'
    return f"<svg {attributes}>{head}{''.join(body)}</svg>"
