"""Charts for the chapters: inline SVG, drawn from plain numbers, that needs no kernel, script or network.

A chart is HTML (an SVG picture, its caption, and its numbers in a folded table) with a text form beside it. Axes and
text take the color of the page around them, so that light and dark pages both work; the picture scales to a phone's
width. Every number is rounded before it is drawn: the same data gives the same bytes, which nbval compares. Drawn by
hand for that: libraries of charts need a script in the page, or their bytes change with version and fonts.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, Self

from ppo_lib.book.drawing import (
    SHAPES,
    Axis,
    axis_for,
    bar,
    emptiest,
    filled_in,
    label,
    number,
    path,
    point,
    rounded,
    spaced,
)

WIDTH, HEIGHT = 480, 290  # of the picture, in its own units; text is 14 of them high
LEFT, RIGHT, BOTTOM = 60.0, 14.0, 44.0
WIDE, HIGH = WIDTH - LEFT - RIGHT, HEIGHT - BOTTOM - 6  # of the area between the axes
LEGEND_ROW = 20
# Told apart by color-blind readers, and in gray by dash pattern and by the shape of points; at least 3 : 1 against
# white and against the dark page.
COLORS = ("#2f7fc1", "#c9661a", "#2f9460", "#9a6fc8", "#d1495b", "#80806f")
DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 3", "4 2")
TABLE_ROWS = 12


@dataclass
class Series:
    """One named set of points, drawn as a line, as points or as bars, perhaps with a band around it."""

    name: str
    kind: str
    x: list[float]
    y: list[float]
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    wide: bool = False
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlotArea:
    """The area between the axes: where a value of each axis stands in the picture."""

    x_axis: Axis
    y_axis: Axis
    top: float

    def x(self, value: float) -> float:
        """Horizontal place of ``value``; NaN when it has none."""
        return LEFT + WIDE * self.x_axis.place(value) if self.x_axis.shows(value) else math.nan

    def y(self, value: float) -> float:
        """Vertical place of ``value``, counted downwards; NaN when it has none."""
        return self.top + HIGH * (1 - self.y_axis.place(value)) if self.y_axis.shows(value) else math.nan

    @property
    def zero(self) -> float:
        """Where bars stand: at 0, or at the edge nearest to it."""
        low, high = self.y_axis.low, self.y_axis.high
        return self.y(low if self.y_axis.log else min(max(low, 0.0), high))


@dataclass
class Figure:
    """A chart: ``Figure("what it shows", x="…", y="…").line(x, y, "name")`` as the last line of a cell shows it.

    Args:
        caption: what the reader should see, a whole sentence.
        x: name and unit of the horizontal axis.
        y: name and unit of the vertical axis.
        log_x: logarithmic horizontal axis.
        log_y: logarithmic vertical axis.
        y_range: lowest and highest value shown, or ``None`` to fit the data.
        stacked: bars of one label stand on each other, not side by side.
    """

    caption: str
    x: str
    y: str
    log_x: bool = False
    log_y: bool = False
    y_range: tuple[float, float] | None = None
    series: list[Series] = field(default_factory=list)
    marks: list[tuple[str, float, str]] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)
    stacked: bool = False

    def line(
        self,
        x: Iterable[Any],
        y: Iterable[Any],
        name: str,
        low: Iterable[Any] | None = None,
        high: Iterable[Any] | None = None,
        wide: bool = False,
    ) -> Self:
        """Add a line; ``low`` and ``high`` draw a band around it, say the spread over seeds.

        A ``wide`` one is drawn as with a marker pen: where it runs along others, both are seen.
        """
        self._add(name, "line", x, y, low, high).series[-1].wide = wide
        return self

    def points(self, x: Iterable[Any], y: Iterable[Any], name: str, labels: Sequence[str] = ()) -> Self:
        """Add unconnected points; ``labels`` are short texts, one at the right of each."""
        self._add(name, "points", x, y).series[-1].labels = tuple(labels)
        return self

    def bars(self, labels: Sequence[str], y: Iterable[Any], name: str) -> Self:
        """Add one bar for each label; several calls with the same labels stand side by side, or on each other."""
        if self.categories and self.categories != list(labels):
            raise ValueError(f"labels of {name!r} differ from those of the first bars; give the same labels")
        self.categories = list(labels)
        return self._add(name, "bars", range(len(labels)), y)

    def mark(self, value: float, label: str, axis: str = "y") -> Self:
        """Add a thin labeled rule across the chart at ``value`` of the ``"x"`` or ``"y"`` axis."""
        if axis not in ("x", "y"):
            raise ValueError(f"axis is {axis!r}, but must be 'x' or 'y'")
        self.marks.append((axis, rounded([value])[0], label))
        return self

    def _add(
        self,
        name: str,
        kind: str,
        x: Iterable[Any],
        y: Iterable[Any],
        low: Iterable[Any] | None = None,
        high: Iterable[Any] | None = None,
    ) -> Self:
        series = Series(
            name,
            kind,
            rounded(x),
            rounded(y),
            rounded([] if low is None else low),
            rounded([] if high is None else high),
        )
        lengths = {len(values) for values in (series.x, series.y, series.low, series.high) if values}
        if len(lengths) != 1 or not series.y:
            raise ValueError(f"series {name!r} needs x, y, low and high of one length, at least 1; got {lengths}")
        self.series.append(series)
        return self

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": self.html(), "text/plain": self.text()}

    def html(self) -> str:
        """The chart as one ``<figure>``: picture, caption, and the numbers in a folded table."""
        return (
            '<figure class="chart" style="max-width:620px;margin:1em 0">'
            f"{self.svg()}<figcaption>{escape(self.caption)}</figcaption>"
            f"<details><summary>The numbers</summary>{self._table()}</details></figure>"
        )

    def text(self) -> str:
        """The chart in words: for terminals, for screen readers, and for nbval."""
        lines = [f"{self.caption} [{self.y} against {self.x or 'label'}]"]
        for one in self.series:
            if one.kind == "bars":
                pairs = zip(self.categories, one.y, strict=True)
                lines.append(f"  {one.name}: " + ", ".join(f"{label} {number(value)}" for label, value in pairs))
                continue
            known = [value for value in one.y if math.isfinite(value)]
            ends = f"from {number(one.y[0])} at {number(one.x[0])} to {number(one.y[-1])} at {number(one.x[-1])}"
            spread = f"; lowest {number(min(known))}, highest {number(max(known))}" if known else ""
            lines.append(f"  {one.name}: {len(one.y)} points, {ends}{spread}")
        lines += [f"  {label} at {axis} = {number(value)}" for axis, value, label in self.marks]
        return "\n".join(lines)

    def svg(self) -> str:
        """The picture alone."""
        legend, top = self._legend()
        x_axis, y_axis = self._axes()
        area, left = PlotArea(x_axis, y_axis, top + 6), room_for(y_axis.ticks)
        return "".join(
            [
                f'<svg viewBox="{-left} 0 {WIDTH + left} {HEIGHT + top}" width="100%" role="img" font-size="14" '
                f'font-family="sans-serif" xmlns="http://www.w3.org/2000/svg"><title>{escape(self.caption)}</title>',
                *legend,
                *self._grid(area),
                # A nested picture cuts off what lies outside y_range, with no id that another figure might also use.
                f'<svg x="{LEFT}" y="{top}" width="{WIDE}" height="{HIGH + 12}" '
                f'viewBox="{LEFT} {top} {WIDE} {HIGH + 12}">',
                *(self._rule(area, *mark) for mark in self.marks),
                *(piece for index in range(len(self.series)) for piece in self._draw(area, index)),
                "</svg></svg>",
            ]
        )

    def _grid(self, area: "PlotArea") -> Iterator[str]:
        """Rules, tick labels and axis names."""
        floor = area.top + HIGH
        rules = [path([(LEFT, area.y(tick)), (LEFT + WIDE, area.y(tick))]) for tick in area.y_axis.ticks]
        yield f'<g stroke="currentColor" stroke-opacity="0.18" fill="none">{"".join(rules)}</g>'
        yield '<g fill="currentColor">'
        for tick in area.y_axis.ticks:
            yield label(LEFT - 7, area.y(tick) + 4, number(tick), "end")
        columns = [(float(i), text) for i, text in enumerate(self.categories)] or [
            (tick, number(tick)) for tick in area.x_axis.ticks
        ]
        # About 7.4 units a character; bars whose labels would run into each other show every second or third one.
        widest = max((7.4 * len(text) + 10 for _, text in columns), default=0.0)
        every = math.ceil(len(self.categories) * widest / WIDE) if self.categories else 1
        for where, text in columns[:: max(1, every)]:
            yield label(area.x(where), floor + 18, text)
        yield label(LEFT + WIDE / 2, floor + 38, self.x)
        yield (
            f'<text transform="translate({13 - room_for(area.y_axis.ticks)} {area.top + HIGH / 2:.1f}) rotate(-90)" '
            f'text-anchor="middle">{escape(self.y)}</text></g>'
        )

    def _rule(self, area: "PlotArea", axis: str, value: float, text: str) -> str:
        """A dashed line across the picture, and its label where it covers the least of what is drawn."""
        if axis == "y":
            level = area.y(value)
            ends = [(LEFT, level), (LEFT + WIDE, level)]
            sides = ((LEFT + 6, "start"), (LEFT + WIDE - 6, "end"))
            places = [(x, y, anchor) for y in (level - 4, level + 14) for x, anchor in sides]
        else:
            across = area.x(value)
            ends = [(across, area.top), (across, area.top + HIGH)]
            sides = ((across + 5, "start"), (across - 5, "end"))
            places = [(x, y, anchor) for y in (area.top + 12, area.top + HIGH - 6) for x, anchor in sides]
        inside = [place for place in places if area.top + 4 <= place[1] <= area.top + HIGH]
        x, y, anchor = emptiest(inside or places, text, self._spots(area))
        return (
            f'<g stroke="currentColor" stroke-opacity="0.6" stroke-dasharray="3 3">{path(ends)}</g>'
            f'<g fill="currentColor" font-size="12">{label(x, y, text, anchor)}</g>'
        )

    def _spots(self, area: "PlotArea") -> list[tuple[float, float]]:
        """Where the picture holds data: the points, what lies between those of a line, and the height of a bar."""
        spots: list[tuple[float, float]] = []
        for one in self.series:
            points = [(area.x(x), area.y(y)) for x, y in zip(one.x, one.y, strict=True)]
            if one.kind == "line":
                spots += filled_in(points)
            elif one.kind == "bars":
                points = [(area.x(x), area.y(y)) for x, y in zip(one.x, self._tops(one), strict=True)]
                spots += [spot for x, y in points for spot in filled_in([(x, area.zero), (x, y)])]
            spots += points
        return spots

    def _draw(self, area: "PlotArea", index: int) -> Iterator[str]:
        """One series: its band, then its line, points or bars."""
        one, (color, dash, shape) = self.series[index], look(index)
        points = [(area.x(x), area.y(y)) for x, y in zip(one.x, one.y, strict=True)]
        if one.kind == "bars":
            bars = [other for other in self.series if other.kind == "bars"]
            width = 0.7 * WIDE / len(self.categories) / (1 if self.stacked else len(bars))
            shift = -width / 2 if self.stacked else (bars.index(one) - len(bars) / 2) * width
            for x, y, top in zip(one.x, one.y, self._tops(one), strict=True):
                if math.isfinite(y):
                    foot = area.y(top - y) if self.stacked else area.zero
                    yield bar(area.x(x) + shift, area.y(top), width, foot, color)
            return
        if one.low and one.high:
            upper = [(area.x(x), area.y(y)) for x, y in zip(one.x, one.high, strict=True)]
            lower = [(area.x(x), area.y(y)) for x, y in zip(one.x, one.low, strict=True)]
            edge = [(x, y) for x, y in upper + lower[::-1] if math.isfinite(x + y)]
            yield f'<g fill="{color}" fill-opacity="0.18">{path(edge, close=True)}</g>'
        if one.kind == "line":
            pen = 'stroke-width="9" stroke-opacity="0.4"' if one.wide else 'stroke-width="2.2"'
            style = f'stroke="{color}" {pen} fill="none" stroke-linejoin="round"'
            yield f"<g {style}{dashes('' if one.wide else dash)}>{path(points)}</g>"
        if one.kind == "points" or len(points) == 1:
            yield from (point(x, y, color, shape) for x, y in points if math.isfinite(x + y))
            for (x, y), text in zip(points, one.labels, strict=False):
                yield f'<g fill="currentColor" font-weight="bold">{label(x + 8, y + 5, text, "start")}</g>'

    def _tops(self, one: Series) -> list[float]:
        """Where the bars of a series end: at their values, or on top of those of the series before it."""
        before = [other for other in self.series if other.kind == "bars"] if self.stacked else [one]
        before = before[: before.index(one) + 1]
        return [
            sum(y for y in column if math.isfinite(y)) for column in zip(*(other.y for other in before), strict=True)
        ]

    def _axes(self) -> tuple[Axis, Axis]:
        across = [value for one in self.series for value in one.x]
        upward = [value for one in self.series for value in (*one.y, *one.low, *one.high)]
        upward += [top for one in self.series if one.kind == "bars" for top in self._tops(one)]
        across += [value for axis, value, _ in self.marks if axis == "x"]
        upward += [value for axis, value, _ in self.marks if axis == "y"]
        if self.categories:
            x_axis = Axis(-0.5, len(self.categories) - 0.5, [], False)
            upward.append(0.0)
        else:
            x_axis = axis_for(across, self.log_x, None, pad=0.02)
        return x_axis, axis_for(upward, self.log_y, self.y_range, pad=0.05)

    def _legend(self) -> tuple[list[str], int]:
        """Rows of swatch and name above the picture, and their height."""
        x, row, out = float(LEFT), 0, []
        for index, one in enumerate(self.series):
            # About 7.4 units a character at this size: SVG cannot measure text without a script.
            needed = 30 + 7.4 * len(one.name) + 14
            if x > LEFT and x + needed > WIDTH:
                x, row = float(LEFT), row + 1
            y = 12 + LEGEND_ROW * row
            color, dash, shape = look(index)
            if one.kind == "line":
                rule = path([(x, y - 4), (x + 24, y - 4)])
                pen = 'stroke-width="9" stroke-opacity="0.4"' if one.wide else f'stroke-width="2.6"{dashes(dash)}'
                out.append(f'<g stroke="{color}" {pen}>{rule}</g>')
            elif one.kind == "points":
                out.append(point(x + 12, y - 4, color, shape))
            else:
                out.append(bar(x + 12, y - 9, 14, y, color))
            out.append(f'<g fill="currentColor">{label(x + 30, y, one.name, "start")}</g>')
            x += needed
        return out, LEGEND_ROW * (row + 1)

    def _table(self) -> str:
        head = "".join(f"<th>{escape(text)}</th>" for text in ("series", self.x, self.y))
        rows = []
        for one in self.series:
            for i in spaced(len(one.y), TABLE_ROWS):
                where = self.categories[i] if one.kind == "bars" else number(one.x[i])
                band = f" ({number(one.low[i])} to {number(one.high[i])})" if one.low and one.high else ""
                cells = (one.name, where, number(one.y[i]) + band)
                rows.append("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in cells) + "</tr>")
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def room_for(ticks: Sequence[float]) -> int:
    """What the picture needs at its left, so that no tick label stands under the axis' name: 7.8 units a character."""
    return math.ceil(max(0.0, 7.8 * max((len(number(tick)) for tick in ticks), default=0) - (LEFT - 7 - 20)))


def look(index: int) -> tuple[str, str, str]:
    """Color, dash pattern and shape of points of the series number ``index``."""
    return COLORS[index % len(COLORS)], DASHES[index % len(DASHES)], SHAPES[index % len(SHAPES)]


def dashes(pattern: str) -> str:
    """The attribute of a dashed line; nothing for a solid one."""
    return f' stroke-dasharray="{pattern}"' if pattern else ""


@dataclass(frozen=True)
class Panels:
    """Charts side by side where there is room, one below the other on a phone."""

    figures: tuple[Figure, ...]

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        cells = "".join(f'<div style="flex:1 1 300px;min-width:0">{figure.html()}</div>' for figure in self.figures)
        html = f'<div class="charts" style="display:flex;flex-wrap:wrap;gap:0 1.5em">{cells}</div>'
        return {"text/html": html, "text/plain": "\n".join(figure.text() for figure in self.figures)}


def panels(*figures: Figure) -> Panels:
    """``panels(a, b)`` as the last line of a cell shows two charts next to each other."""
    return Panels(figures)
