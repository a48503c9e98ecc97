"""The book's drawings: ``from ppo_lib.book.diagrams import loop``, then ``loop()`` as the last line of a cell.

Each function draws one picture and needs no argument, but for :func:`assembly_line`, which is told where the reader
stands. A picture that shows numbers computes them by the library, and quotes recorded runs.
"""

from collections.abc import Callable
from functools import partial

from ppo_lib.book.diagrams.belt import assembly_line
from ppo_lib.book.diagrams.brakeless import runaway
from ppo_lib.book.diagrams.canvas import Drawing
from ppo_lib.book.diagrams.corridor import clip_cases
from ppo_lib.book.diagrams.lessons import brain_surgery, reward_training, sft_shift
from ppo_lib.book.diagrams.overview import loop, pipeline
from ppo_lib.book.diagrams.pushes import push, reweighting
from ppo_lib.book.diagrams.roads import book_map, chain, fork
from ppo_lib.book.diagrams.stairs import actor_critic, staircase
from ppo_lib.book.diagrams.tension import rubber_band
from ppo_lib.book.diagrams.wiring import iteration, three_terms

# Every drawing, by name, in the order of the chapters; the tests walk this table.
ALL: dict[str, Callable[[], Drawing]] = {
    "pipeline": pipeline,
    "loop": loop,
    "sft_shift": sft_shift,
    "reward_training": reward_training,
    "brain_surgery": brain_surgery,
    "push": push,
    "reweighting": reweighting,
    "runaway": runaway,
    "rubber_band": rubber_band,
    "actor_critic": actor_critic,
    "staircase": staircase,
    "clip_cases": clip_cases,
    "three_terms": three_terms,
    "iteration": iteration,
    "chain": chain,
    "fork": fork,
    "book_map": book_map,
    **{f"assembly_line_{here}": partial(assembly_line, here) for here in (1, 2, 3)},
}

__all__ = [
    "ALL",
    "Drawing",
    "actor_critic",
    "assembly_line",
    "book_map",
    "brain_surgery",
    "chain",
    "clip_cases",
    "fork",
    "iteration",
    "loop",
    "pipeline",
    "push",
    "reward_training",
    "reweighting",
    "rubber_band",
    "runaway",
    "sft_shift",
    "staircase",
    "three_terms",
]
