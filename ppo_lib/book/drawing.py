"""What a chart is made of: rounded numbers, axes with round ticks, and pieces of SVG as strings."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

DIGITS = 4  # of every number drawn: a change in the last bit of a float never reaches the picture
# Shapes of points, by Plotly's names for them. A hollow one after a full one, so that two clouds differ without color.
SHAPES = ("circle", "square-open", "diamond", "triangle-up-open", "x", "cross")
CORNERS: dict[str, list[tuple[float, float]]] = {  # around the middle
    "square": [(-3.6, -3.6), (3.6, -3.6), (3.6, 3.6), (-3.6, 3.6)],
    "diamond": [(0, -5.3), (5.3, 0), (0, 5.3), (-5.3, 0)],
    "triangle-up": [(0, -5.2), (5.2, 4), (-5.2, 4)],
    "x": [(-3.8, -3.8), (3.8, 3.8), (-3.8, 3.8), (3.8, -3.8)],
    "cross": [(0, -5), (0, 5), (-5, 0), (5, 0)],
}
STROKED = {"x", "cross"}  # two lines each, and no area
TINY = 1e-300  # no axis is shorter: of smaller numbers there is no tenth part


def rounded(values: Iterable[Any]) -> list[float]:
    """``values`` (numbers, or tensors of one) as floats of four significant digits; ``None`` becomes NaN, a gap."""
    return [float(f"{_plain(value):.{DIGITS}g}") for value in values]


def _plain(value: Any) -> float:
    if value is None:
        return math.nan
    return float(value.detach() if hasattr(value, "detach") else value)


def number(value: float) -> str:
    """``value`` as a reader wants it: up to four digits, no trailing zeros, a real minus sign."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    text = f"{value:.{DIGITS}g}"
    if "e" in text:
        digits, power = text.split("e")
        text = f"{digits}e{int(power)}"
    return ("0" if float(text) == 0 else text).replace("-", "−")


def spaced(length: int, most: int) -> list[int]:
    """At most ``most`` indices into a sequence of ``length``, evenly spread, the first and the last among them."""
    if length <= most:
        return list(range(length))
    return [i * (length - 1) // (most - 1) for i in range(most)]


@dataclass(frozen=True)
class Axis:
    """An interval, its ticks, and whether it is logarithmic."""

    low: float
    high: float
    ticks: list[float]
    log: bool

    def place(self, value: float) -> float:
        """Where ``value`` lies between ``low`` (0) and ``high`` (1)."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def shows(self, value: float) -> bool:
        """Whether ``value`` has a place at all: finite, and positive on a logarithmic axis."""
        return math.isfinite(value) and (value > 0 or not self.log)


def axis_for(values: Sequence[float], log: bool, fixed: tuple[float, float] | None, pad: float) -> Axis:
    """The axis that shows ``values``, a little wider than they are, or exactly the ``fixed`` range.

    Where all values are whole (steps, tokens, counts) the ticks are whole: there is no step 2.5.
    """
    known = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
    if fixed is None and not known:
        raise ValueError("there is no finite value to draw" + (" above 0, as a logarithmic axis needs" if log else ""))
    low, high = fixed or (min(known), max(known))
    whole = all(value == int(value) for value in known)
    if log:
        if fixed is None:
            stretch = (high / low) ** pad if high > low else 2.0
            low, high = low / stretch, high * stretch
        powers = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
        steps = (1,) if len(powers) > 2 else (1, 3) if len(powers) == 2 else (1, 2, 5)
        ends = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        least = max(low, 1.0) if whole else low
        ticks = [step * 10.0**power for power in ends for step in steps if least <= step * 10.0**power <= high]
        if len(ticks) < 2:  # less than a power of ten: equal steps are rounder
            ticks = equal_steps(low, high, whole)
        return Axis(low, high, [float(f"{tick:.6g}") for tick in ticks], True)
    if fixed is None:
        margin = max(pad * (high - low) or max(0.5 * abs(high), float(whole)), TINY)
        low, high = low - margin, high + margin
    return Axis(low, high, equal_steps(low, high, whole), False)


def equal_steps(low: float, high: float, whole: bool) -> list[float]:
    """About five round numbers from ``low`` to ``high``; only ``whole`` ones where at least two of them fit."""
    raw = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw * 0.999)
    if whole and math.floor(high) > math.ceil(low):
        step = max(1.0, math.floor(step))  # 2 instead of 2.5
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{i * step:.6g}") for i in range(first, last + 1)]


def path(points: Sequence[tuple[float, float]], close: bool = False) -> str:
    """A polyline through ``points``; a point that is not finite interrupts it."""
    pieces, pen = [], "M"
    for x, y in points:
        if not math.isfinite(x + y):
            pen = "M"
            continue
        pieces.append(f"{pen}{x:.1f} {y:.1f}")
        pen = "L"
    return f'<path d="{"".join(pieces)}{"Z" if close else ""}"/>' if pieces else ""


def label(x: float, y: float, text: str, anchor: str = "middle") -> str:
    """A text at ``(x, y)``."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def emptiest(
    places: Sequence[tuple[float, float, str]], text: str, drawn: Sequence[tuple[float, float]], size: float = 12
) -> tuple[float, float, str]:
    """The first of the ``places`` ``(x, y, anchor)`` where ``text``, ``size`` high, lies on the fewest ``drawn`` spots.

    SVG cannot measure text without a script: a character counts as 0.53 of the height.
    """
    wide = 0.53 * size * len(text)

    def crowd(place: tuple[float, float, str]) -> int:
        x, y, anchor = place
        left = x - {"start": 0.0, "end": wide}[anchor]
        return sum(left - 4 <= px <= left + wide + 4 and y - size - 2 <= py <= y + 5 for px, py in drawn)

    return min(places, key=crowd)


def filled_in(points: Sequence[tuple[float, float]], steps: int = 40) -> list[tuple[float, float]]:
    """Spots along the polyline through ``points``; a point that is not finite interrupts it."""
    spots = []
    for (x0, y0), (x1, y1) in pairwise(points):
        if math.isfinite(x0 + y0 + x1 + y1):
            spots += [(x0 + (x1 - x0) * k / steps, y0 + (y1 - y0) * k / steps) for k in range(steps + 1)]
    return spots


def point(x: float, y: float, color: str, shape: str = "circle") -> str:
    """A point of one of the ``SHAPES``; they are about equally large."""
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{color}"/>'
    corners = [(x + across, y + down) for across, down in CORNERS[shape.removesuffix("-open")]]
    if shape in STROKED:
        return f'<g stroke="{color}" stroke-width="2.6">{path(corners[:2])}{path(corners[2:])}</g>'
    ink = f'fill="none" stroke="{color}" stroke-width="1.8"' if shape.endswith("-open") else f'fill="{color}"'
    return f"<g {ink}>{path(corners, close=True)}</g>"


def bar(x: float, y: float, width: float, zero: float, color: str) -> str:
    """A bar from the height ``zero`` to ``y``, whose left edge is ``x``."""
    top, height = min(y, zero), abs(y - zero)
    return f'<rect x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{color}"/>'
