"""The book's drawings: ``from ppo_lib.book.diagrams import loop``, then ``loop()`` as the last line of a cell.

Each function draws one picture and needs no argument, but for :func:`assembly_line`, which is told where the reader
stands. A picture that shows numbers computes them by the library, and quotes recorded runs.
"""

from collections.abc import Callable
from functools import partial

from ppo_lib.book.diagrams.belt import assembly_line
from ppo_lib.book.diagrams.canvas import Drawing
from ppo_lib.book.diagrams.corridor import clip_cases
from ppo_lib.book.diagrams.overview import loop, pipeline
from ppo_lib.book.diagrams.pushes import push, reweighting
from ppo_lib.book.diagrams.stairs import actor_critic, staircase
from ppo_lib.book.diagrams.tension import rubber_band

# Every drawing, by name, in the order of the chapters; the tests walk this table.
ALL: dict[str, Callable[[], Drawing]] = {
    "pipeline": pipeline,
    "loop": loop,
    "push": push,
    "reweighting": reweighting,
    "rubber_band": rubber_band,
    "actor_critic": actor_critic,
    "staircase": staircase,
    "clip_cases": clip_cases,
    **{f"assembly_line_{here}": partial(assembly_line, here) for here in (1, 2, 3)},
}

__all__ = [
    "ALL",
    "Drawing",
    "actor_critic",
    "assembly_line",
    "clip_cases",
    "loop",
    "pipeline",
    "push",
    "reweighting",
    "rubber_band",
    "staircase",
]
