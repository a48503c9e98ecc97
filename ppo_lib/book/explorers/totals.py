"""Three departments, one loss: what c₁ and c₂ weigh."""

import torch
from torch import Tensor

from ppo_lib.book.explorers.core import Frame, Panel, Parameter, curve, short
from ppo_lib.book.explorers.examples import BETA, LOGPROBS, MASK, REF_LOGPROBS, SCORE, VALUES, row
from ppo_lib.book.explorers.explorer import Explorer
from ppo_lib.formulas.advantages import gae
from ppo_lib.formulas.kl import kl_estimate
from ppo_lib.formulas.losses import clipped_policy_loss, entropy, ppo_loss, value_loss
from ppo_lib.formulas.masking import masked_mean
from ppo_lib.formulas.rewards import augmented_rewards

DEPARTMENTS = ("policy", "value", "entropy")
# A backbone of four numbers at each of the three tokens, a head for four logits and a head for one value.
HIDDEN = ((0.9, -0.3, 0.2, 0.5), (-0.4, 0.8, 0.6, -0.2), (0.3, 0.1, 1.0, 0.7))
LOGIT_HEAD = ((1.2, -0.3, 0.1, 0.4), (0.1, 0.9, -0.5, 0.2), (-0.4, 0.3, 0.8, -0.1), (0.2, -0.6, 0.3, 0.5))
VALUE_HEAD = (1.5, 1.0, 2.0, 1.2)


def departments() -> tuple[Tensor, list[Tensor]]:
    """The backbone's numbers, and the three unweighted terms of the worked example before the first step."""
    hidden = torch.tensor([HIDDEN], dtype=torch.float64, requires_grad=True)
    logits = hidden @ torch.tensor(LOGIT_HEAD, dtype=torch.float64)
    forecast = hidden @ torch.tensor(VALUE_HEAD, dtype=torch.float64)
    values = row(*VALUES) + forecast - forecast.detach()  # the worked example's, and they depend on the backbone
    rewards = augmented_rewards(row(SCORE)[0], kl_estimate(row(*LOGPROBS), row(*REF_LOGPROBS)), MASK, BETA)
    advantages, returns = gae(rewards, row(*VALUES), MASK, 0.9, 0.8)
    logprobs = torch.log_softmax(logits, dim=-1)[:, :, 0]
    terms = [
        clipped_policy_loss(logprobs, logprobs.detach(), advantages, MASK).loss,
        value_loss(values, returns, MASK),
        masked_mean(entropy(logits), MASK),
    ]
    return hidden, terms


def frame(value_coef: float, entropy_coef: float) -> Frame:
    """Terms of the loss, and the pull of each on the shared backbone."""
    hidden, terms = departments()
    zero = torch.zeros_like(terms[0])
    parts = [
        ppo_loss(terms[0], zero, zero, value_coef, entropy_coef),
        ppo_loss(zero, terms[1], zero, value_coef, entropy_coef),
        ppo_loss(zero, zero, terms[2], value_coef, entropy_coef),
    ]
    total = ppo_loss(terms[0], terms[1], terms[2], value_coef, entropy_coef)
    amounts = [float(one.detach()) for one in [*parts, total]]
    pulls = [float(torch.autograd.grad(one, hidden, retain_graph=True)[0].norm()) for one in parts]
    names = ("policy: L_policy", "value: +c₁·L_value", "entropy: −c₂·S")
    strongest = max(range(3), key=lambda i: pulls[i])
    share = 100 * pulls[strongest] / sum(pulls)
    return Frame(
        curves=(
            curve("term of the loss", (*DEPARTMENTS, "total L"), amounts, kind="bars"),
            curve("length of its gradient", DEPARTMENTS, pulls, kind="bars", panel=1),
        ),
        rows=(
            *(
                (name, short(term.detach()), short(amount), short(pull))
                for name, term, amount, pull in zip(names, terms, amounts, pulls, strict=False)
            ),
            ("total L", "", short(amounts[3]), short(torch.autograd.grad(total, hidden)[0].norm())),
        ),
        sentence=(
            f"The {DEPARTMENTS[strongest]} term pulls hardest on the shared backbone: {short(share, 2)} % "
            "of the three gradients' lengths."
        ),
    )


def total_loss() -> Explorer:
    """c₁, c₂: how the three terms add up, and which of them moves the shared weights."""
    return Explorer(
        name="total-loss",
        title="Which of the three departments moves the shared weights?",
        parameters=(
            Parameter(
                "value_coef",
                "c₁, weight of the value loss",
                (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0),
                0.1,
                step=0.01,
            ),
            Parameter(
                "entropy_coef",
                "c₂, weight of the entropy",
                (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0),
                0.01,
                step=0.001,
            ),
        ),
        function=frame,
        panels=(
            Panel("What each term adds to the loss.", "term", "loss", y_range=(-3.6, 2.0)),
            Panel("How hard each pulls on the backbone.", "term", "gradient norm", y_range=(0, 6.8)),
        ),
        header=("term", "alone", "in the loss", "gradient"),
    )
