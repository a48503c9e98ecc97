"""From a gap between two scores to a probability, a loss and a gradient: Bradley-Terry."""

import torch

from ppo_lib.book.explorers.core import Frame, Panel, Parameter, curve, short
from ppo_lib.book.explorers.explorer import Explorer
from ppo_lib.formulas.losses import bradley_terry_loss

GAPS = tuple(round(-5 + 0.25 * i, 2) for i in range(41))


def pair(gap: float, margin: float) -> tuple[float, float, float]:
    """Probability of the labeler's choice, loss, and the loss's slope in the gap (by autograd)."""
    chosen = torch.tensor([gap], dtype=torch.float64, requires_grad=True)
    loss = bradley_terry_loss(chosen, torch.zeros_like(chosen), torch.full_like(chosen, margin))
    (slope,) = torch.autograd.grad(loss, chosen)
    return float(torch.exp(-loss.detach())), float(loss.detach()), float(slope)


def frame(gap: float, margin: float) -> Frame:
    """All three against the gap, and where ``gap`` stands."""
    probabilities, losses, slopes = zip(*(pair(one, margin) for one in GAPS), strict=True)
    probability, loss, slope = pair(gap, margin)
    if probability < 0.3:
        meaning = "the pair is judged wrongly, and pulls with nearly its full strength"
    elif probability < 0.75:
        meaning = "the scores hardly decide, and the pair still pulls"
    else:
        meaning = "the pair is judged rightly and hardly pulls any more"
    return Frame(
        curves=(
            curve("probability σ(Δ − m)", GAPS, probabilities),
            curve("size of the gradient", GAPS, [-one for one in slopes]),
            curve("at this gap", [gap, gap], [probability, -slope], kind="points"),
            curve("loss −log σ(Δ − m)", GAPS, losses, panel=1),
            curve("at this gap", [gap], [loss], kind="points", panel=1),
        ),
        rows=(
            ("probability of the labeler's choice", short(probability)),
            ("loss", f"{short(loss)} nats"),
            ("gradient of the loss in Δ", short(slope)),
        ),
        sentence=f"At a gap of {short(gap)}, {meaning}.",
    )


def score_gap() -> Explorer:
    """Score gap Δ: probability that the preferred answer wins, loss, gradient."""
    return Explorer(
        name="score-gap",
        title="What does a gap between two scores mean to the reward model?",
        parameters=(
            Parameter("gap", "Δ, score of chosen − score of rejected", tuple(i / 4 for i in range(-20, 21)), 1.0),
            Parameter("margin", "m, margin", (0.0, 0.5, 1.0, 2.0), 0.0),
        ),
        function=frame,
        panels=(
            Panel("Probability and gradient.", "Δ (score)", "probability; gradient", (-5.2, 5.2), (-0.04, 1.06)),
            Panel("Loss.", "Δ (score)", "loss (nats)", (-5.2, 5.2), (-0.3, 7.3)),
        ),
    )
