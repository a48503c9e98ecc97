"""The clip as a walk uphill: in six cases, whether a token may still be pushed."""

from typing import NamedTuple

import torch

from ppo_lib.book.diagrams.canvas import BAD, NORMAL, Drawing
from ppo_lib.book.drawing import number
from ppo_lib.formulas.losses import clipped_policy_loss

EPSILON = 0.2
UP, DOWN, CORRIDOR = "blue", "orange", "green"  # above and below zero as on the token strips
# Advantage and ratio of each case, as in the chapter's table.
CASES = {"A": (2.0, 1.1), "B": (2.0, 1.5), "C": (-2.0, 0.9), "D": (-2.0, 0.5), "E": (2.0, 0.5), "F": (-2.0, 1.5)}
LOW, HIGH = 0.3, 1.7  # ends of the axis


class Case(NamedTuple):
    """One token at one ratio.

    Attributes:
        objective: ``min(ρA, clip(ρ)A)``, what PPO climbs.
        push: its derivative by the ratio; 0 where the clip has cut it off.
    """

    name: str
    advantage: float
    ratio: float
    objective: float
    push: float


def case(name: str, advantage: float, ratio: float) -> Case:
    """The objective and its push, by the library and by its gradient."""
    logprob = torch.tensor([[ratio]], dtype=torch.float64).log().requires_grad_()
    ones = torch.ones(1, 1, dtype=torch.float64)
    loss = clipped_policy_loss(logprob, torch.zeros_like(ones), advantage * ones, ones, EPSILON).loss
    (gradient,) = torch.autograd.grad(loss, logprob)
    return Case(name, advantage, ratio, -float(loss.detach()), -float(gradient) / ratio)


def fate(one: Case) -> str:
    """What happens to a token in that case, in a few words."""
    if one.push == 0:
        return "far enough: no push"
    wrong_way = (one.ratio - 1) * one.advantage < 0
    return "wrong way: come back" if wrong_way else "go on"


def clip_cases() -> Drawing:
    """Six tokens on the two clipped objectives, with the pushes that are left to them."""
    cases = [case(name, *values) for name, values in CASES.items()]
    told = "; ".join(
        f"{one.name}: advantage {number(one.advantage)}, ratio {number(one.ratio)}, {fate(one)}" for one in cases
    )
    drawing = Drawing(
        "Six tokens, six fates: inside the corridor and on the way back to it all are pushed; B and D have gone far "
        "enough.",
        "Two hillsides over the ratio, with the corridor from 1 − ε to 1 + ε shaded. Above, a good token "
        "(positive advantage): the way up leads to the right, and behind the corridor the hill is flat. Below, a bad "
        "token (negative advantage): the way up leads to the left, and left of the corridor it is flat. On a slope an "
        f"arrow shows the push, on the flat a stop sign. {told}.",
        height=492,
    )
    hillside(drawing, 8, [one for one in cases if one.advantage > 0], "A good token: we want more of it")
    hillside(drawing, 264, [one for one in cases if one.advantage < 0], "A bad token: we want less of it")
    return drawing


def hillside(drawing: Drawing, top: float, cases: list[Case], title: str) -> None:
    """One objective over the ratio, and its tokens; 250 units high."""
    advantage = cases[0].advantage
    curve = [case("", advantage, ratio) for ratio in (LOW, 1 - EPSILON, 1 + EPSILON, HIGH)]
    low, high = min(one.objective for one in curve), max(one.objective for one in curve)
    floor, ceiling = top + 196, top + 74

    def place(one: Case) -> tuple[float, float]:
        along, up = (one.ratio - LOW) / (HIGH - LOW), (one.objective - low) / (high - low)
        return 14 + 332 * along, floor - 18 - (floor - ceiling - 18) * up

    drawing.write(10, top + 14, title, size=NORMAL, bold=True, anchor="start")
    (left, _), (right, _) = place(curve[1]), place(curve[2])
    drawing.shape([(left, floor), (left, top + 30), (right, top + 30), (right, floor)], CORRIDOR, tint=0.22)
    tone, uphill = (UP, 1) if advantage > 0 else (DOWN, -1)
    hill = [place(one) for one in curve]
    drawing.shape([(hill[0][0], floor), *hill, (hill[-1][0], floor)], tone, tint=0.16)
    drawing.stroke(*hill, tone=tone, width=3)
    drawing.stroke((10, floor), (350, floor), width=1.2)
    for x, text in ((left, "1 − ε"), ((left + right) / 2, "1"), (right, "1 + ε")):
        drawing.stroke((x, floor), (x, floor + 5), width=1.2)
        drawing.write(x, floor + 19, text)
    drawing.write(350, floor + 19, "ratio ρ", anchor="end", faint=True)
    for one in cases:
        x, y = place(one)
        drawing.dot(x, y, 5, tone)
        if one.push:
            edge = 1 + uphill * EPSILON  # where this hill turns flat
            ahead = place(case("", advantage, one.ratio + uphill * min(0.2, abs(edge - one.ratio))))
            drawing.arrow((x, y - 11), (ahead[0], ahead[1] - 11), width=2.4)
        else:  # a flag on the top: who is here may rest
            drawing.stroke((x, y - 5), (x, y - 27), width=1.8)
            drawing.shape([(x, y - 27), (x + 14, y - 22), (x, y - 17)], BAD)
        words = fate(one)
        start = "start" if advantage > 0 else "end"
        if not one.push:
            drawing.write(x, y + 22, one.name, size=NORMAL, bold=True)
            drawing.write(x, y + 38, *words.split(": "))
        elif abs(one.ratio - 1) < EPSILON:
            drawing.write(x, y + 26, one.name, size=NORMAL, bold=True)
            drawing.write(x, y + 42, words)
        else:
            drawing.write(x + uphill * 12, y + 14, one.name, size=NORMAL, bold=True, anchor=start)
            drawing.write(x + uphill * 28, y + 14, words, anchor=start)
