"""The book's drawings: ``from ppo_lib.book.diagrams import loop``, then ``loop()`` as the last line of a cell.

Each function draws one picture and needs no argument, but for :func:`assembly_line`, which is told where the reader
stands. A picture that shows numbers computes them by the library.
"""

from collections.abc import Callable
from functools import partial

from ppo_lib.book.diagrams.belt import assembly_line
from ppo_lib.book.diagrams.canvas import Drawing
from ppo_lib.book.diagrams.overview import loop, pipeline

# Every drawing, by name, in the order of the chapters; the tests walk this table.
ALL: dict[str, Callable[[], Drawing]] = {
    "pipeline": pipeline,
    "loop": loop,
    **{f"assembly_line_{here}": partial(assembly_line, here) for here in (1, 2, 3)},
}

__all__ = ["ALL", "Drawing", "assembly_line", "loop", "pipeline"]
