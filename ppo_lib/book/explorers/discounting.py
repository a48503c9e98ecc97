"""How far a reward at the end reaches back: the discount."""

import torch

from ppo_lib.book.explorers.core import Frame, Panel, Parameter, curve, short
from ppo_lib.book.explorers.explorer import Explorer
from ppo_lib.formulas.advantages import discounted_returns

GAMMAS = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99, 0.995, 1.0)


def frame(gamma: float, length: int) -> Frame:
    """Returns of a response of ``length`` tokens that earns 1 on its last token."""
    rewards = torch.zeros(1, int(length), dtype=torch.float64)
    rewards[0, -1] = 1.0
    returns = discounted_returns(rewards, torch.ones_like(rewards), gamma)[0]
    before = list(range(int(length) - 1, -1, -1))
    half = int((returns >= 0.5).sum()) - 1
    reach = f"{half} tokens before the end" if half < length - 1 else "the first token"
    return Frame(
        curves=(
            curve("return G at this token", before, returns),
            curve("first token", before[:1], returns[:1], kind="points"),
        ),
        rows=(
            ("return at the first token", short(returns[0])),
            ("return at the last token", short(returns[-1])),
            ("at least half of the reward is felt back to", reach),
        ),
        sentence=(
            "With γ = 1 every token is credited with the whole reward, however long the response."
            if gamma == 1
            else f"With γ = {short(gamma)} the first of {int(length)} tokens feels {short(returns[0])} of a "
            "reward of 1 at the end."
        ),
    )


def discount() -> Explorer:
    """γ: how much of a reward on the last token each earlier token gets credit for."""
    return Explorer(
        name="discount",
        title="How far does a reward at the end reach back?",
        parameters=(
            Parameter("gamma", "γ, discount", GAMMAS, 0.95, step=0.005),
            Parameter("length", "length of the response", (5, 10, 20, 50, 100), 50, unit="tokens"),
        ),
        function=frame,
        panels=(
            Panel(
                "Discounted return at each token, for a reward of 1 on the last.",
                "tokens before the end",
                "return (reward)",
                x_range=(-3, 102),
                y_range=(-0.04, 1.08),
            ),
        ),
    )
