"""Charts as inline SVG. Colours come from the page's style sheet; shapes and dashes tell series apart too."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 360, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 22, 12, 40
MARKERS = ("circle", "square", "triangle")


@dataclass(frozen=True)
class Series:
    """Points joined by a line."""

    name: str
    points: Sequence[tuple[float, float]]
    style: int = 0  # which colour, dash and marker
    marked: bool = True


@dataclass(frozen=True)
class Axis:
    """One axis: its range, where it is marked, and how numbers on it are written."""

    name: str
    low: float
    high: float
    ticks: Sequence[float]
    written: Callable[[float], str]


@dataclass(frozen=True)
class Guide:
    """A straight line across the chart, with words beside it."""

    at: float
    name: str
    upright: bool = False


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that cover a range, the first at or below ``low``, the last at or above ``high``."""
    span = high - low
    if span <= 0:
        return nice_ticks(low - 0.5, low + 0.5, about)
    rough = span / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(place * step, 10) for place in range(first, last + 1)]


def line_chart(
    identity: str,
    title: str,
    description: str,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    guides: Sequence[Guide] = (),
) -> Markup:
    """Lines over two axes. ``identity`` is unique in the page."""

    def across(value: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * (value - x.low) / (x.high - x.low)

    def up(value: float) -> float:
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * (value - y.low) / (y.high - y.low)

    parts = [_frame(x, y, across, up)]
    for guide in guides:
        parts.append(_guide(guide, across, up, x, y))
    for line in series:
        parts.append(_line(line, across, up))
    return _svg(identity, title, description, WIDTH, HEIGHT, parts)


def histogram(
    identity: str,
    title: str,
    description: str,
    bars: Sequence[tuple[float, float]],
    width: float,
    x: Axis,
    y: Axis,
) -> Markup:
    """Bars of equal width, each at its left edge and with its height."""
    scale = (WIDTH - _LEFT - _RIGHT) / (x.high - x.low)
    floor, tall = HEIGHT - _BOTTOM, HEIGHT - _TOP - _BOTTOM

    def across(value: float) -> float:
        return _LEFT + scale * (value - x.low)

    def up(value: float) -> float:
        return floor - tall * (value - y.low) / (y.high - y.low)

    parts = [_frame(x, y, across, up)]
    for start, height in bars:
        parts.append(
            Markup('<rect class="bar" x="{}" y="{}" width="{}" height="{}"/>').format(
                _n(across(start)), _n(up(height)), _n(max(scale * width - 1, 1)), _n(floor - up(height))
            )
        )
    return _svg(identity, title, description, WIDTH, HEIGHT, parts)


def score_bar(score: float | None, low: float | None, high: float | None, style: str = "") -> Markup:
    """A bar from 0 to a score in [0, 1] with the whisker of its interval; the numbers stand beside it."""
    wide, tall = 120, 16
    parts = [Markup('<rect class="track" x="0" y="3" width="{}" height="10"/>').format(wide)]
    if score is not None:
        parts.append(
            Markup('<rect class="bar {}" x="0" y="3" width="{}" height="10"/>').format(
                style, _n(wide * score)
            )
        )
    if low is not None and high is not None:
        left, right = (min(max(wide * edge, 0.75), wide - 0.75) for edge in (low, high))
        parts.append(
            Markup('<path class="whisker" d="{}"/>').format(
                f"M{_n(left)} 8H{_n(right)}M{_n(left)} 4V12M{_n(right)} 4V12"
            )
        )
    return Markup(
        '<svg class="score" viewBox="0 0 {0} {1}" width="{0}" height="{1}" aria-hidden="true" '
        'focusable="false">{2}</svg>'
    ).format(wide, tall, Markup("").join(parts))


def key(style: int, marked: bool = True) -> Markup:
    """The sample of a series in a legend."""
    mark = _marker(style, 17, 6) if marked else ""
    return Markup(
        '<svg class="key" viewBox="0 0 34 12" width="34" height="12" aria-hidden="true" focusable="false">'
        '<path class="line line{0}" d="M1 6H33"/>{1}</svg>'
    ).format(style, mark)


def _svg(
    identity: str, title: str, description: str, width: int, height: int, parts: Sequence[Markup]
) -> Markup:
    return Markup(
        '<svg class="chart" viewBox="0 0 {1} {2}" role="img" aria-labelledby="{0}-t {0}-d">'
        '<title id="{0}-t">{3}</title><desc id="{0}-d">{4}</desc>{5}</svg>'
    ).format(identity, width, height, title, description, Markup("").join(parts))


def _frame(x: Axis, y: Axis, across: Callable[[float], float], up: Callable[[float], float]) -> Markup:
    """Grid, numbers and names of the axes."""
    left, right, top, bottom = _LEFT, WIDTH - _RIGHT, _TOP, HEIGHT - _BOTTOM
    parts = []
    for tick in y.ticks:
        parts.append(
            Markup('<path class="grid" d="M{} {}H{}"/><text class="tick end" x="{}" y="{}">{}</text>').format(
                left, _n(up(tick)), right, left - 6, _n(up(tick) + 4), y.written(tick)
            )
        )
    for tick in x.ticks:
        parts.append(
            Markup(
                '<path class="grid" d="M{0} {1}V{2}"/><text class="tick mid" x="{0}" y="{3}">{4}</text>'
            ).format(_n(across(tick)), bottom, bottom + 4, bottom + 16, x.written(tick))
        )
    parts.append(Markup('<path class="axis" d="M{} {}V{}H{}"/>').format(left, top, bottom, right))
    parts.append(
        Markup('<text class="name mid" x="{}" y="{}">{}</text>').format(
            (left + right) / 2, HEIGHT - 5, x.name
        )
    )
    parts.append(
        Markup('<text class="name mid" transform="translate(11 {}) rotate(-90)">{}</text>').format(
            (top + bottom) / 2, y.name
        )
    )
    return Markup("").join(parts)


def _guide(
    guide: Guide, across: Callable[[float], float], up: Callable[[float], float], x: Axis, y: Axis
) -> Markup:
    if guide.upright:
        at = across(guide.at)
        side, shift = ("end", -5) if guide.at > (x.low + x.high) / 2 else ("start", 5)
        return Markup(
            '<path class="guide" d="M{0} {1}V{2}"/><text class="note {3}" x="{4}" y="{5}">{6}</text>'
        ).format(_n(at), _TOP, HEIGHT - _BOTTOM, side, _n(at + shift), HEIGHT - _BOTTOM - 8, guide.name)
    at = up(guide.at)
    return Markup(
        '<path class="guide" d="M{0} {1}H{2}"/><text class="note start" x="{3}" y="{4}">{5}</text>'
    ).format(_LEFT, _n(at), WIDTH - _RIGHT, _LEFT + 6, _n(at + 14), guide.name)


def _line(series: Series, across: Callable[[float], float], up: Callable[[float], float]) -> Markup:
    spots = [(across(a), up(b)) for a, b in series.points]
    path = "L".join(f"{_n(a)} {_n(b)}" for a, b in spots)
    parts = (
        [Markup('<path class="line line{}" d="M{}"/>').format(series.style, path)] if len(spots) > 1 else []
    )
    if series.marked or len(spots) == 1:
        parts += [_marker(series.style, a, b) for a, b in spots]
    return Markup("").join(parts)


def _marker(style: int, x: float, y: float) -> Markup:
    match MARKERS[style % len(MARKERS)]:
        case "circle":
            return Markup('<circle class="mark mark{}" cx="{}" cy="{}" r="3"/>').format(style, _n(x), _n(y))
        case "square":
            return Markup('<rect class="mark mark{}" x="{}" y="{}" width="6" height="6"/>').format(
                style, _n(x - 3), _n(y - 3)
            )
        case _:
            return Markup('<path class="mark mark{}" d="M{} {}l4 7h-8z"/>').format(style, _n(x), _n(y - 4))


def _n(value: float) -> str:
    """A coordinate, to a tenth."""
    return f"{value:.1f}".removesuffix(".0")
