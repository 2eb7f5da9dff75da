"""Charts of the last fifteen minutes as SVG. Text is outside of the SVG, so that it keeps its size in any window."""

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10
from typing import Final, NamedTuple

from gateway.api.console.pages import card

WINDOW: Final = 900.0  # seconds
_HEIGHT: Final = 100
_TIMES: Final = (
    '<div class="times" aria-hidden="true"><span>−15 min</span><span>−10</span><span>−5</span><span>now</span></div>'
)


class Point(NamedTuple):
    """A value that was valid from `start` to `end`, in seconds since the epoch. None: nothing was measured."""

    start: float
    end: float
    value: float | None


class Line(NamedTuple):
    """One series of a chart. `name` is text, `style` names its classes. `points` are in order of time; `last` and
    `highest` are the texts of the legend."""

    name: str
    style: str
    points: Sequence[Point]
    last: str
    highest: str


def stacked(title: str, unit: str, lines: Sequence[Line], now: float) -> str:
    """Build a chart of areas on top of each other, the first line at the bottom. `unit` follows the scale."""
    if not lines:
        return _empty(title, "None in the last fifteen minutes")
    sums = _running_sums(lines)
    top = _nice(max(max((point.value or 0 for point in points), default=0.0) for points in sums))
    areas = "".join(
        f'<path class="{line.style}" d="{_area(points, top, now)}"/>'
        for line, points in reversed(list(zip(lines, sums, strict=True)))
    )
    axis = [f"{_number(top)}{unit}", _number(top / 2), "0"]
    return _figure(title, lines, areas, axis, "per second")


def logarithmic(title: str, lines: Sequence[Line], now: float) -> str:
    """Build a chart of durations on a logarithmic scale."""
    values = [point.value for line in lines for point in line.points if point.value]
    if not values:
        return _empty(title, "No requests in the last fifteen minutes")
    low = floor(log10(min(values)))
    high = max(ceil(log10(max(values))), low + 1)
    paths = "".join(
        f'<path class="line {line.style}" d="{_polyline(line.points, low, high, now)}"/>' for line in reversed(lines)
    )
    axis = [_power(exponent) for exponent in range(high, low - 1, -1)]
    return _figure(title, lines, paths, axis, "")


def strip(states: Sequence[Point], styles: Sequence[str], label: str, now: float) -> str:
    """Build the states of a target over time. A fault is a taller bar, so that it differs by more than its colour."""
    bars = []
    for point, style in zip(states, styles, strict=True):
        left, right = _x(point.start, now), _x(point.end, now)
        top = 0 if style == "fault" else 8
        bars.append(f'<path class="{style}" d="M{left} 20V{top}H{right}V20Z"/>')
    return (
        f'<svg class="strip" viewBox="0 0 900 20" preserveAspectRatio="none" role="img" aria-label="{escape(label)}">'
        f'<path class="track" d="M0 20V8H900V20Z"/>{"".join(bars)}</svg>'
    )


def share_bar(share: float) -> str:
    """Build a bar for a share from 0 to 1. The text beside it contains the number."""
    return (
        '<svg class="share" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<path class="track" d="M0 0H100V8H0Z"/><path class="f2" d="M0 0H{100 * share:.1f}V8H0Z"/></svg>'
    )


# ---- parts


def _figure(title: str, lines: Sequence[Line], paths: str, axis: Sequence[str], unit: str) -> str:
    steps = len(axis) - 1
    grid = "".join(f'<path class="grid" d="M0 {_HEIGHT * step / steps:.1f}H900"/>' for step in range(steps + 1))
    values = "; ".join(f"{line.name}: now {line.last}, highest {line.highest}" for line in lines)
    label = escape(f"{title} {unit} in the last 15 minutes. {values}".replace("  ", " "))
    labels = "".join(f"<span>{text}</span>" for text in axis)
    return card(
        title,
        f'<figure><div class="plot"><div class="axis" aria-hidden="true">{labels}</div>'
        f'<svg viewBox="0 0 900 {_HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{label}">{grid}{paths}'
        f"</svg></div>{_TIMES}{_legend(lines)}</figure>",
    )


def _legend(lines: Sequence[Line]) -> str:
    rows = "".join(
        f"<tr><th scope=row>{_key(line.style)}{escape(line.name)}</th>"
        f'<td class="n">{line.last}</td><td class="n">{line.highest}</td></tr>'
        for line in lines
    )
    head = '<th scope=col><span class="hidden">Series</span></th><th class="n" scope=col>now</th>'
    return (
        f'<table class="legend"><thead><tr>{head}<th class="n" scope=col>highest</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _key(style: str) -> str:
    shape = "M0 0H14V12H0Z" if style.startswith("f") else "M0 6H14"
    kind = style if style.startswith("f") else f"line {style}"
    return f'<svg class="key" viewBox="0 0 14 12" aria-hidden="true"><path class="{kind}" d="{shape}"/></svg>'


def _empty(title: str, text: str) -> str:
    return card(title, f'<p class="empty">{escape(text)}</p>')


# ---- geometry


def _x(at: float, now: float) -> int:
    """The place of a time, from 0 to 900."""
    return round(900 * min(max((at - now + WINDOW) / WINDOW, 0.0), 1.0))


def _running_sums(lines: Sequence[Line]) -> list[list[Point]]:
    sums: list[list[Point]] = []
    for line in lines:
        below = sums[-1] if sums else [point._replace(value=0.0) for point in line.points]
        sums.append(
            [
                point._replace(value=(point.value or 0.0) + (base.value or 0.0))
                for point, base in zip(line.points, below, strict=True)
            ]
        )
    return sums


def _area(points: Sequence[Point], top: float, now: float) -> str:
    if not points:
        return ""
    steps = "".join(f"V{_HEIGHT - _HEIGHT * (point.value or 0) / top:.1f}H{_x(point.end, now)}" for point in points)
    return f"M{_x(points[0].start, now)} {_HEIGHT}{steps}V{_HEIGHT}Z"


def _polyline(points: Sequence[Point], low: int, high: int, now: float) -> str:
    """A line through the measured points. Nothing connects across a time without requests."""
    parts = []
    is_drawing = False
    for point in points:
        if point.value:
            y = _HEIGHT * (high - log10(point.value)) / (high - low)
            start = f"{_x(point.start, now)} {y:.1f}"
            parts.append(f"{'L' if is_drawing else 'M'}{start}L{_x(point.end, now)} {y:.1f}")
        is_drawing = bool(point.value)
    return "".join(parts)


def _nice(value: float) -> float:
    """The least number of the form 1, 2, 4 or 10 times a power of ten that is not below `value`."""
    if value <= 0:
        return 1.0
    power = float(10 ** floor(log10(value)))
    return next(step * power for step in (1, 2, 4, 10) if value <= step * power * 1.0001)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == round(value) else f"{value:.2g}"


def _power(exponent: int) -> str:
    """A power of ten in seconds, with its unit."""
    if exponent >= 0:
        return f"{10**exponent} s"
    return f"{10 ** (exponent + 3)} ms" if exponent >= -3 else f"{10 ** (exponent + 6)} µs"
