"""How much room a text takes: the widths of letters, since a picture cannot measure its own text without a script.

The widths are those of DejaVu Sans, the widest of the fonts that browsers take for ``sans-serif``. What fits by them
fits by the others. A subscript is written ``π_{ref}``.
"""

import re

# Per hundred units of size: the letters of that width.
WIDTHS = {
    28: "ijl",
    30: "IJ",
    32: " ,.·’",
    34: "/:;\\|",
    36: "-f",
    40: "!()[]t₀₁₂₃₄₅₆₇₈₉²",
    42: "r",
    46: '"',
    50: "*_`–‖",
    52: "sz“”",
    56: "?cεL",
    58: "Fk",
    60: "Pvxyγλπ",
    62: "TYaeoδθτ",
    64: "$0123456789ESbdghnpqu{}βρσΣμη",
    66: "Kαφψ∇",
    70: "ABVXZÂCR",
    74: "NU",
    78: "HDGOQ&▶▲▼◀",
    84: "w#+<=>^~→←↑↓×−≥≤≈✓✗∞",
    88: "M∈●○",
    98: "Wm%½★",
    102: "@—…",
}
WIDTH_OF = {letter: width / 100 for width, letters in WIDTHS.items() for letter in letters} | {"\u0302": 0.0}
BOLD = 1.15  # a bold letter against a plain one
ASCENT, DESCENT = 0.78, 0.22  # of a line, above and below the line it stands on
SMALLEST = 12.0  # the size of a subscript, and of any text: 11 pixels on a phone, see canvas.WIDTH
SUBSCRIPT = re.compile(r"_\{([^}]*)\}")


def width_of(text: str, size: float, bold: bool = False) -> float:
    """Width of ``text`` in the units of its ``size``; a letter that the table lacks counts as a wide one."""
    below = "".join(SUBSCRIPT.findall(text))
    return (BOLD if bold else 1.0) * (_plain(SUBSCRIPT.sub("", text)) * size + _plain(below) * subscript_size(size))


def _plain(text: str) -> float:
    return sum(WIDTH_OF.get(letter, 1.0) for letter in text)


def subscript_size(size: float) -> float:
    """How large the subscript of a text of that size is written."""
    return max(SMALLEST, round(0.8 * size, 1))


def spoken(text: str) -> str:
    """A text without the marks of a subscript: ``π_ref``."""
    return SUBSCRIPT.sub(r"_\1", text)


def wrapped(text: str, width: float, size: float, bold: bool = False) -> list[str]:
    """``text`` in lines no wider than ``width``, broken between words."""
    lines: list[str] = []
    for word in text.split():
        if lines and width_of(f"{lines[-1]} {word}", size, bold) <= width:
            lines[-1] = f"{lines[-1]} {word}"
        else:
            lines.append(word)
    return lines
