"""From a gap between two scores to a probability, a loss and a gradient: Bradley-Terry."""

import torch

from ppo_lib.book.explorers.core import Frame, Panel, Parameter, curve, short
from ppo_lib.book.explorers.explorer import Explorer
from ppo_lib.formulas.losses import bradley_terry_loss

GAPS = tuple(round(-5 + 0.25 * i, 2) for i in range(41))


def pair(gap: float, margin: float) -> tuple[float, float, float]:
    """Probability of the labeler's choice σ(Δ), loss −log σ(Δ − m), and the loss's slope in the gap (by autograd)."""
    chosen = torch.tensor([gap], dtype=torch.float64, requires_grad=True)
    loss = bradley_terry_loss(chosen, torch.zeros_like(chosen), torch.full_like(chosen, margin))
    (slope,) = torch.autograd.grad(loss, chosen)
    return float(torch.sigmoid(chosen.detach())), float(loss.detach()), float(slope)


def meaning(gap: float, margin: float) -> str:
    """How the scores order the pair (the sign of the gap), and how hard the loss pulls (its slope)."""
    order = "do not order the pair" if gap == 0 else f"order the pair {'rightly' if gap > 0 else 'wrongly'}"
    wanted = f", and the margin asks for a gap above {short(margin)}" if margin else ""
    return (
        f"At a gap of {short(gap)} the scores {order}{wanted}. The pair pulls with {short(-pair(gap, margin)[2], 2)} "
        "of its full strength of 1."
    )


def frame(gap: float, margin: float) -> Frame:
    """All three against the gap, and where ``gap`` stands."""
    probabilities, losses, slopes = zip(*(pair(one, margin) for one in GAPS), strict=True)
    probability, loss, slope = pair(gap, margin)
    return Frame(
        curves=(
            curve("probability σ(Δ)", GAPS, probabilities),
            curve("pull, the size of the gradient", GAPS, [-one for one in slopes]),
            curve("at this gap", [gap, gap], [probability, -slope], kind="points"),
            curve("loss −log σ(Δ − m)", GAPS, losses, panel=1),
            curve("at this gap", [gap], [loss], kind="points", panel=1),
        ),
        rows=(
            ("probability of the labeler's choice, σ(Δ)", short(probability)),
            ("loss, −log σ(Δ − m)", f"{short(loss)} nats"),
            ("gradient of the loss in Δ", short(slope)),
        ),
        sentence=meaning(gap, margin),
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
            Panel("Probability and pull.", "Δ (score)", "probability; pull", (-5.2, 5.2), (-0.04, 1.06)),
            Panel("Loss.", "Δ (score)", "loss (nats)", (-5.2, 5.2), (-0.3, 7.3)),
        ),
    )
