"""What the tests of the explorers share: the stored form read back, and what a fresh Python call says."""

import functools
import json
import re
from typing import Any

from ppo_lib.book.explorers import ALL, Explorer
from ppo_lib.book.explorers.core import Frame
from ppo_lib.book.explorers.plots import curves_of, plain

NAMES = [function.__name__ for function in ALL]


@functools.cache
def explorer(name: str) -> Explorer:
    """An explorer by the name of its function."""
    return next(function for function in ALL if function.__name__ == name)()


@functools.cache
def stored(name: str) -> str:
    """Its static form."""
    return explorer(name).html()


def grid_of(html: str) -> dict[str, Any]:
    """The JSON in a static form."""
    found = re.search(r'<script type="application/json">(.*?)</script>', html, re.S)
    assert found, "a static form holds its grid as JSON"
    return json.loads(found[1])


def texts_of(frame: Frame) -> list[str]:
    """The texts of a frame in the page's order."""
    return [frame.sentence, *(cell for row in frame.rows for cell in row)]


def curves(one: Explorer, frame: Frame) -> list[list[Any]]:
    """x and y of each curve, picture by picture, as JSON holds them."""
    return [
        [plain(value) for value in values]
        for panel in range(len(one.panels))
        for drawn in curves_of(frame, panel)
        for values in (drawn.x, drawn.y)
    ]


def tokens(frame: Frame) -> list[list[list[Any]]]:
    """Text, value and tint of each token of each strip."""
    return [[list(token) for token in strip.tokens] for strip in frame.strips]
