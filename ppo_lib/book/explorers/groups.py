"""GRPO's group: how often it teaches nothing, and what a right answer in it is worth."""

import math

import torch

from ppo_lib.book.explorers.core import Frame, Panel, Parameter, curve, short
from ppo_lib.book.explorers.explorer import Explorer
from ppo_lib.formulas.grpo import group_advantages

SIZES = (2, 4, 8, 16)
SCALES = {"divided by the spread": "group", "left as it is": "none"}


def advantage_of_right(right: int, size: int, scale: str) -> float:
    """Advantage of a right answer, score 1, in a group with so many right ones, of so many."""
    scores = torch.tensor([1.0] * right + [0.0] * (size - right), dtype=torch.float64)
    return float(group_advantages(scores, size, scale)[0])


def frame(chance: float, size: float, scale: str) -> Frame:
    """How many answers of a group are right, and what one of them is worth then."""
    size = int(size)
    counts = range(size + 1)
    shares = [math.comb(size, k) * chance**k * (1 - chance) ** (size - k) for k in counts]
    worth = [0.0, *(advantage_of_right(k, size, SCALES[scale]) for k in counts[1:])]
    places, beyond = range(max(SIZES) + 1), [0.0] * (max(SIZES) - size)  # one axis for all sizes
    silent = shares[0] + shares[-1]
    met = sum(share * k * value for share, k, value in zip(shares, counts, worth, strict=True)) / (size * chance)
    return Frame(
        curves=(
            curve("share of the groups", places, [*shares, *beyond], kind="bars"),
            curve("advantage of a right answer", places, [*worth, *beyond], kind="bars", panel=1),
        ),
        rows=(
            ("groups that teach nothing, all right or all wrong", f"{short(100 * silent, 3)} %"),
            ("advantage of a right answer that stands alone", short(worth[1])),
            ("advantage of a right answer, on average", short(met)),
        ),
        sentence=(
            f"Of 100 groups of {size} answers, {short(100 * silent, 2)} are all right or all wrong and teach nothing. "
            f"A right answer that stands alone gets an advantage of {short(worth[1], 3)}."
        ),
    )


def group_size() -> Explorer:
    """Group size and normalization of GRPO, against how hard the task is."""
    return Explorer(
        name="group-size",
        title="How large should a group be?",
        parameters=(
            Parameter("chance", "chance of a right answer", (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98), 0.3),
            Parameter("size", "answers in a group", tuple(map(float, SIZES)), 4.0, listed=True),
            Parameter("scale", "advantages", tuple(SCALES), "divided by the spread"),
        ),
        function=frame,
        panels=(
            Panel("How many answers of a group are right.", "right answers", "share", (-0.7, 16.7), (0, 1.02)),
            Panel("What a right answer is worth then.", "right answers", "advantage", (-0.7, 16.7), (-0.05, 3.9)),
        ),
    )
