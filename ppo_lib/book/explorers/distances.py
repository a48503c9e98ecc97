"""Importance weights between two policies, and how fast they stop being worth anything."""

import torch
from torch import Tensor

from ppo_lib.book.explorers.core import Frame, Panel, Parameter, curve, short
from ppo_lib.book.explorers.explorer import Explorer
from ppo_lib.formulas.kl import kl_exact

TOKENS = ("t1", "t2", "t3", "t4", "t5", "t6")
OLD_LOGITS = (1.6, 1.0, 0.5, 0.0, -0.5, -1.0)
DIRECTION = (-0.8, -0.3, 0.2, 0.4, 0.9, 0.6)
DISTANCES = tuple(round(0.1 * i, 1) for i in range(31))


def policies(distance: float) -> tuple[Tensor, Tensor]:
    """Log-probs of the old policy and of one moved away from it by ``distance`` logits."""
    old = torch.tensor(OLD_LOGITS, dtype=torch.float64)
    new = old + distance * torch.tensor(DIRECTION, dtype=torch.float64)
    return torch.log_softmax(old, dim=-1), torch.log_softmax(new, dim=-1)


def second_moment(distance: float) -> float:
    """E[ρ²] under the old policy, for one token."""
    old, new = policies(distance)
    return float((old.exp() * (new - old).exp().square()).sum())


def frame(distance: float, length: int) -> Frame:
    """Both policies, the weights, and what is left of a thousand samples."""
    old, new = policies(distance)
    ratio = (new - old).exp()
    moment = second_moment(distance)
    nats = float(kl_exact(new.view(1, 1, -1), old.view(1, 1, -1)))
    shares = {tokens: [100 * second_moment(one) ** -tokens for one in DISTANCES] for tokens in (1, int(length))}
    left = 1000 * moment ** -int(length)
    spread = moment ** int(length) - 1
    return Frame(
        curves=(
            curve("π_old", TOKENS, old.exp(), kind="bars"),
            curve("π_θ", TOKENS, new.exp(), kind="bars"),
            curve("one token", DISTANCES, shares[1], panel=1),
            curve("whole response", DISTANCES, shares[int(length)], panel=1),
            curve("at this distance", [distance, distance], [100 / moment, left / 10], kind="points", panel=1),
        ),
        rows=(
            (
                "smallest and largest weight ρ of a token",
                f"{short(ratio.min())} and {short(ratio.max())}",
            ),
            ("mean of ρ", short((old.exp() * ratio).sum())),
            ("variance of ρ, one token", short(moment - 1)),
            (f"variance of the product of {int(length)} ratios", short(spread)),
            ("KL(π_θ ‖ π_old) of one token", f"{short(nats)} nats"),
            ("1000 responses are worth", f"{short(left, 3)} fresh ones"),
        ),
        sentence=(
            "The two policies are the same: every weight is 1, and no sample is lost."
            if distance == 0
            else f"Of 1000 responses of {int(length)} tokens, the reweighted ones are worth "
            f"{short(left, 3)} fresh ones; single tokens are worth {short(1000 / moment, 3)}."
        ),
    )


def policy_distance() -> Explorer:
    """Distance between policies: weights, their variance, effective sample size, per token and per sequence."""
    return Explorer(
        name="policy-distance",
        title="How far may the policy move before old samples are worthless?",
        parameters=(
            Parameter("distance", "distance between the policies", DISTANCES, 0.5, unit="logits"),
            Parameter("length", "length of the response", (2, 5, 10, 20, 50), 10, unit="tokens"),
        ),
        function=frame,
        panels=(
            Panel("Old and new policy over six tokens.", "token", "probability", y_range=(0, 0.62)),
            Panel("What is left of the sample.", "distance (logits)", "effective sample (%)", (-0.1, 3.1), (-4, 106)),
        ),
    )
