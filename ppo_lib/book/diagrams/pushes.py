"""One token that is drawn and pushed; and samples that are drawn by one policy and counted for another."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ppo_lib.book.diagrams.canvas import JUDGE, NORMAL, PLAIN, POLICY, REFERENCE, Drawing
from ppo_lib.book.drawing import number
from ppo_lib.formulas.losses import policy_gradient_loss

TOKENS = ("out", "the", "a", "rest")  # what may follow "To find"
OLD = (0.70, 0.10, 0.05, 0.15)
NEW = (0.40, 0.30, 0.10, 0.20)
DRAWN, SCORE, USUAL, RATE = 1, 4.0, 5.0, 0.25  # "the" was drawn; its answer's score, the usual score, the step size
SAMPLES = 20
COLUMNS = (54.0, 138.0, 222.0, 306.0)


def percent(share: float) -> str:
    """A share as a reader wants it."""
    return f"{number(round(100 * share))} %"


def pushed(probabilities: Sequence[float], token: int, weight: float, rate: float) -> list[float]:
    """The distribution after one step of REINFORCE on one sampled token, by the library's loss and its gradient.

    Args:
        probabilities: before.
        token: which one was sampled.
        weight: what it is pushed by, the reward or the reward less a baseline.
        rate: size of the step on the logits.
    """
    logits = torch.tensor(probabilities, dtype=torch.float64).log().requires_grad_()
    logprob = torch.log_softmax(logits, -1)[token].reshape(1, 1)
    ones = torch.ones(1, 1, dtype=torch.float64)
    policy_gradient_loss(logprob, weight * ones, ones).backward()
    assert logits.grad is not None
    return torch.softmax(logits.detach() - rate * logits.grad, -1).tolist()


def push() -> Drawing:
    """A sampled token pushed by its reward, then by its reward less a baseline."""
    plain = pushed(OLD, DRAWN, SCORE, RATE)
    based = pushed(OLD, DRAWN, SCORE - USUAL, RATE)
    word = TOKENS[DRAWN]
    drawing = Drawing(
        "One token is drawn and pushed by its score. Compared with the usual score, the same push turns round.",
        f"Three rows of bars, the chances of the next token after “To find”. Row 1: out {percent(OLD[0])}, the "
        f"{percent(OLD[1])}, a {percent(OLD[2])}, the rest {percent(OLD[3])}. By chance “{word}” is drawn, and "
        f"its answer gets the score {number(SCORE)}. Row 2: pushed by {number(SCORE)}, its chance rises from "
        f"{percent(OLD[DRAWN])} to {percent(plain[DRAWN])}, and “out” falls to {percent(plain[0])}, although "
        f"answers usually get {number(USUAL)}. Row 3: pushed by {number(SCORE)} − {number(USUAL)} = "
        f"{number(SCORE - USUAL)}, its chance falls to {percent(based[DRAWN])}.",
        height=560,
    )
    drawing.write(10, 22, "Next token after “To find”", size=NORMAL, bold=True, anchor="start")
    bars(drawing, 150, OLD, tone=PLAIN)
    x = COLUMNS[DRAWN]
    drawing.arrow((x, 78), (x, 108), tone=JUDGE, width=2.4)
    drawing.write(x, 54, "drawn by chance", tone=JUDGE, bold=True)
    drawing.write(x, 70, f"score {number(SCORE)}", tone=JUDGE)

    drawing.write(10, 206, f"Pushed by its score, {number(SCORE)}", size=NORMAL, bold=True, anchor="start")
    drawing.write(10, 223, "A poor answer, and yet: more of it!", faint=True, anchor="start")
    bars(drawing, 338, plain, before=OLD)
    title = f"Pushed by score − usual: {number(SCORE)} − {number(USUAL)} = {number(SCORE - USUAL)}"
    drawing.write(10, 398, title, size=NORMAL, bold=True, anchor="start")
    drawing.write(10, 415, "Worse than usual: a little less of it.", faint=True, anchor="start")
    bars(drawing, 534, based, before=OLD)
    return drawing


def bars(
    drawing: Drawing,
    floor: float,
    shares: Sequence[float],
    before: Sequence[float] = (),
    tone: str = POLICY,
    tall: float = 84.0,
) -> None:
    """One bar for each token on the height ``floor``, what it was before as a dashed outline."""
    scale = tall / max((*OLD, *NEW))
    drawing.stroke((12, floor), (348, floor), width=1.2)
    for i, (x, share) in enumerate(zip(COLUMNS, shares, strict=True)):
        up = share * scale
        hit = bool(before) and i == DRAWN
        drawing.bar(x - 24, floor - up, 48, up, JUDGE if hit else tone, faint=not hit)
        top = floor - up
        if before:
            drawing.bar(x - 24, floor - before[i] * scale, 48, before[i] * scale, PLAIN, hollow=True)
            top = min(top, floor - before[i] * scale)
        drawing.write(x, top - 5, percent(share), bold=hit)
        drawing.write(x, floor + 16, TOKENS[i])


def reweighting() -> Drawing:
    """Samples of the old policy, counted for the new one: dots that grow and shrink."""
    old, new = torch.tensor(OLD, dtype=torch.float64), torch.tensor(NEW, dtype=torch.float64)
    counts = (old * SAMPLES).round()
    ratios = new / old
    weights = torch.repeat_interleave(ratios, counts.long())
    worth = float(weights.sum() ** 2 / (weights**2).sum())
    said = ", ".join(f"{token} {number(float(ratio))}" for token, ratio in zip(TOKENS, ratios, strict=True))
    drawing = Drawing(
        f"The same {SAMPLES} samples, counted for another policy: some shrink, some grow. They are now worth about "
        f"{number(round(worth))}.",
        f"Top: the old policy’s chances, and below them {SAMPLES} samples as dots, as many as the chances say: "
        + ", ".join(f"{token} {int(n)}" for token, n in zip(TOKENS, counts, strict=True))
        + f". Bottom: the new policy’s chances, and the same dots, each as large as its ratio new over old ({said}). "
        "Where the new policy is keener the few dots swell, where it is less keen the many dots shrink. Each token’s "
        "total area is the new chance.",
        height=508,
    )
    drawing.write(10, 20, "The old policy draws", size=NORMAL, bold=True, anchor="start")
    bars(drawing, 108, OLD, tone=PLAIN, tall=60)
    heaps(drawing, 136, counts, torch.ones_like(ratios))
    drawing.write(146, 226, "each dot is one sample", faint=True, anchor="start")
    drawing.write(10, 268, "The new policy counts them", size=NORMAL, bold=True, anchor="start")
    bars(drawing, 356, NEW, tone=POLICY, tall=60)
    for x, ratio in zip(COLUMNS, ratios.tolist(), strict=True):
        drawing.write(x, 390, f"× {number(round(ratio, 2))}", bold=True)
    heaps(drawing, 402, counts, ratios)
    drawing.write(146, 480, "size of a dot: the ratio of", "its chances, new over old", faint=True, anchor="start")
    return drawing


def heaps(drawing: Drawing, top: float, counts: Tensor, sizes: Tensor) -> None:
    """The samples of each token as dots in rows of three, their areas in proportion to ``sizes``."""
    for x, count, size in zip(COLUMNS, counts.long().tolist(), sizes.tolist(), strict=True):
        tone = PLAIN if size == 1 else REFERENCE if size > 1 else JUDGE
        for i in range(count):
            row, column = divmod(i, 3)
            wide = min(3, count - 3 * row)
            drawing.dot(x + 20 * (column - (wide - 1) / 2), top + 10 + 20 * row, 5.2 * size**0.5, tone)
