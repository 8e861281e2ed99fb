"""Charts as inline SVG: colours come from the page's style sheet, so they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH = 640  # of charts with axes, in user units
_COLOURS = 8  # that the style sheet has for lines and groups


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart.

    Attributes:
        name: What the line shows.
        style: Class of the style sheet that colours it.
        points: Pairs of x and y, x rising.
    """

    name: str
    style: str
    points: Sequence[tuple[float, float]]


def line_chart(lines: Sequence[Line], *, title: str, x_label: str, y_label: str) -> Markup:
    """Draw lines over one x axis of whole numbers; the y axis starts at 0.

    Raises:
        ValueError: there is no point to draw.
    """
    points = [point for line in lines for point in line.points]
    if not points:
        raise ValueError("a chart needs at least one point")
    left, right, top, bottom, height = 70, 16, 16, 44, 320
    low, high = min(x for x, _ in points), max(x for x, _ in points)
    ticks = nice_ticks(max(y for _, y in points))
    x_at = _scale(low, max(high, low + 1), left, WIDTH - right)
    y_at = _scale(0.0, ticks[-1], height - bottom, top)
    parts = [_grid_line(y, y_at(y), left, WIDTH - right) for y in ticks]
    step = max(1, math.ceil((high - low) / 10))
    parts += [
        f'<text x="{x_at(x):.1f}" y="{height - bottom + 20}" text-anchor="middle">{x}</text>'
        for x in range(math.ceil(low / step) * step, math.floor(high + 1e-9) + 1, step)
    ]
    middle = (height - bottom) / 2
    parts += [
        f'<text x="{(left + WIDTH) / 2}" y="{height - 6}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>',
    ]
    for line in lines:
        places = [(x_at(x), y_at(y)) for x, y in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline class="line {line.style}" points="{path}"/>')
        parts += [f'<circle class="{line.style}" r="3" cx="{x:.1f}" cy="{y:.1f}"/>' for x, y in places]
    return _svg(parts, height, title, "; ".join(f"{line.name}: {_spoken(line.points)}" for line in lines))


def bar_chart(rows: Mapping[str, Sequence[float]], *, series: Sequence[str], title: str) -> Markup:
    """Draw horizontal bars from 0 to 1, one group for each row and one bar in it for each series, with their values."""
    left, right, top, bar, gap = 210, 56, 8, 18, 16
    group = bar * len(series) + gap
    height = top + group * len(rows) + 8
    x_at = _scale(0.0, 1.0, left, WIDTH - right)
    marks = [x_at(share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    parts = [f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{height - 8}"/>' for x in marks]
    for position, (name, values) in enumerate(rows.items()):
        y = top + position * group + gap / 2
        middle = y + bar * len(series) / 2 + 4
        parts.append(f'<text x="{left - 12}" y="{middle:.1f}" text-anchor="end">{escape(name)}</text>')
        for number, value in enumerate(values):
            parts.append(_bar(value, number, (left, y + number * bar), x_at(value) - left, bar - 3))
    spoken = "; ".join(
        f"{name}: " + ", ".join(f"{label} {value:.3f}" for label, value in zip(series, values, strict=True))
        for name, values in rows.items()
    )
    return _svg(parts, height, title, spoken)


def scatter_chart(points: Sequence[tuple[float, float]], groups: Sequence[int], *, title: str, spoken: str) -> Markup:
    """Draw points in a square without axes, each group by its own mix of colour and shape; see `group_mark`."""
    side, margin = 480, 12
    if not points:
        raise ValueError("a chart needs at least one point")
    low_x, high_x = min(x for x, _ in points), max(x for x, _ in points)
    low_y, high_y = min(y for _, y in points), max(y for _, y in points)
    x_at = _scale(low_x, max(high_x, low_x + 1e-9), margin, side - margin)
    y_at = _scale(low_y, max(high_y, low_y + 1e-9), side - margin, margin)
    parts = [_mark(x_at(x), y_at(y), group) for (x, y), group in zip(points, groups, strict=True)]
    return _svg(parts, side, title, spoken, width=side)


def group_mark(group: int) -> Markup:
    """Return the mark of a group of `scatter_chart`, for a legend; 32 groups are told apart."""
    return Markup(f'<svg viewBox="0 0 10 10" class="mark" aria-hidden="true">{_mark(5, 5, group)}</svg>')  # noqa: S704


def _mark(x: float, y: float, group: int) -> str:
    """Draw one point: eight colours, and four shapes for each."""
    colour, shape = f"mark-{group % _COLOURS}", group // _COLOURS % 4
    if shape == 0:
        return f'<circle class="{colour}" r="3.2" cx="{x:.1f}" cy="{y:.1f}"/>'
    outlines = (
        (),
        ((-3, -3), (3, -3), (3, 3), (-3, 3)),
        ((0, -4), (4, 3), (-4, 3)),
        ((0, -4.4), (4.4, 0), (0, 4.4), (-4.4, 0)),
    )
    corners = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in outlines[shape])
    return f'<polygon class="{colour}" points="{corners}"/>'


def nice_ticks(highest: float) -> list[float]:
    """Return four to six round values from 0 to at least `highest`."""
    if highest < 1e-9:
        return [0.0, 0.5, 1.0]
    power = 10.0 ** math.floor(math.log10(highest / 4))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10, 20) if highest / (factor * power) <= 5)
    return [step * n for n in range(math.ceil(highest / step) + 1)]


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Return the straight map from values to user units."""
    factor = (end - start) / (high - low)
    return lambda value: start + (value - low) * factor


def _grid_line(value: float, y: float, left: float, right: float) -> str:
    line = f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return f'{line}<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'


def _bar(value: float, number: int, corner: tuple[float, float], width: float, height: float) -> str:
    left, top = corner
    size = f'x="{left}" y="{top:.1f}" width="{width:.1f}" height="{height}" rx="2"'
    return (
        f'<rect class="bar series-{number}" {size}/>'
        f'<text x="{left + width + 6:.1f}" y="{top + height - 3:.1f}">{value:.3f}</text>'
    )


def _spoken(points: Sequence[tuple[float, float]]) -> str:
    return f"from {points[0][1]:.3g} to {points[-1][1]:.3g}" if points else "no values"


def _svg(parts: Sequence[str], height: float, title: str, description: str, width: int = WIDTH) -> Markup:
    head = f'<svg viewBox="0 0 {width} {height:.0f}" role="img" class="chart">'
    words = f"<title>{escape(title)}</title><desc>{escape(description)}</desc>"
    return Markup(head + words + "".join(parts) + "</svg>")  # noqa: S704 - every text in it was escaped above
