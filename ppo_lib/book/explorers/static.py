"""The static form: HTML with the whole grid as JSON, for pages that have no kernel and perhaps no script.

The start frame stands there as a table, a sentence and an SVG picture, readable on GitHub, before running, and with
scripts off. Where the book's script (``book/web/explorers.js``) runs, it adds the sliders, counts which frame they
point at, and shows that frame. It computes nothing else: every number below was computed by the explorer's function.
By hand, since widgets saved in a page show a value beside the frame of another, or bring megabytes to each page.
"""

import json
import math
from collections.abc import Hashable, Iterable
from dataclasses import replace
from html import escape
from itertools import zip_longest
from typing import Any

from ppo_lib.book.drawing import rounded
from ppo_lib.book.explorers.core import Curve, Frame, Panel, Sliders, Strip
from ppo_lib.book.explorers.plots import curves_of, layout, picture, plain, style, swatch


class Table:
    """Things by index, each stored once: most frames share most of their texts and curves."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.index: dict[Hashable, int] = {}

    def add(self, item: Any) -> int:
        """The index of ``item``, which is stored if it is new."""
        key = tuple(item) if isinstance(item, list) else item
        if key not in self.index:
            self.index[key] = len(self.items)
            self.items.append(item)
        return self.index[key]


def shape(frame: Frame) -> tuple[Any, ...]:
    """What must be the same in every frame of an explorer, since the page builds it once."""
    curves = tuple((one.name, one.kind, one.panel, one.labels, one.spread) for one in frame.curves)
    return curves, len(frame.rows), tuple(one.caption for one in frame.strips)


def changing(rows: list[list[int]]) -> list[int]:
    """The columns that do not hold one number throughout."""
    return [i for i, column in enumerate(zip(*rows, strict=True)) if len(set(column)) > 1]


def span(ends: list[float], log: bool) -> tuple[float, float]:
    """The stretch of an axis that holds these numbers, with a margin on both sides."""
    low, high = (math.log10(end) if log else end for end in (min(ends), max(ends)))
    margin = 0.05 * ((high - low) or abs(high) or 1.0)
    low, high = rounded([low - margin, high + margin])
    return (10**low, 10**high) if log else (low, high)


def fixed(panel: Panel, drawn: list[Curve]) -> Panel:
    """The picture with axes that hold all of these curves: a slider then moves the curves, and not the axes too."""
    across = [x for one in drawn for x in one.x if not isinstance(x, str)]
    heights = [
        y + sign * half
        for one in drawn
        for y, half in zip_longest(one.y, one.spread, fillvalue=0.0)
        for sign in (-1, 1)
    ]
    heights = [y for y in heights if math.isfinite(y)] + [0.0] * any(one.kind == "bars" for one in drawn)
    return replace(
        panel,
        x_range=panel.x_range or (span(across, panel.log_x) if across else None),
        y_range=panel.y_range or span(heights, panel.log_y),
    )


def payload(explorer: Sliders) -> dict[str, Any]:
    """The whole grid as the page's script reads it.

    ``frames[i]`` holds indices: of ``texts`` for each place in ``varying``, counted over the sentence and then the
    cells row by row; of ``arrays`` for each place in ``moving``, counted over x and y of each curve, by picture;
    and of ``tokens`` for each strip. What never changes is not repeated: texts stand in the page, arrays in ``still``.

    Raises:
        ValueError: a frame with other curves or rows than the first.
    """
    first = explorer.frame(**explorer.start())
    texts, arrays, tokens = Table(), Table(), Table()
    frames: list[list[Any]] = []
    drawn: list[list[Curve]] = [[] for _ in explorer.panels]
    for setting in explorer.settings():
        frame = explorer.frame(**setting)
        for k, seen in enumerate(drawn):
            seen += curves_of(frame, k)
        if shape(frame) != shape(first):
            raise ValueError(f"{explorer.name} at {setting} has other curves or rows than at its start")
        cells = [texts.add(cell) for row in frame.rows for cell in row]
        curves = [
            arrays.add([plain(value) for value in values])
            for panel in range(len(explorer.panels))
            for one in curves_of(frame, panel)
            for values in (one.x, one.y)
        ]
        strips = [[tokens.add(list(token)) for token in one.tokens] for one in frame.strips]
        frames.append([[texts.add(frame.sentence), *cells], curves, *([strips] if strips else [])])
    still = list(frames[0][1])
    varying, moving = (changing([one[part] for one in frames]) for part in (0, 1))
    for one in frames:
        one[:2] = [one[0][i] for i in varying], [one[1][i] for i in moving]
    return {
        "varying": varying,
        "moving": moving,
        "still": still,
        "parameters": [
            {"label": one.label, "texts": [one.text(value) for value in one.grid], "start": one.grid.index(one.start)}
            for one in explorer.parameters
        ],
        "panels": [
            {
                "traces": [style(one, i) for i, one in enumerate(curves_of(first, k))],
                "layout": layout(fixed(panel, drawn[k]), curves_of(first, k)),
            }
            for k, panel in enumerate(explorer.panels)
        ],
        "texts": texts.items,
        "arrays": arrays.items,
        "tokens": tokens.items,
        "frames": frames,
    }


def numbers(explorer: Sliders, frame: Frame) -> str:
    """The table; the script swaps the text of what carries ``data-text``. A table of pairs needs no head."""
    named = "".join(f'<th scope="col">{escape(text)}</th>' for text in explorer.header)
    rows = "".join(
        f'<tr><th scope="row" data-text>{escape(row[0])}</th>'
        + "".join(f"<td data-text>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in frame.rows
    )
    head = f"<thead><tr>{named}</tr></thead>" if explorer.header[0] else ""
    return f"<table>{head}<tbody>{rows}</tbody></table>"


def legend(frame: Frame, panel: int) -> str:
    """Names of the curves of one picture, each beside its sign."""
    items = "".join(f"<li>{swatch(one, i)} {escape(one.name)}</li>" for i, one in enumerate(curves_of(frame, panel)))
    return f'<ul class="explorer-legend">{items}</ul>'


def tokens_html(strips: Iterable[Strip]) -> str:
    """Colored tokens, each strip below its caption."""
    return "".join(
        f'<div class="explorer-strip"><p>{escape(one.caption)}</p><div class="explorer-tokens">'
        + "".join(
            f'<span class="tint{level}"><b>{escape(token)}</b> {value}</span>' for token, value, level in one.tokens
        )
        + "</div></div>"
        for one in strips
    )


def html(explorer: Sliders) -> str:
    """One ``<section class="explorer">``: start frame readable as it stands, whole grid as JSON."""
    frame = explorer.frame(**explorer.start())
    settings = ", ".join(f"{escape(one.label)} = {escape(one.text(one.start))}" for one in explorer.parameters)
    pictures = "".join(
        f"<figure>{legend(frame, k)}"
        f'<div class="explorer-picture" role="img" aria-label="{escape(panel.caption)}">'
        f"{picture(panel, frame, k)}</div><figcaption>{escape(panel.caption)}</figcaption></figure>"
        for k, panel in enumerate(explorer.panels)
    )
    # "<" never stands in the JSON, so that no text of a model can end the script element.
    grid = json.dumps(payload(explorer), ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f'<section class="explorer" id="explorer-{explorer.name}" aria-label="Explorer: {escape(explorer.title)}">'
        f'<p class="explorer-title">{escape(explorer.title)}</p>'
        f'<div class="explorer-settings">{settings}</div>'
        f'<div class="explorer-pictures">{pictures}</div>'
        f'<p class="explorer-sentence" data-text aria-live="polite">{escape(frame.sentence)}</p>'
        f"{tokens_html(frame.strips)}"
        '<div class="explorer-numbers" tabindex="0" role="group" aria-label="The numbers">'
        f"{numbers(explorer, frame)}</div>"
        f'<script type="application/json">{grid}</script></section>'
    )
