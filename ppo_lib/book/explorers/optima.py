"""The policy that β asks for, in closed form: π* ∝ π_ref · exp(r / β)."""

import torch
from torch import Tensor

from ppo_lib.book.explorers.core import Frame, Panel, Parameter, curve, short
from ppo_lib.book.explorers.explorer import Explorer
from ppo_lib.formulas.kl import kl_exact

ANSWERS = ("plain", "false", "long", "kind", "grand")
REFERENCE = (0.45, 0.25, 0.15, 0.14, 0.01)
REWARDS = (0.6, -1.0, 0.4, 1.0, 2.0)
PATH = tuple(float(f"{10 ** (-1.3 + 0.07 * i):.3g}") for i in range(34))


def optimum(beta: float) -> tuple[Tensor, float, float]:
    """π*, its expected reward, and its KL from the reference."""
    reference = torch.tensor(REFERENCE, dtype=torch.float64).log()
    rewards = torch.tensor(REWARDS, dtype=torch.float64)
    logits = reference + rewards / beta
    best = torch.softmax(logits, dim=-1)
    nats = kl_exact(logits.view(1, 1, -1), reference.view(1, 1, -1))
    return best, float(best @ rewards), float(nats)


def frame(beta: float) -> Frame:
    """Reference and optimum over five answers, and where β stands on the frontier."""
    best, reward, nats = optimum(beta)
    _, rewards, drifts = zip(*(optimum(one) for one in PATH), strict=True)
    top = int(best.argmax())
    start = sum(p * r for p, r in zip(REFERENCE, REWARDS, strict=True))
    return Frame(
        curves=(
            curve("π_ref", ANSWERS, REFERENCE, kind="bars"),
            curve("π*", ANSWERS, best, kind="bars"),
            curve("best reachable", drifts, rewards, panel=1),
            curve("this β", [nats], [reward], kind="points", panel=1),
        ),
        rows=(
            ("expected reward of π*", short(reward)),
            ("expected reward of π_ref", short(start)),
            ("KL(π* ‖ π_ref)", f"{short(nats)} nats"),
            ("objective E[r] − β·KL", short(reward - beta * nats)),
        ),
        sentence=(
            f"At β = {short(beta)} the likeliest answer is “{ANSWERS[top]}” ({short(100 * best[top], 3)} %), "
            f"bought with {short(nats, 3)} nats of drift."
        ),
    )


def closed_form() -> Explorer:
    """β in closed form: from "only the reward" to "stay the reference"."""
    return Explorer(
        name="closed-form",
        title="Which policy does β ask for?",
        parameters=(
            Parameter(
                "beta",
                "β, strength of the rubber band",
                (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 100.0),
                0.5,
                unit="reward/nat",
                log=True,
            ),
        ),
        function=frame,
        panels=(
            Panel("Five answers before and after.", "answer", "probability", y_range=(0, 1.05)),
            Panel("What reward each nat of drift can buy.", "KL (nats)", "expected reward", (-0.2, 4.9), (0, 2.15)),
        ),
    )
