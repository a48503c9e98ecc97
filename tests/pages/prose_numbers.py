"""Numbers that a chapter's prose states and none of its cells knows.

A decimal number or a percentage in a markdown cell has to stand, at its own precision, in a stored output, in the code
or in a formula of the same section (from one ``##`` to the next). One of three or more digits may come from any
section: it is no chance that it stands there. What is worked out in the reader's head is allowed by a mark in the cell
that says so: ``<!-- numbers: 0.012 -->``.

A comment such as ``# five seeds: 0.9 to 2.9`` after a live cell states a range. A number of that cell's output has to
lie in it (in one of them, where there are several), or the difference of two. A mark with both ends, in any text of
the chapter, lets a range be.
"""

import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from itertools import combinations, pairwise
from typing import Any

Cell = Any  # of nbformat

DECIMAL = r"(?<![\w.\-−^/:])[-−+]?\d[\d,]*\.\d+(?![\w\-]|\.\d)"
PERCENT = r"(?<![\w.\-−^/:])\d+(?:\.\d+)? ?%"
RANGE = r"([-−+]?\d+(?:\.\d+)?) to ([-−+]?\d+(?:\.\d+)?)"
ANY = r"[-−+]?\d[\d,]*(?:\.\d+)?(?:e[-−+]?\d+)?"
MARK = r"<!-- numbers: (.*?)-->"
# What is no statement: code, links, headings, the chapter's box, numbers of exercises, versions of software.
NO_PROSE = (
    (r"(?s)```.*?```", " "),
    (r"(?s)<!--.*?-->", " "),
    (r"`[^`\n]*`", " "),
    (r"\]\([^)]*\)", "]"),
    (r"(?m)^#.*$", ""),
    (r"(?m)^\| \*\*.*$", ""),
    (r"(?i)\b(chapter|exercise|exercises|version|§) ?\d+\.\d+", ""),
    (r"\b(TRL|OpenRLHF|veRL|PyTorch|torch|transformers|Qwen|SmolLM)\S* ?\(?\d+\.\d+", ""),
)
FEW = 12  # of so few numbers a difference is a statement (what a score has gained); of many, chance
FORMULA = r"(?s)\$\$.*?\$\$|\$[^$\n]*?\$"


def value(text: str) -> Decimal:
    """The number that a text shows: minus signs and commas as people write them."""
    return Decimal(text.replace("−", "-").replace(",", "").rstrip(" %"))


def numbers(text: str) -> list[Decimal]:
    """All numbers of a text."""
    return [value(found.rstrip(",")) for found in re.findall(ANY, text)]


def shows(pool: Iterable[Decimal], number: Decimal, percent: bool) -> bool:
    """One of the pool is the number at its own precision; a share may stand there as a percentage and the reverse."""
    half = Decimal(1).scaleb(int(number.as_tuple().exponent)) / 2
    factors = (1, 100) if percent or number >= 1 else (1,)
    return any(abs(abs(one) * factor - abs(number)) <= half for one in pool for factor in factors)


def printed(cell: Cell) -> str:
    """A code cell's stored output as text."""
    outputs = cell.get("outputs", [])
    return "\n".join(output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in outputs)


def known(cell: Cell) -> str:
    """What a cell shows besides prose: code and output, or the formulas and the marks of a text."""
    if cell.cell_type == "code":
        return f"{re.sub(r'#.*', '', cell.source)}\n{printed(cell)}"
    return " ".join(re.findall(FORMULA, cell.source) + re.findall(MARK, cell.source, re.S))


def sections(cells: Iterable[Cell]) -> list[list[Cell]]:
    """The cells, cut before each ``##``."""
    found: list[list[Cell]] = [[]]
    for cell in cells:
        if cell.cell_type == "markdown" and re.match(r"## ", cell.source.lstrip()):
            found.append([])
        found[-1].append(cell)
    return found


def unknown_in_prose(cells: list[Cell]) -> Iterator[str]:
    """Numbers of the text that no cell knows, each with the words around it."""
    whole = numbers("\n".join(map(known, cells)))
    for section in sections(cells):
        if re.match(r"## (References|How others do it)", section[0].source.lstrip()):
            continue  # what others say and do
        near = numbers("\n".join(map(known, section)))
        for cell in section:
            if cell.cell_type != "markdown":
                continue
            text = re.sub(FORMULA, " ", cell.source)
            for pattern, instead in NO_PROSE:
                text = re.sub(pattern, instead, text)
            for found in re.finditer(f"{PERCENT}|{DECIMAL}", text):
                number, digits = value(found.group()), len(re.sub(r"\D", "", found.group()).lstrip("0"))
                if not shows(whole if digits >= 3 else near, number, "%" in found.group()):
                    around = text[max(0, found.start() - 40) : found.end() + 20]
                    yield f"{found.group()} in “…{' '.join(around.split())}…”"


def ranges_that_miss(cells: list[Cell]) -> Iterator[str]:
    """Ranges of comments in which no number of the live output before them lies, and no difference of two such."""
    marked = set(numbers(" ".join(re.findall(MARK, "\n".join(cell.source for cell in cells), re.S))))
    code = [cell for cell in cells if cell.cell_type == "code"]
    for before, cell in pairwise(code):
        if "nbval-ignore-output" not in before.metadata.get("tags", []):
            continue
        shown = numbers(printed(before) + "\n" + printed(cell))
        shown += [a - b for a, b in combinations(shown, 2)] if len(shown) <= FEW else []
        for comment in re.findall(r"#(.*)", cell.source):
            ranges = [tuple(sorted(map(value, ends))) for ends in re.findall(RANGE, comment)]
            if shown and ranges and not any({*ends} <= marked or holds(*ends, shown) for ends in ranges):
                yield f"“#{comment}”: no number of the output before it lies in its range"


def holds(low: Decimal, high: Decimal, shown: list[Decimal]) -> bool:
    """A number lies between the ends, rounded as they are; of either sign, since a loss may be told as a fall."""
    half = min(Decimal(1).scaleb(int(end.as_tuple().exponent)) / 2 for end in (low, high))
    return any(low - half <= one * sign <= high + half for one in shown for sign in (1, -1))
