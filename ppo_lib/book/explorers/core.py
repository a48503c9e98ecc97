"""What an explorer is made of: sliders, and one Python function of their values.

The function calls ppo_lib and returns a :class:`Frame`: curves, numbers already formatted as text, and a sentence. The
published page, the live widget, the text form and the tests all call that one function. Nothing is computed anywhere
else. Here is the plain data, which knows no form; :class:`ppo_lib.book.explorers.explorer.Explorer` chooses one.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ppo_lib.book.drawing import number, rounded

Value = float | str
Kind = Literal["line", "points", "bars"]
NOISE = 1e-9  # below it a number of the book's examples is a zero that was computed in floating point


@dataclass(frozen=True)
class Parameter:
    """One slider.

    Attributes:
        name: the argument of the explorer's function.
        label: symbol and name, as the reader sees them.
        grid: the values that the published page offers, rising; or texts to choose from. A single value is shown but
            gets no slider there: only the live form moves it.
        start: the value at first sight, one of ``grid``.
        unit: of the value, or empty.
        span: lowest and highest value of the live form; the ends of ``grid`` by default.
        step: of the live slider; a hundredth of the span by default. Any value can be typed.
        log: a logarithmic live slider.
        listed: only the values of ``grid`` mean something (recorded runs, say), in the live form too.
    """

    name: str
    label: str
    grid: tuple[Value, ...]
    start: Value
    unit: str = ""
    span: tuple[float, float] | None = None
    step: float | None = None
    log: bool = False
    listed: bool = False

    def __post_init__(self) -> None:
        if self.start not in self.grid:
            raise ValueError(f"start of {self.name!r} is {self.start!r}, but must be one of its grid {self.grid}")

    def text(self, value: Value) -> str:
        """``value`` as the reader sees it, with its unit."""
        shown = value if isinstance(value, str) else number(float(value))
        return f"{shown} {self.unit}".rstrip()


@dataclass(frozen=True)
class Curve:
    """Points of one series; every number has four digits, so that the same formula gives the same bytes.

    Attributes:
        name: in the legend; the same in every frame.
        x: numbers, or texts (categories) below bars.
        y: numbers; NaN interrupts a line.
        kind: ``"line"``, ``"points"`` or ``"bars"``.
        panel: index of the picture it stands in.
        labels: a short text at each point, or none; the same in every frame.
        spread: half the length of the error bar at each point, or none; the same in every frame.
    """

    name: str
    x: tuple[Value, ...]
    y: tuple[float, ...]
    kind: Kind = "line"
    panel: int = 0
    labels: tuple[str, ...] = ()
    spread: tuple[float, ...] = ()


def quiet(values: Iterable[Any]) -> list[float]:
    """Four digits of each value, and 0 for what is only the rounding noise of a processor."""
    return [0.0 if abs(value) < NOISE else value for value in rounded(values)]


def short(value: Any, digits: int = 4) -> str:
    """One number (or tensor of one) as text with so many significant digits, free of rounding noise."""
    plain = float(value)
    return number(0.0 if abs(plain) < NOISE else float(f"{plain:.{digits}g}"))


def curve(
    name: str,
    x: Iterable[Any],
    y: Iterable[Any],
    kind: Kind = "line",
    panel: int = 0,
    labels: Sequence[str] = (),
    spread: Iterable[Any] = (),
) -> Curve:
    """A :class:`Curve` from any numbers (tensors too), rounded to four digits.

    Raises:
        ValueError: x, y, labels or spread of different lengths, or nothing to draw.
    """
    across: list[Any] = list(x)
    places = tuple(across) if across and isinstance(across[0], str) else tuple(quiet(across))
    heights = tuple(quiet(y))
    bars = tuple(quiet(spread))
    lengths = {len(one) for one in (places, heights, labels or heights, bars or heights)}
    if len(lengths) != 1 or not heights:
        raise ValueError(f"curve {name!r} has x, y, labels or spread of different lengths {sorted(lengths)}, or none")
    return Curve(name, places, heights, kind, panel, tuple(labels), bars)


@dataclass(frozen=True)
class Panel:
    """One picture: the names of its axes with their units, and what they span (``None``: all that the grid holds)."""

    caption: str
    x: str
    y: str
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    log_x: bool = False
    log_y: bool = False
    stacked: bool = False


@dataclass(frozen=True)
class Strip:
    """A response token by token, each on a tint of its value; see :func:`strip`.

    Attributes:
        caption: what the values are, with their unit.
        tokens: text, value as text, and tint from -4 (orange) over 0 (none) to 4 (blue).
    """

    caption: str
    tokens: tuple[tuple[str, str, int], ...]


def strip(caption: str, tokens: Sequence[str], values: Iterable[Any], scale: float) -> Strip:
    """Tokens with their values as tint and as text; ``scale`` is the value of the full tint."""
    numbers = rounded(values)
    levels = [round(4 * min(1.0, max(-1.0, value / scale))) if value == value else 0 for value in numbers]
    shown = [token.replace("\n", "↵").replace(" ", "␣") for token in tokens]
    short = [number(float(f"{value:.2g}")) for value in numbers]
    return Strip(caption, tuple(zip(shown, short, levels, strict=True)))


@dataclass(frozen=True)
class Frame:
    """What an explorer shows at one setting of its sliders.

    Attributes:
        curves: the same names, kinds and panels at every setting.
        rows: of the table below the picture, texts; the same number at every setting.
        sentence: what to see here, a whole sentence.
        strips: colored tokens, if the explorer has any.
    """

    curves: tuple[Curve, ...]
    rows: tuple[tuple[str, ...], ...]
    sentence: str
    strips: tuple[Strip, ...] = ()


@dataclass(frozen=True, repr=False)
class Sliders:
    """An explorer without a form: sliders, and the function that they move.

    Attributes:
        name: short and unique, part of the page's anchors.
        title: the question that the explorer answers.
        parameters: the sliders.
        function: of the parameters by name, giving a :class:`Frame`.
        panels: the pictures.
        header: of the table of numbers; empty texts for pairs of name and value.
    """

    name: str
    title: str
    parameters: tuple[Parameter, ...]
    function: Callable[..., Frame]
    panels: tuple[Panel, ...]
    header: tuple[str, ...] = ("", "")

    def settings(self) -> Iterator[dict[str, Value]]:
        """Every grid point, the last parameter moving fastest: the order in which the page counts its frames."""
        names = [parameter.name for parameter in self.parameters]
        for values in itertools.product(*(parameter.grid for parameter in self.parameters)):
            yield dict(zip(names, values, strict=True))

    def start(self) -> dict[str, Value]:
        """The setting at first sight."""
        return {parameter.name: parameter.start for parameter in self.parameters}

    def frame(self, **values: Value) -> Frame:
        """The frame at ``values``; parameters left out keep their start value.

        Raises:
            ValueError: a name that is no parameter, or curves, rows or texts that do not fit the pictures and header.
        """
        unknown = sorted(set(values) - set(self.start()))
        if unknown:
            raise ValueError(f"{unknown[0]!r} is no parameter of {self.name}; it has {', '.join(self.start())}")
        frame = self.function(**(self.start() | values))
        if any(one.panel >= len(self.panels) for one in frame.curves):
            raise ValueError(f"{self.name} draws into a picture beyond its {len(self.panels)}")
        if any(len(row) != len(self.header) for row in frame.rows):
            raise ValueError(f"{self.name} has a row that is not {len(self.header)} texts long, as its header is")
        return frame

    def text(self, **values: Value) -> str:
        """The frame at ``values`` in words: for terminals and for screen readers."""
        frame, setting = self.frame(**values), self.start() | values
        chosen = ", ".join(f"{one.label} = {one.text(setting[one.name])}" for one in self.parameters)
        table = [self.header, *frame.rows] if any(self.header) else list(frame.rows)
        widths = [max(len(row[i]) for row in table) for i in range(len(self.header))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
        ]
        for one in frame.strips:
            lines += [one.caption, " ".join(f"{token} {value}" for token, value, _ in one.tokens)]
        return "\n".join([self.title, chosen, frame.sentence, *lines])
