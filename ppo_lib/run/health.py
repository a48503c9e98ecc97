"""Symptoms that show over many iterations: each rule reads a run and yields what it finds."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ppo_lib.run.bands import WINDOW, Finding, Rows, averaged, bands, column, ends, mean, noise

STILL = 1e-4  # a ratio nearer to 1 than this has not moved: rounding in float32 is a hundred times less


def last(rows: Rows) -> int:
    """Number of the last iteration."""
    return int(rows[-1]["iteration"])


def negative_kl(rows: Rows, config: Mapping[str, Any]) -> Iterable[Finding]:
    """k1 below zero: noise while k3 is small, a mismatch of sampler and scorer while k3 is not."""
    k1, k3 = column(rows, "kl_k1"), column(rows, "kl_k3")
    below = np.flatnonzero(averaged(k1, WINDOW) < -1.0)
    large = [i for i in map(int, below) if averaged(k3, WINDOW)[i] > 2.0]
    if large:
        yield Finding(
            "kl_k1", int(rows[large[0]]["iteration"]), float(averaged(k1, WINDOW)[large[0]]),
            str(bands()["kl_k1"]),
            "the KL estimate k1 stays below zero while k3 is large",
            "The responses were not drawn from the distribution that is scored.",
            "Sample with the temperature that is scored, and without top-k, top-p or minimum length.",
        )  # fmt: skip
    elif (k1 < 0).any():
        first = int(np.argmax(k1 < 0))
        yield Finding(
            "kl_k1", int(rows[first]["iteration"]), float(k1[first]), str(bands()["kl_k1"]),
            "the KL estimate k1 is below zero",
            "k1 is a difference of log-probs: its mean is not negative, a batch of it can be.",
            "Nothing to do: watch k3, which is never negative.",
            note=True,
        )  # fmt: skip


def runaway_kl(rows: Rows, config: Mapping[str, Any]) -> Iterable[Finding]:
    """The rubber band does not hold: KL far out, while the score goes on rising."""
    means, score = averaged(column(rows, "kl_k3"), WINDOW), ends(rows, "score_mean")
    band = bands()["kl_k3"]
    if (means > band.high).any():
        first = int(np.argmax(means > band.high))
        rising = score is not None and score[1] > score[0]
        yield Finding(
            "kl_k3", int(rows[first]["iteration"]), float(means[first]), str(band),
            "the policy runs away from the reference" + (" while its score rises" if rising else ""),
            "The score pays more than the KL costs; far out, the reward model is guessing.",
            "Raise beta or set kl_target; stop early; read the samples.",
        )  # fmt: skip


def over_optimised(rows: Rows, config: Mapping[str, Any]) -> Iterable[Finding]:
    """Goodhart: the score rises, the gold score has passed its peak and lost most of the gain."""
    gold, score = averaged(column(rows, "gold_mean"), WINDOW), ends(rows, "score_mean")
    if score is None or ends(rows, "gold_mean") is None or score[1] <= score[0]:
        return
    known = gold[WINDOW - 1 :]
    start, peak, final = float(known[0]), float(np.nanmax(known)), float(known[-1])
    # Four standard errors: the peak was picked as the highest of many noisy means.
    clear = 4 * noise(column(rows, "gold_mean")) / math.sqrt(WINDOW)
    if peak - final > max(0.5 * (peak - start), clear):
        yield Finding(
            "gold_mean", int(rows[WINDOW - 1 + int(np.nanargmax(known))]["iteration"]), final,
            f"near its peak of {peak:.2f}",
            "the score rises while the gold score falls from its peak",
            "The policy has found what the reward model overrates.",
            "Raise beta, stop at the peak, or train the reward model on such responses.",
        )  # fmt: skip


def no_learning(rows: Rows, config: Mapping[str, Any]) -> Iterable[Finding]:
    """Flat score with a clip that never acts: the steps are too small to matter."""
    score = ends(rows, "score_mean")
    if score is None:
        return
    if score[1] - score[0] < 0.1 * mean(rows, "score_std"):
        still = mean(rows, "clip_fraction") < 1e-3
        yield Finding(
            "score_mean", last(rows), score[1], f"above {score[0]:.2f}, where it began",
            "the score does not rise",
            "The updates are too small: the clip never acts." if still
            else "Updates happen, but not towards the reward: noisy advantages, or too high a beta.",
            "Raise learning_rate or epochs." if still
            else "Use a larger rollout_batch, whiten the advantages, or lower beta.",
        )  # fmt: skip


def stuck_ratio(rows: Rows, config: Mapping[str, Any]) -> Iterable[Finding]:
    """The largest ratio stays at 1 although each batch is used for several steps: they change nothing."""
    batch, minibatch = config.get("rollout_batch", 0), config.get("minibatch", 0)
    several = config.get("epochs", 1) > 1 or batch > minibatch > 0
    means = averaged(column(rows, "ratio_max"), WINDOW)
    still = means < 1 + STILL
    if several and still.any():
        first = int(np.argmax(still))
        yield Finding(
            "ratio_max", int(rows[first]["iteration"]), float(means[first]), f"above {1 + STILL:g}",
            "the ratio stays at 1 although each batch is used for several steps",
            "The steps do not reach the policy: the optimizer holds other parameters, or learning_rate is next to 0.",
            "See that grad_norm is above 0, and that a parameter of the policy changes from one step to the next.",
        )  # fmt: skip


def endless(rows: Rows, config: Mapping[str, Any]) -> Iterable[Finding]:
    """Responses stop ending: the share with an EOS falls."""
    eos, length = ends(rows, "eos_rate"), ends(rows, "response_length")
    if eos is None or length is None:
        return
    if eos[1] < min(eos[0] - 0.1, 0.95) or eos[1] < bands()["eos_rate"].low:
        yield Finding(
            "eos_rate", last(rows), eos[1], str(bands()["eos_rate"]),
            "responses are cut off by the budget instead of ending",
            "The reward pays for length, or max_new_tokens is too small for this task.",
            "Set missing_eos_penalty, or raise max_new_tokens; check the score of cut responses.",
        )  # fmt: skip
    elif length[1] > 1.8 * length[0]:
        yield Finding(
            "response_length", last(rows), length[1], f"near {length[0]:.1f}, where it began",
            "responses grow much longer",
            "The reward model may prefer length as such, as labelers often do.",
            "Compare score and length over the samples; raise beta.",
        )  # fmt: skip


def collapsing(rows: Rows, config: Mapping[str, Any]) -> Iterable[Finding]:
    """Entropy far below where it began, though not yet near zero."""
    entropy = ends(rows, "entropy")
    if entropy and entropy[0] > 0 and bands()["entropy"].low <= entropy[1] < 0.15 * entropy[0]:
        yield Finding(
            "entropy", last(rows), entropy[1], f"above {0.15 * entropy[0]:.2g}, a share of its start",
            "the entropy has collapsed to a small part of what it was",
            "The policy settles early on what the reward model likes best.",
            "Raise beta or entropy_coef, or lower learning_rate.",
        )  # fmt: skip


def spiking(rows: Rows, config: Mapping[str, Any]) -> Iterable[Finding]:
    """A gradient many times its usual length."""
    norms = column(rows, "grad_norm")
    if np.isfinite(norms).sum() < 2 * WINDOW:
        return
    usual = float(np.nanmedian(norms))
    peaks = norms > 20 * usual
    peaks[:WINDOW] = False  # heads that start at zero begin with large gradients
    if peaks.any():
        first = int(np.argmax(peaks))
        yield Finding(
            "grad_norm", int(rows[first]["iteration"]), float(norms[first]), f"near {usual:.2g}",
            "a gradient is many times its usual length",
            "One batch with extreme rewards or ratios, or the run begins to diverge.",
            "Keep max_grad_norm at 1 or below, whiten the advantages, lower learning_rate.",
        )  # fmt: skip


def rising_loss(rows: Rows, config: Mapping[str, Any]) -> Iterable[Finding]:
    """SFT or reward model: the loss ends well above its lowest point, or where it began."""
    loss = averaged(column(rows, "loss"), WINDOW)
    begun = ends(rows, "loss")
    if begun is None:
        return
    lowest = float(np.nanmin(loss))
    if begun[1] > 1.5 * lowest + 0.05:
        yield Finding(
            "loss", last(rows), begun[1], f"near its lowest, {lowest:.2g}",
            "the loss rises again", "The learning rate is too high.", "Lower learning_rate.",
        )  # fmt: skip


TRENDS: list[Callable[[Rows, Mapping[str, Any]], Iterable[Finding]]] = [
    negative_kl,
    runaway_kl,
    over_optimised,
    no_learning,
    stuck_ratio,
    endless,
    collapsing,
    spiking,
    rising_loss,
]
