"""Tables and colored tokens for the chapters: HTML with a text form, from numbers already rounded."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from ppo_lib.book.drawing import number, rounded


@dataclass(frozen=True)
class Shown:
    """Something a notebook displays: its HTML and the same as text."""

    html: str
    text: str

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": self.html, "text/plain": self.text}


def cell_text(value: Any) -> str:
    """A cell: text as it is, whole numbers whole, floats with four digits, ``None`` as a dash."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | str):
        return str(value).replace("-", "−") if isinstance(value, int) else value
    return number(rounded([value])[0])


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> Shown:
    """A table as the last line of a cell: numbers right-aligned and rounded to four digits.

    Args:
        header: names of the columns, with units.
        rows: one sequence for each row, as long as the header; numbers, tensors of one number, or text.
        caption: what the reader should see.

    Raises:
        ValueError: a row of another length than the header.
    """
    body = [list(row) for row in rows]
    for row in body:
        if len(row) != len(header):
            raise ValueError(f"a row has {len(row)} cells and the header {len(header)}: {row}")
    texts = [[cell_text(value) for value in row] for row in body]
    numeric = [bool(body) and all(not isinstance(row[i], str) for row in body) for i in range(len(header))]
    styles = [' style="text-align:right"' if right else ' style="text-align:left"' for right in numeric]
    head = "".join(f"<th{style}>{escape(name)}</th>" for name, style in zip(header, styles, strict=True))
    lines = "".join(
        "<tr>" + "".join(f"<td{style}>{escape(text)}</td>" for text, style in zip(row, styles, strict=True)) + "</tr>"
        for row in texts
    )
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    html = (
        '<div class="table-scroll" style="overflow-x:auto">'
        f'<table class="dataframe">{title}<thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'
    )
    widths = [max(len(row[i]) for row in [list(header), *texts]) for i in range(len(header))]
    aligned = [
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in [list(header), *texts]
    ]
    return Shown(html, "\n".join([caption, *aligned] if caption else aligned))


def token_strip(tokens: Sequence[str], values: Iterable[Any], caption: str, scale: float | None = None) -> Shown:
    """A response token by token, each on a tint of its value and with the value below it.

    Blue is positive, orange negative; the number stands there too, so nothing rests on color alone.

    Args:
        tokens: the texts of the tokens; spaces and line breaks are made visible.
        values: one number per token: a reward, an advantage, a log-ratio.
        caption: what the values are, with their unit.
        scale: the absolute value that gets the full tint; the largest one by default.

    Raises:
        ValueError: another number of values than tokens.
    """
    numbers = rounded(values)
    if len(numbers) != len(tokens):
        raise ValueError(f"there are {len(tokens)} tokens and {len(numbers)} values; give one value per token")
    full = scale or max((abs(value) for value in numbers), default=1.0) or 1.0
    shown = [token.replace("\n", "↵").replace(" ", "␣") for token in tokens]
    cells = []
    for token, value in zip(shown, numbers, strict=True):
        tint = round(0.55 * min(1.0, abs(value) / full), 2) if value == value else 0.0
        color = f"rgba(47,127,193,{tint})" if value >= 0 else f"rgba(201,102,26,{tint})"
        cells.append(
            f'<span style="display:inline-block;margin:2px;padding:1px 5px;border-radius:4px;background:{color};'
            f'text-align:center"><code style="background:none;color:inherit;border:0">{escape(token)}</code>'
            f"<br><small>{number(value)}</small></span>"
        )
    html = (
        f'<figure class="tokens" style="margin:1em 0"><div>{"".join(cells)}</div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
    pairs = "  ".join(f"{token} {number(value)}" for token, value in zip(shown, numbers, strict=True))
    return Shown(html, f"{caption}\n{pairs}")
