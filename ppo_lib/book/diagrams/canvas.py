"""The paper of the book's drawings: boxes, arrows, words and bars at given places, as SVG with a text form.

A drawing is 360 units wide and as high as it needs: in a window of 390 pixels the page leaves it 332 of them or more,
so that its smallest text, 12 units, is still 11 pixels high there. Words and outlines take the color of the page
around them, tints lie transparent over its ground, and a page may set other tints (``--drawing-blue``): light and
dark pages both work. There is no id in it, so that several stand on one page, and every number is rounded, so that
the same drawing has the same bytes.

What is drawn is also remembered as plain rectangles and lines. By them the tests prove of every drawing that no word
lies on another one, on a line, or outside its box.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from typing import Any, NamedTuple

from ppo_lib.book.diagrams.letters import ASCENT, DESCENT, SMALLEST, SUBSCRIPT, spoken, subscript_size, width_of

WIDTH = 360
# The roles keep their color through the book: policy, judge, reference, critic; what goes wrong; and all the rest.
TONES = {
    "blue": "#2f7fc1",
    "orange": "#c9661a",
    "green": "#2f9460",
    "purple": "#9a6fc8",
    "red": "#d1495b",
    "gray": "#80806f",
}
POLICY, JUDGE, REFERENCE, CRITIC, BAD, PLAIN = TONES
TEXT = "currentColor"
FONT = "system-ui,-apple-system,'Segoe UI','Helvetica Neue',Arial,sans-serif"
NOTE, TOKEN, NORMAL, HEAD = SMALLEST, 13.0, 14.0, 16.0  # the sizes of text
LINE = 1.3  # from one line of text to the next, in units of its size

Point = tuple[float, float]


class Area(NamedTuple):
    """A rectangle of the drawing, and the points where arrows touch it."""

    x: float
    y: float
    width: float
    height: float

    @property
    def top(self) -> Point:
        """Middle of the upper edge."""
        return self.x + self.width / 2, self.y

    @property
    def bottom(self) -> Point:
        """Middle of the lower edge."""
        return self.x + self.width / 2, self.y + self.height

    @property
    def left(self) -> Point:
        """Middle of the left edge."""
        return self.x, self.y + self.height / 2

    @property
    def right(self) -> Point:
        """Middle of the right edge."""
        return self.x + self.width, self.y + self.height / 2

    def holds(self, other: "Area", slack: float = 0.5) -> bool:
        """Whether ``other`` lies inside."""
        return (
            self.x - slack <= other.x
            and self.y - slack <= other.y
            and other.x + other.width <= self.x + self.width + slack
            and other.y + other.height <= self.y + self.height + slack
        )

    def meets(self, other: "Area") -> bool:
        """Whether the two share some area."""
        return (
            self.x < other.x + other.width
            and other.x < self.x + self.width
            and self.y < other.y + other.height
            and other.y < self.y + self.height
        )


class Word(NamedTuple):
    """A line of text as it was placed: the room it takes, its size, and the box it has to stay in."""

    text: str
    area: Area
    size: float
    holder: Area | None


@dataclass
class Drawing:
    """One picture of the book, displayed as the last line of a cell.

    Args:
        title: what the reader should see, a whole sentence; it is the caption.
        description: the picture in words, for those who cannot see it; its text form.
        height: in units of which the picture is :data:`WIDTH` wide.
        widest: of the picture on a large screen, in pixels.
    """

    title: str
    description: str
    height: float
    widest: int = 460
    parts: list[str] = field(default_factory=list)
    words: list[Word] = field(default_factory=list)
    lines: list[tuple[Point, Point]] = field(default_factory=list)
    boxes: list[Area] = field(default_factory=list)
    glyphs: list[Area] = field(default_factory=list)
    marks: list[Area] = field(default_factory=list)
    linked: bool = False

    # ------------------------------------------------------------------------------------------------ what is displayed

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": self.html(), "text/plain": self.text()}

    def html(self) -> str:
        """The picture with its caption."""
        return (
            f'<figure class="drawing" style="max-width:{self.widest}px;margin:1.2em auto;padding:0">'
            f"{self.svg()}<figcaption>{escape(self.title)}</figcaption></figure>"
        )

    def text(self) -> str:
        """The picture in words."""
        return f"{self.title}\n{self.description}"

    def svg(self) -> str:
        """The picture alone."""
        role = "group" if self.linked else "img"  # what stands in an image is no link for who hears the page
        return (
            f'<svg viewBox="0 0 {WIDTH} {number(self.height)}" width="100%" role="{role}" font-family="{FONT}" '
            f'font-size="{number(NORMAL)}" fill="{TEXT}" xmlns="http://www.w3.org/2000/svg">'
            f"<title>{escape(self.title)}</title><desc>{escape(self.description)}</desc>{''.join(self.parts)}</svg>"
        )

    # ---------------------------------------------------------------------------------------------------- words

    def write(
        self,
        x: float,
        y: float,
        *lines: str,
        size: float = NOTE,
        anchor: str = "middle",
        bold: bool = False,
        faint: bool = False,
        tone: str | None = None,
        holder: Area | None = None,
        upright: bool = False,
    ) -> None:
        """Lines of text, the first one standing on the height ``y``.

        Args:
            x, y: where the text starts, has its middle or ends, as ``anchor`` says.
            lines: one below the other.
            size: one of the sizes.
            anchor: ``"start"``, ``"middle"`` or ``"end"``.
            bold: heavy letters.
            faint: half withdrawn, for what is said in passing.
            tone: the words' own color, mixed with the page's so that it stays readable.
            holder: the area that the words must not leave; the whole picture if not given.
            upright: a single line that is read from below, starting at ``(x, y)``, whatever the anchor.
        """
        look = f'font-size="{number(size)}"' + (' font-weight="600"' if bold else "")
        look += ' fill-opacity="0.75"' if faint else ""
        look += f' style="fill:color-mix(in srgb,{color(tone)} 60%,currentColor)"' if tone else ""
        if upright:
            area = Area(x - ASCENT * size / 2, y - width_of(lines[0], size, bold), size, width_of(lines[0], size, bold))
            self.words.append(Word(spoken(lines[0]), area, size, holder))
            turned = f"translate({number(x + ASCENT * size / 2)} {number(y)}) rotate(-90)"
            self.parts.append(f'<text transform="{turned}" {look}>{marked(lines[0], size)}</text>')
            return
        for row, line in enumerate(lines):
            base = y + row * LINE * size
            wide = width_of(line, size, bold)
            start = x - {"start": 0.0, "middle": wide / 2, "end": wide}[anchor]
            area = Area(start, base - ASCENT * size, wide, (ASCENT + DESCENT) * size)
            self.words.append(Word(spoken(line), area, size, holder))
            self.parts.append(
                f'<text x="{number(x)}" y="{number(base)}" text-anchor="{anchor}" {look}>{marked(line, size)}</text>'
            )

    # ---------------------------------------------------------------------------------------------------- shapes

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *lines: str,
        tone: str = PLAIN,
        dashed: bool = False,
        strong: bool = False,
        head: float = NORMAL,
        left: float = 0.0,
    ) -> Area:
        """A box with a bold first line and the rest small below it, in the middle of the box.

        Args:
            x, y, width, height: its place.
            lines: the text; none for an empty frame.
            tone: its color, one of :data:`TONES`.
            dashed: what is frozen has a dashed edge.
            strong: a deeper tint, for what the picture is about.
            head: size of the first line.
            left: room kept free at the left, for a small picture.
        """
        area = Area(x, y, width, height)
        self.boxes.append(area)
        edge = ' stroke-dasharray="5 3.5"' if dashed else ""
        tint, line = (0.34, 2.4) if strong else (0.13, 1.5)
        self.parts.append(
            f'<rect x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}" rx="9" '
            f'fill="{color(tone)}" fill-opacity="{tint}" stroke="{color(tone)}" stroke-width="{line}"{edge}/>'
        )
        if lines:
            rest = len(lines) - 1
            tall = head + rest * LINE * NOTE
            base = y + (height - tall) / 2 + head * 0.85
            middle = x + left + (width - left) / 2
            self.write(middle, base, lines[0], size=head, bold=True, holder=area)
            self.write(middle, base + LINE * NOTE + (head - NOTE) * 0.2, *lines[1:], holder=area)
        return area

    def token(
        self, x: float, y: float, text: str, tone: str = PLAIN, width: float | None = None, strong: bool = False
    ) -> Area:
        """A token: a small box around a word, ``x`` its left edge, ``y`` its upper one; 24 high."""
        wide = width or token_width(text)
        area = Area(x, y, wide, 24)
        self.boxes.append(area)
        self.parts.append(
            f'<rect x="{number(x)}" y="{number(y)}" width="{number(wide)}" height="24" rx="5" fill="{color(tone)}" '
            f'fill-opacity="{0.34 if strong else 0.13}" stroke="{color(tone)}"/>'
        )
        self.write(x + wide / 2, y + 16.5, text, size=TOKEN, holder=area)
        return area

    def token_row(
        self, middle: float, y: float, texts: Sequence[str], tone: str = PLAIN, gap: float = 6.0
    ) -> list[Area]:
        """Tokens side by side, their middle at ``middle``."""
        x = middle - (sum(token_width(text) for text in texts) + gap * (len(texts) - 1)) / 2
        areas = []
        for text in texts:
            areas.append(self.token(x, y, text, tone))
            x += areas[-1].width + gap
        return areas

    def bar(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        tone: str = PLAIN,
        faint: bool = False,
        hollow: bool = False,
    ) -> Area:
        """A plain bar from its upper left corner; ``hollow`` draws its dashed outline alone."""
        look = (
            f'fill="none" stroke="{color(tone)}" stroke-width="1.3" stroke-dasharray="3 2.5"'
            if hollow
            else f'fill="{color(tone)}"' + (' fill-opacity="0.4"' if faint else "")
        )
        self.parts.append(
            f'<rect x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}" rx="2" {look}/>'
        )
        self.marks.append(Area(x, y, width, height))
        return self.marks[-1]

    def dot(self, x: float, y: float, radius: float, tone: str = PLAIN, hollow: bool = False) -> Area:
        """A disc, or a ring."""
        look = f'fill="none" stroke="{color(tone)}" stroke-width="1.5"' if hollow else f'fill="{color(tone)}"'
        self.parts.append(f'<circle cx="{number(x)}" cy="{number(y)}" r="{number(radius)}" {look}/>')
        self.marks.append(Area(x - radius, y - radius, 2 * radius, 2 * radius))
        return self.marks[-1]

    @contextmanager
    def link(self, address: str) -> Iterator[None]:
        """What is drawn inside leads to an address."""
        self.linked = True
        self.parts.append(f'<a href="{escape(address)}">')
        yield
        self.parts.append("</a>")

    def stroke(self, *points: Point, tone: str = TEXT, width: float = 1.5, dashed: bool = False) -> None:
        """A line through some points, with round corners."""
        self.lines += list(pairwise(points))
        edge = ' stroke-dasharray="5 3.5"' if dashed else ""
        self.parts.append(
            f'<path d="{rounded_path(points)}" fill="none" stroke="{color(tone)}" stroke-width="{number(width)}" '
            f'stroke-linecap="round" stroke-linejoin="round"{edge}/>'
        )

    def trace(self, points: Sequence[Point], tone: str = TEXT, width: float = 2.5) -> None:
        """A line of data, without round corners."""
        self.lines += list(pairwise(points))
        place = "L".join(f"{number(x)} {number(y)}" for x, y in points)
        self.curve(f"M{place}", tone, width)

    def arrow(self, *points: Point, tone: str = TEXT, width: float = 1.6, dashed: bool = False) -> None:
        """A line through some points that ends in a head."""
        (x0, y0), (x1, y1) = points[-2:]
        length, size = math.hypot(x1 - x0, y1 - y0), 6.5 + width
        along, aside = ((x1 - x0) / length, (y1 - y0) / length), (-(y1 - y0) / length, (x1 - x0) / length)
        neck = (x1 - along[0] * size * 0.8, y1 - along[1] * size * 0.8)
        self.stroke(*points[:-1], neck, tone=tone, width=width, dashed=dashed)
        corners = [
            (x1 - along[0] * size + side * aside[0] * size * 0.5, y1 - along[1] * size + side * aside[1] * size * 0.5)
            for side in (1, -1)
        ]
        self.shape([(x1, y1), *corners], tone)

    def shape(self, points: Sequence[Point], tone: str = TEXT, tint: float = 1.0, edge: bool = False) -> None:
        """A filled area with straight edges."""
        line = f' stroke="{color(tone)}" stroke-width="1.5" stroke-linejoin="round"' if edge else ""
        (left, right), (top, low) = ((min(at), max(at)) for at in zip(*points, strict=True))
        self.marks.append(Area(left, top, right - left, low - top))
        place = "L".join(f"{number(x)} {number(y)}" for x, y in points)
        tinted = f' fill-opacity="{tint:.2f}"' if tint < 1 else ""
        self.parts.append(f'<path d="M{place}Z" fill="{color(tone)}"{tinted}{line}/>')

    def curve(self, path: str, tone: str = TEXT, width: float = 1.5, tint: float = 0.0, dashed: bool = False) -> None:
        """Any path in SVG's own language; with a ``tint`` it is filled."""
        filled = f'fill="{color(tone)}" fill-opacity="{tint:.2f}"' if tint else 'fill="none"'
        edge = ' stroke-dasharray="5 3.5"' if dashed else ""
        self.parts.append(
            f'<path d="{path}" {filled} stroke="{color(tone)}" stroke-width="{number(width)}" '
            f'stroke-linecap="round" stroke-linejoin="round"{edge}/>'
        )


def color(tone: str) -> str:
    """The value of a tone: the page's own where it sets one."""
    return tone if tone == TEXT else f"var(--drawing-{tone},{TONES[tone]})"


def token_width(text: str) -> float:
    """How wide a token with that text is."""
    return width_of(text, TOKEN) + 11


def number(value: float) -> str:
    """A coordinate with at most one digit after the point."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def marked(text: str, size: float) -> str:
    """The text for SVG; what stands in ``_{…}`` is set lower."""
    pieces = SUBSCRIPT.split(text)
    drop, small = number(size * 0.22), number(subscript_size(size))
    out = escape(pieces[0])
    for below, after in zip(pieces[1::2], pieces[2::2], strict=True):
        out += f'<tspan dy="{drop}" font-size="{small}">{escape(below)}</tspan>'
        out += f'<tspan dy="-{drop}">{escape(after)}</tspan>' if after else ""
    return out


def rounded_path(points: Sequence[Point], radius: float = 9.0) -> str:
    """A path through the points whose corners are round."""
    out = f"M{number(points[0][0])} {number(points[0][1])}"
    for before, (x, y), after in zip(points, points[1:], points[2:], strict=False):
        ends = []
        for px, py in (before, after):
            length = math.hypot(px - x, py - y)
            share = min(radius, length / 2) / length if length else 0.0
            ends.append((x + (px - x) * share, y + (py - y) * share))
        (ax, ay), (bx, by) = ends
        out += f"L{number(ax)} {number(ay)}Q{number(x)} {number(y)} {number(bx)} {number(by)}"
    return out + f"L{number(points[-1][0])} {number(points[-1][1])}"
