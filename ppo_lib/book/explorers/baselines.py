"""A baseline leaves the gradient's mean as it is and shrinks its variance."""

from functools import lru_cache

import torch
from torch import Tensor

from ppo_lib.book.explorers.core import Frame, Panel, Parameter, curve, short
from ppo_lib.book.explorers.explorer import Explorer
from ppo_lib.formulas.losses import policy_gradient_loss

# A policy over three answers, and what each earns before the shift.
LOGITS = (0.6, 0.0, -0.4)
REWARDS = (1.0, 0.0, -1.0)
BASELINES = tuple(round(-3 + 0.5 * i, 1) for i in range(33))


def moments(baseline: float, shift: float) -> tuple[Tensor, float, float]:
    """Mean, total variance and value of the one-sample gradient estimate, by enumerating the three answers."""
    logits = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
    logprobs = torch.log_softmax(logits, dim=-1)
    p = logprobs.detach().exp()
    rewards = torch.tensor(REWARDS, dtype=torch.float64) + shift
    one = torch.ones(1, 1, dtype=torch.float64)
    estimates = torch.stack(
        [
            torch.autograd.grad(
                policy_gradient_loss(logprobs[i].view(1, 1), (rewards[i] - baseline).view(1, 1), one),
                logits,
                retain_graph=True,
            )[0]
            for i in range(len(LOGITS))
        ]
    )
    mean = p @ estimates
    variance = p @ (estimates - mean).square().sum(dim=1)
    return -mean, float(variance), float(p @ rewards)


@lru_cache
def variances(shift: float) -> tuple[float, ...]:
    """The curve over all baselines."""
    return tuple(moments(baseline, shift)[1] for baseline in BASELINES)


def comparison(baseline: float, change: float) -> str:
    """One sentence: what became of the variance, as a multiple of the variance without a baseline."""
    if baseline == 0:
        return "b = 0 is no baseline at all: this is the variance to beat."
    if change < 1:
        return (
            f"With b = {short(baseline)} the variance is {short(1 / change, 3)} times smaller than without a baseline."
        )
    return f"With b = {short(baseline)} the variance is {short(change, 3)} times what it is without a baseline."


def frame(baseline: float, shift: float) -> Frame:
    """Variance against the baseline, and the mean that does not move."""
    mean, variance, value = moments(baseline, shift)
    without = moments(0.0, shift)[1]
    return Frame(
        curves=(
            curve("variance of the estimate", BASELINES, variances(shift)),
            curve("this baseline", [baseline], [variance], kind="points"),
            curve("baseline = mean reward", [value], [moments(value, shift)[1]], kind="points"),
        ),
        rows=(
            ("mean of the gradient (three logits)", ", ".join(short(one) for one in mean)),
            ("variance of one sample", short(variance)),
            ("variance without a baseline", short(without)),
            ("mean reward, the usual baseline", short(value)),
        ),
        sentence=(
            f"{comparison(baseline, variance / without)} The mean of the gradient is the same for every baseline, "
            "to the last digit."
        ),
    )


def baseline() -> Explorer:
    """Baseline b: the variance of the policy gradient, whose mean stays."""
    return Explorer(
        name="baseline",
        title="How much noise does a baseline remove?",
        parameters=(
            Parameter("baseline", "b, baseline", tuple(round(-3 + 0.5 * i, 1) for i in range(33)), 4.0),
            Parameter("shift", "all rewards raised by", (0.0, 2.0, 5.0, 10.0), 5.0),
        ),
        function=frame,
        panels=(
            Panel(
                "Variance of the one-sample policy gradient against the baseline.",
                "baseline b (reward)",
                "variance (reward²)",
                x_range=(-3.5, 13.5),
            ),
        ),
    )
