"""How a frame is drawn: Plotly's traces and layout as plain dictionaries, and the start frame as SVG.

The published page and the live widget use the same dictionaries, so that they show the same picture.
"""

import math
from dataclasses import replace
from typing import Any

from ppo_lib.book.drawing import SHAPES, bar, path, point, rounded
from ppo_lib.book.explorers.core import Curve, Frame, Panel, Value
from ppo_lib.book.figures import COLORS, DASHES, Figure, dashes

HEIGHT = 290  # of one picture, in pixels
PATTERNS = ("", "/", "x", "-", ".", "|")
FILLINGS = {  # of a box of the legend, from 6, 1 to 22, 13: what Plotly fills the bar with
    "/": "M7 12L13 2M13 12L19 2",
    "x": "M7 12L13 2M13 12L19 2M9 2L15 12M15 2L21 12",
    "-": "M7 4L21 4M7 7L21 7M7 10L21 10",
    ".": "M9 4L11 4M13 4L15 4M17 4L19 4M9 7L11 7M13 7L15 7M17 7L19 7M9 10L11 10M13 10L15 10M17 10L19 10",
    "|": "M10 2L10 12M14 2L14 12M18 2L18 12",
}
RULE = "rgba(128,128,128,0.25)"


def curves_of(frame: Frame, panel: int) -> list[Curve]:
    """The curves of one picture, in the order in which they get their colors."""
    return [one for one in frame.curves if one.panel == panel]


def plain(value: Value) -> Value | None:
    """A number as JSON writes it shortest; NaN, which JSON lacks, is null."""
    if isinstance(value, str):
        return value
    if not math.isfinite(value):
        return None
    return int(value) if value == int(value) and abs(value) < 1e15 else value


def style(one: Curve, index: int) -> dict[str, Any]:
    """Everything of a trace but its data: color, and a dash, symbol or pattern that tells it apart without color."""
    color = COLORS[index % len(COLORS)]
    if one.kind == "bars":
        shape = PATTERNS[index % len(PATTERNS)]
        pattern = {"shape": shape, "fgcolor": color, "bgcolor": "rgba(0,0,0,0)", "solidity": 0.5, "size": 7}
        filled = {"color": color, "line": {"color": color, "width": 1.5}} | ({"pattern": pattern} if shape else {})
        return {"type": "bar", "name": one.name, "marker": filled}
    if one.kind == "line":
        pattern_px = ",".join(f"{part}px" for part in DASHES[index % len(DASHES)].split()) or "solid"
        line = {"color": color, "width": 2.5, "dash": pattern_px}
        return {"type": "scatter", "mode": "lines", "name": one.name, "line": line}
    shape = SHAPES[index % len(SHAPES)]
    mark = {"color": color, "size": 11, "symbol": shape} | ({"line": {"width": 2}} if "-open" in shape else {})
    drawn = {"type": "scatter", "mode": "markers", "name": one.name, "marker": mark, "cliponaxis": False}
    if one.spread:
        drawn["error_y"] = {"type": "data", "array": [plain(half) for half in one.spread], "thickness": 1.5, "width": 5}
    if one.labels:
        drawn |= {"mode": "markers+text", "text": list(one.labels), "textposition": "top center"}
    return drawn


def traces(frame: Frame, panel: int) -> list[dict[str, Any]]:
    """Plotly's traces of one picture, data included."""
    return [
        style(one, i) | {"x": [plain(x) for x in one.x], "y": [plain(y) for y in one.y]}
        for i, one in enumerate(curves_of(frame, panel))
    ]


def axis(name: str, span: tuple[float, float] | None, log: bool) -> dict[str, Any]:
    """One axis with its name, what it spans, and faint rules."""
    drawn: dict[str, Any] = {
        "title": {"text": name},
        "gridcolor": RULE,
        "zerolinecolor": "rgba(128,128,128,0.6)",
        "fixedrange": True,
    }
    if log:
        # One label for each power of ten and, within it, only 2 and 5.
        drawn |= {"type": "log", "dtick": "D2", "tickformat": "~g"}
    if span is not None:
        drawn |= {"range": rounded(math.log10(end) for end in span) if log else list(span), "autorange": False}
    return drawn


def layout(panel: Panel, drawn: list[Curve]) -> dict[str, Any]:
    """Plotly's layout of one picture with these curves, on the ground of the page around it."""
    across = axis(panel.x, panel.x_range, panel.log_x)
    if any(isinstance(one.x[0], str) for one in drawn):
        across["type"] = "category"  # "0.1" is a name here, and stands no nearer to "0.2" than to "0.05"
    return {
        "height": HEIGHT,
        "margin": {"l": 58, "r": 14, "t": 12, "b": 46},
        "font": {"size": 13, "family": "system-ui, sans-serif"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "showlegend": False,
        "bargap": 0.3,
        "barmode": "stack" if panel.stacked else "group",
        "xaxis": across,
        "yaxis": axis(panel.y, panel.y_range, panel.log_y),
    }


def picture(panel: Panel, frame: Frame, index: int) -> str:
    """One picture as SVG: what a reader without scripts sees, and all readers until the script has come."""
    figure = Figure(panel.caption, panel.x, panel.y, panel.log_x, panel.log_y, panel.y_range, stacked=panel.stacked)
    for one in curves_of(frame, index):
        if one.kind != "bars" and isinstance(one.x[0], str):
            figure.categories = figure.categories or [str(x) for x in one.x]
            one = replace(one, x=tuple(float(figure.categories.index(str(x))) for x in one.x))
        if one.kind == "bars":
            figure.bars([str(x) for x in one.x], one.y, one.name)
        elif one.kind == "points":
            figure.points(one.x, one.y, one.name)
        else:
            figure.line(one.x, one.y, one.name)
    return figure.svg()


def swatch(one: Curve, index: int) -> str:
    """The sign of a series in the legend, as a small SVG."""
    color = COLORS[index % len(COLORS)]
    if one.kind == "line":
        pattern = dashes(DASHES[index % len(DASHES)])
        drawn = f'<g stroke="{color}" stroke-width="2.6"{pattern}>{path([(0, 7), (28, 7)])}</g>'
    elif one.kind == "points":
        drawn = point(14, 7, color, SHAPES[index % len(SHAPES)])
    else:
        shape = PATTERNS[index % len(PATTERNS)]
        inner = f'<path d="{FILLINGS[shape]}" stroke="{color}"/>' if shape else bar(6, 1, 16, 13, color)
        drawn = inner + f'<path d="M6 1L22 1L22 13L6 13Z" fill="none" stroke="{color}" stroke-width="1.5"/>'
    return f'<svg viewBox="0 0 28 14" width="28" height="14" aria-hidden="true">{drawn}</svg>'
