"""The ratios of a real batch, epoch by epoch, and how many of them the clip holds back."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from ppo_lib.book.explorers.core import Frame, Panel, Parameter, curve, short
from ppo_lib.book.explorers.explorer import Explorer
from ppo_lib.book.recordings import load_recorded
from ppo_lib.formulas.losses import clipped_policy_loss

RUN = "pocket/explorer_ratios"
WIDTHS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
CENTERS = tuple(round(0.4 + 0.05 * i, 2) for i in range(25))
TRAINED = {"with the clip (ε = 0.2)": True, "without any clip": False}


@lru_cache
def batch(trained: str, epoch: int) -> tuple[Tensor, Tensor]:
    """Log-ratios and advantages of the recorded tokens, ``(1, N)`` each."""
    for row in load_recorded(RUN).samples:
        if row["clipped"] == TRAINED[trained] and row["epoch"] == epoch:
            return (
                torch.tensor([row["log_ratio"]], dtype=torch.float64),
                torch.tensor([row["advantage"]], dtype=torch.float64),
            )
    raise ValueError(f"epoch is {epoch}, but the recording {RUN!r} has no such epoch {trained}")


def cut(log_ratios: Tensor, advantages: Tensor, epsilon: float) -> tuple[Tensor, float]:
    """Which tokens' gradient the clip cuts, by autograd, and the clip fraction."""
    logprobs = log_ratios.clone().requires_grad_()
    found = clipped_policy_loss(
        logprobs, torch.zeros_like(log_ratios), advantages, torch.ones_like(log_ratios), epsilon
    )
    (gradient,) = torch.autograd.grad(found.loss, logprobs)
    return (gradient == 0) & (advantages != 0), float(found.clip_fraction)


def histogram(ratios: Tensor) -> list[float]:
    """How many ratios lie nearest to each center; those beyond the ends are counted at the ends.

    The many at 1 are left out: drawn, they would press all others flat.
    """
    nearest = ((ratios - CENTERS[0]) / 0.05).round().clamp(0, len(CENTERS) - 1).long()
    counts = torch.bincount(nearest, minlength=len(CENTERS)).tolist()
    return [math.nan if center == 1 else count for center, count in zip(CENTERS, counts, strict=True)]


def highest() -> float:
    """The largest count in any recorded epoch."""
    rows = load_recorded(RUN).samples
    logs = [torch.tensor(row["log_ratio"], dtype=torch.float64) for row in rows]
    return max(count for one in logs for count in histogram(one.exp()) if not math.isnan(count))


@lru_cache
def fractions(trained: str, epoch: int) -> tuple[float, ...]:
    """The clip fraction against ε, in percent."""
    return tuple(100 * cut(*batch(trained, epoch), width)[1] for width in WIDTHS)


def frame(epsilon: float, epoch: int, trained: str) -> Frame:
    """Histogram of the ratios, split by whether their gradient flows, and the clip fraction against ε."""
    log_ratios, advantages = batch(trained, int(epoch))
    held, fraction = cut(log_ratios, advantages, epsilon)
    ratios = log_ratios.exp()
    beyond = int(((ratios - 1).abs() > epsilon).sum())
    moved = ratios - 1 - log_ratios  # each token's part of the KL
    most = float(moved.max() / moved.sum()) if float(moved.sum()) > 0 else 0.0
    plain = clipped_policy_loss(
        log_ratios, torch.zeros_like(log_ratios), advantages, torch.ones_like(log_ratios), math.inf
    )
    if epoch == 0:
        meaning = "Before the first step every ratio is 1: there is nothing to clip."
    else:
        meaning = (
            f"After epoch {int(epoch)}, {beyond} of {ratios.numel()} ratios lie outside 1 ± {short(epsilon)}; the clip "
            f"cuts the gradient of {int(held.sum())} of them, those that have already gone the right way."
        )
    return Frame(
        curves=(
            curve("gradient flows", CENTERS, histogram(ratios[~held]), "bars"),
            curve("gradient cut by the clip", CENTERS, histogram(ratios[held]), "bars"),
            curve("clip fraction", WIDTHS, fractions(trained, int(epoch)), panel=1),
            curve("this ε", [epsilon], [100 * fraction], "points", 1),
        ),
        rows=(
            ("tokens", str(ratios.numel())),
            ("with a ratio within 2.5 % of 1, not drawn", str(int(((ratios - 1).abs() <= 0.025).sum()))),
            ("outside 1 ± ε", str(beyond)),
            ("clip fraction", f"{short(100 * fraction, 3)} %"),
            ("smallest and largest ratio", f"{short(ratios.min(), 3)} and {short(ratios.max(), 3)}"),
            ("KL from the sampling policy", f"{short(plain.approx_kl, 3)} nats per token"),
            ("of which the furthest token alone makes", f"{short(100 * most, 2)} %"),
        ),
        sentence=meaning,
    )


def clip_batch() -> Explorer:
    """ε on a real batch of the pocket model: its ratios after each epoch, and the clip fraction."""
    epochs = tuple(sorted({int(row["epoch"]) for row in load_recorded(RUN).samples}))
    return Explorer(
        name="clip-batch",
        title="How many tokens of a real batch does the clip hold back?",
        parameters=(
            Parameter("epsilon", "ε, clip width", WIDTHS, 0.2, step=0.01),
            Parameter("epoch", "epochs on this batch", epochs, epochs[-1], listed=True),
            Parameter("trained", "trained", tuple(TRAINED), next(iter(TRAINED))),
        ),
        function=frame,
        panels=(
            Panel(
                "Ratios of the tokens; the outermost bars hold all beyond.",
                "ratio ρ",
                "tokens",
                (0.35, 1.65),
                (0, 1.05 * highest()),
                stacked=True,
            ),
            Panel("Clip fraction against the width.", "ε", "clip fraction (%)", (-0.01, 0.52), (-0.5, 18)),
        ),
    )
