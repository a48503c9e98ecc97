"""DPO's β: how far the policy has to part two answers before a comparison leaves it in peace."""

import math

import torch

from ppo_lib.book.explorers.core import Frame, Panel, Parameter, curve, short
from ppo_lib.book.explorers.explorer import Explorer
from ppo_lib.formulas.dpo import dpo_loss

GAPS = tuple(float(gap) for gap in range(-20, 41))


def pair(gap: float, beta: float) -> tuple[float, float]:
    """Loss in nats, and its slope in the gap, for log-ratios of chosen and rejected answer that are so far apart."""
    logprobs = torch.tensor([[gap], [0.0]], dtype=torch.float64, requires_grad=True)
    loss = dpo_loss(logprobs, torch.zeros(2, 1, dtype=torch.float64), torch.ones(2, 1), beta).loss
    (slope,) = torch.autograd.grad(loss, logprobs)
    return float(loss.detach()), float(slope[0, 0])


def frame(beta: float, gap: float) -> Frame:
    """Loss and pull against the gap, and where this pair stands."""
    losses, slopes = zip(*(pair(one, beta) for one in GAPS), strict=True)
    loss, slope = pair(gap, beta)
    enough = math.log(9) / beta
    return Frame(
        curves=(
            curve("loss of the pair", GAPS, losses),
            curve("at this gap", [gap], [loss], kind="points"),
            curve("pull on the gap", GAPS, [-one for one in slopes], panel=1),
            curve("at this gap", [gap], [-slope], kind="points", panel=1),
        ),
        rows=(
            ("gap of implicit rewards, β times that of log-ratios", short(beta * gap)),
            ("probability that it gives the chosen answer", short(1 / (1 + math.exp(-beta * gap)))),
            ("loss", f"{short(loss)} nats"),
            ("pull per nat of gap", short(-slope)),
            ("gap at which the pull has fallen to a tenth of its most", f"{short(enough, 3)} nats"),
        ),
        sentence=(
            f"At β = {short(beta)} a pair pulls with at most {short(beta)} per nat, and lets go once the chosen answer "
            f"has gained {short(enough, 3)} nats on the rejected one."
        ),
    )


def dpo_beta() -> Explorer:
    """β of DPO: a small one parts the answers far, a large one keeps the policy near its reference."""
    return Explorer(
        name="dpo-beta",
        title="How far does DPO push two answers apart?",
        parameters=(
            Parameter("beta", "β", (0.05, 0.1, 0.2, 0.3, 0.5, 1.0), 0.1, log=True),
            Parameter("gap", "gap of the log-ratios", tuple(map(float, range(-20, 41, 4))), 0.0, unit="nats"),
        ),
        function=frame,
        panels=(
            Panel("Loss.", "gap of the log-ratios (nats)", "loss (nats)", (-21, 41), (-0.6, 21)),
            Panel("Pull.", "gap of the log-ratios (nats)", "pull", (-21, 41), (-0.02, 1.04)),
        ),
    )
