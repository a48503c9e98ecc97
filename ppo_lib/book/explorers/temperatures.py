"""What sampling does to a distribution: the temperature."""

import math

import torch

from ppo_lib.book.explorers.core import Frame, Panel, Parameter, curve, short
from ppo_lib.book.explorers.explorer import Explorer
from ppo_lib.formulas.losses import entropy

# The next token after "To find"; the rest is spread over the other tokens of a vocabulary of a thousand.
TOKENS = ("out", "the", "a")
PROBABILITIES = (0.7, 0.1, 0.05)
OTHERS = 997


def frame(temperature: float) -> Frame:
    """The distribution that is sampled from at ``temperature``."""
    known = torch.tensor(PROBABILITIES, dtype=torch.float64)
    rest = torch.full((OTHERS,), float((1 - known.sum()) / OTHERS), dtype=torch.float64)
    logits = torch.cat([known, rest]).log() / temperature
    p = torch.softmax(logits, dim=-1)
    bars = [float(value) for value in p[:3]] + [float(p[3:].sum())]
    nats = float(entropy(logits.view(1, 1, -1)))
    names = [*TOKENS, f"{OTHERS} others"]
    plain = [*PROBABILITIES, 1 - sum(PROBABILITIES)]
    if temperature < 0.7:
        meaning = "the likely token wins almost every time: close to greedy decoding"
    elif temperature <= 1.1:
        meaning = "samples follow the model's own distribution, or nearly so"
    else:
        meaning = "the many unlikely tokens together take over, and the text falls apart"
    return Frame(
        curves=(
            curve("temperature 1", names, plain, kind="bars"),
            curve("at this temperature", names, bars, kind="bars"),
        ),
        rows=(
            *((f"probability of “{name}”", short(value)) for name, value in zip(TOKENS, bars, strict=False)),
            (f"probability of the {OTHERS} others together", short(bars[3])),
            ("entropy", f"{short(nats)} nats"),
            ("as many equally likely tokens", short(math.exp(nats))),
        ),
        sentence=f"At temperature {short(temperature)}, {meaning}.",
    )


def temperature() -> Explorer:
    """Temperature: the same logits, sampled boldly or timidly."""
    return Explorer(
        name="temperature",
        title="What does the temperature do to the same distribution?",
        parameters=(
            Parameter(
                "temperature",
                "temperature",
                (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0, 2.5, 3.0),
                1.0,
                step=0.05,
            ),
        ),
        function=frame,
        panels=(Panel("Next token after “To find”.", "next token", "probability", y_range=(0, 1.05)),),
    )
