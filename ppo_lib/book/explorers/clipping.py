"""The clipped objective and its gradient, as ε, Â and ρ move."""

import math
from functools import lru_cache

import torch

from ppo_lib.book.explorers.core import Frame, Panel, Parameter, curve, short
from ppo_lib.book.explorers.explorer import Explorer
from ppo_lib.formulas.losses import clipped_policy_loss

RATIOS = tuple(round(0.3 + 0.05 * i, 2) for i in range(31))
# The six cases: name, advantage, ratio.
CASES = (("A", 2, 1.1), ("B", 2, 1.5), ("C", -2, 0.9), ("D", -2, 0.5), ("E", 2, 0.5), ("F", -2, 1.5))


@lru_cache(maxsize=16384)
def objective(ratio: float, advantage: float, epsilon: float) -> tuple[float, float]:
    """J of one token, and dJ/dρ by autograd."""
    one = torch.ones(1, 1, dtype=torch.float64)
    # A ratio on the edge of the interval counts as inside, whatever a processor's exp and log do to its last bit.
    logprobs = torch.full_like(one, math.log(ratio) * (1 - 1e-12)).requires_grad_()
    loss = clipped_policy_loss(logprobs, torch.zeros_like(one), advantage * one, one, epsilon).loss
    (slope,) = torch.autograd.grad(-loss, logprobs)
    return -float(loss.detach()), float(slope) / ratio  # d log ρ = dρ / ρ


def clipped_part(ratio: float, advantage: float, epsilon: float) -> float:
    """clip(ρ, 1 − ε, 1 + ε) · Â: what the objective is where ρ is held at the nearer edge of the interval."""
    return objective(min(max(ratio, 1 - epsilon), 1 + epsilon), advantage, math.inf)[0]


def frame(epsilon: float, advantage: float, ratio: float) -> Frame:
    """Surrogate, clipped surrogate, their minimum, and the gradient."""
    # The jumps of the gradient are drawn upright: two points close to each edge of the interval.
    edges = {round(1 + side * (epsilon + beyond), 4) for side in (-1, 1) for beyond in (0, 0.001)}
    ratios = sorted({*RATIOS, *(one for one in edges if RATIOS[0] <= one <= RATIOS[-1])})
    both = [objective(one, advantage, epsilon) for one in ratios]
    value, slope = objective(ratio, advantage, epsilon)
    cases = [objective(at, advantage, epsilon)[0] if sign * advantage > 0 else math.nan for _, sign, at in CASES]
    plain, clipped = objective(ratio, advantage, math.inf)[0], clipped_part(ratio, advantage, epsilon)
    if slope == 0:
        meaning = "The clip has cut the gradient: this token has been changed enough and moves no further."
    elif abs(ratio - 1) > epsilon + 1e-9:
        meaning = "Outside the interval, and yet the gradient flows: the move was the wrong way, and is taken back."
    else:
        meaning = f"Inside the interval the gradient flows: ρ is pushed {'up' if advantage > 0 else 'down'}."
    return Frame(
        curves=(
            curve("minimum, the objective", ratios, [one[0] for one in both]),
            curve("ρÂ", ratios, [objective(one, advantage, math.inf)[0] for one in ratios]),
            curve("clip(ρ)·Â", ratios, [clipped_part(one, advantage, epsilon) for one in ratios]),
            curve(
                "cases A to F",
                [at for _, _, at in CASES],
                cases,
                kind="points",
                labels=[name for name, _, _ in CASES],
            ),
            curve("this ρ", [ratio], [value], kind="points"),
            curve("gradient dJ/dρ", ratios, [one[1] for one in both], panel=1),
            curve("at this ρ", [ratio], [slope], kind="points", panel=1),
        ),
        rows=(
            ("ρÂ", short(plain)),
            ("clip(ρ, 1 − ε, 1 + ε)·Â", short(clipped)),
            ("minimum", short(value)),
            ("loss", short(-value)),
            ("gradient dJ/dρ", short(slope)),
        ),
        sentence=meaning,
    )


def clip() -> Explorer:
    """ε, Â, ρ: surrogate, clipped surrogate, minimum and gradient, with the six cases on the curve."""
    return Explorer(
        name="clip",
        title="When does the clip act, and when does the gradient still flow?",
        parameters=(
            Parameter("ratio", "ρ, ratio", tuple(round(0.3 + 0.1 * i, 1) for i in range(16)), 1.5, step=0.01),
            Parameter("advantage", "Â, advantage", (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0), 2.0, step=0.1),
            Parameter("epsilon", "ε, clip width", (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5), 0.2, step=0.01),
        ),
        function=frame,
        panels=(
            Panel("The objective of one token.", "ratio ρ", "objective J (reward)", (0.25, 1.85), (-4, 4)),
            Panel("Its gradient.", "ratio ρ", "dJ/dρ (reward)", (0.25, 1.85), (-2.4, 2.4)),
        ),
    )
