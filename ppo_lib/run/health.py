"""Is my run healthy? From the metrics of a run to symptoms, likely causes and remedies.

    for finding in diagnose(RunFolder("runs/first", resume=True).metrics()):
        print(finding)

First the reference bands of the metrics and the few statistics that all rests on; then the limits that one number can
break; then the symptoms that show only over many iterations: each rule reads a run and yields what it finds.

The bands are rules of thumb for PPO on language models (the sources are the book's page of hyperparameters). They are
wide, and a run that learns may still leave one for a while: a value outside is a reason to look, no proof of a fault.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

WATCHED = ("gold_mean", "heldout_mean")  # means of judges that the training never reads
WINDOW = 5  # iterations that a mean is taken over, so that one noisy batch is no finding

Rows = Sequence[Mapping[str, Any]]
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Band:
    """Where a metric usually lies.

    Attributes:
        low, high: ends of the band; infinite where there is none.
        meaning: what the metric says, and what is normal.
    """

    low: float
    high: float
    meaning: str

    def __str__(self) -> str:
        if math.isinf(self.low) and math.isinf(self.high):
            return "any value"
        if math.isinf(self.high):
            return f"at least {self.low:g}"
        return f"{self.low:g} to {self.high:g}" if math.isfinite(self.low) else f"up to {self.high:g}"


@dataclass(frozen=True)
class Finding:
    """Something worth looking at.

    Attributes:
        metric: its name in ``metrics.jsonl``.
        iteration: where it was first seen.
        value: the metric there (a mean over a few iterations where noise would mislead).
        band: where the metric usually lies, in words.
        symptom, likely_cause, remedy: one sentence each.
        note: True where the symptom worries people but is no fault.
    """

    metric: str
    iteration: int
    value: float
    band: str
    symptom: str
    likely_cause: str
    remedy: str
    note: bool = False

    def __str__(self) -> str:
        return (
            f"{'note' if self.note else 'look'}: {self.symptom} ({self.metric} {self.value:.3g} at "
            f"iteration {self.iteration}, usual: {self.band}). {self.likely_cause} {self.remedy}"
        )


def bands() -> dict[str, Band]:
    """The reference band of each metric that has one."""
    inf = math.inf
    return {
        "ratio_first_error": Band(0, 1e-6, "distance of the first ratios from 1; rounding only"),
        "sampling_gap_mean": Band(0, 0.05, "between the sampler's log-probs and the scorer's, nats/token"),
        "ratio_max": Band(0, 50, "largest probability ratio of the updates; heavy-tailed"),
        "clip_fraction": Band(0.0, 0.3, "share of tokens whose gradient the clip stopped"),
        "approx_kl": Band(-inf, 0.1, "how far one iteration's updates moved the policy, nats/token"),
        "kl_k1": Band(-1, 30, "KL to the reference, nats/response; may dip below 0 by noise"),
        "kl_k3": Band(0, 30, "KL to the reference, nats/response; never negative"),
        "entropy": Band(0.02, inf, "randomness of the next token, nats; falls slowly"),
        "explained_variance": Band(-0.1, 1.0, "share of the returns' variance the critic foresees"),
        "eos_rate": Band(0.7, 1.0, "share of responses that end within the budget"),
        "score_std": Band(1e-3, inf, "spread of the scores; without one there is nothing to learn"),
        "grad_norm": Band(0, inf, "gradient length before clipping; steady within a factor 10"),
        "policy_loss": Band(-inf, inf, "near 0 either side; it is no measure of progress"),
        "value_loss": Band(0, inf, "squared error of the critic; falls, then follows the scores"),
        "accuracy": Band(0.55, 0.995, "share of pairs ordered rightly; labelers' noise caps it"),
    }


def column(rows: Rows, metric: str) -> Numbers:
    """The metric over the iterations, NaN where it is missing."""
    values = [row.get(metric) for row in rows]
    return np.array([math.nan if v is None else float(v) for v in values], dtype=float)


def averaged(values: Numbers, window: int) -> Numbers:
    """Means over the ``window`` values up to each place; NaN at the start and where one of them is no number."""
    means = np.full(len(values), math.nan)
    if len(values) >= window:
        known = np.where(np.isfinite(values), values, math.nan)
        means[window - 1 :] = sliding_window_view(known, window).mean(axis=1)
    return means


def ends(rows: Rows, metric: str) -> tuple[float, float] | None:
    """Means of the first and of the last few iterations; None for a run too short to have a trend."""
    values = column(rows, metric)
    values = values[np.isfinite(values)]
    if len(values) < 4 * WINDOW:
        return None
    return float(values[:WINDOW].mean()), float(values[-WINDOW:].mean())


def mean(rows: Rows, metric: str) -> float:
    """Mean over the run, NaN where the metric is missing altogether."""
    values = column(rows, metric)
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else math.nan


def noise(values: Numbers) -> float:
    """Standard deviation of one iteration's noise, from successive differences, which a slow trend hardly enters."""
    steps = np.diff(values[np.isfinite(values)])
    return float(steps.std() / math.sqrt(2)) if len(steps) else 0.0


# metric, side of the band, iterations to let pass first, iterations averaged: symptom, cause, remedy
LIMITS: list[tuple[str, str, int, int, str, str, str]] = [
    (
        "ratio_first_error", "high", 0, 1,
        "the ratio is not 1 before the first update",
        "Old and new log-probs are computed in different ways: dropout, temperature, padding, dtype.",
        "Score both with the same code on the same batch, in evaluation mode.",
    ),
    (
        "sampling_gap_mean", "high", 0, 1,
        "answers are drawn from another distribution than the one that is learned from",
        "The sampler's copy of the weights rounds the adapter away, as bfloat16 and float16 do, or is no copy at all.",
        "Set merge_adapter: false, or compute in float32.",
    ),
    (
        "ratio_max", "high", 0, WINDOW,
        "some tokens change their probability many times over within one iteration",
        "The steps are too long, or too many on one batch.",
        "Lower learning_rate or epochs.",
    ),
    (
        "clip_fraction", "high", 0, WINDOW,
        "the clip stops a large part of the tokens",
        "The policy moves too far on one batch.",
        "Lower learning_rate or epochs, or use larger minibatches.",
    ),
    (
        "approx_kl", "high", 0, WINDOW,
        "each update moves the policy far",
        "The learning rate or the number of epochs is too high for the batch.",
        "Lower learning_rate or epochs.",
    ),
    (
        "entropy", "low", 0, WINDOW,
        "the policy hardly varies its answers any more",
        "It has settled on a few answers, often because the reward pays for one phrase.",
        "Raise beta, add entropy_coef, and read the samples.",
    ),
    (
        "explained_variance", "low", 10, 10,
        "the critic forecasts worse than a constant would",
        "The returns' scale changes, or the critic learns too slowly.",
        "Normalize the scores, raise value_coef or loosen value_clip.",
    ),
    (
        "score_std", "low", 0, WINDOW,
        "all responses get the same score",
        "The reward does not tell the responses apart, or the policy gives one answer only.",
        "Read samples.jsonl with their scores; check the reward on answers known to be good and bad.",
    ),
    (
        "accuracy", "low", 20, 20,
        "the order of the pairs hardly beats a coin",
        "The pairs are noise, chosen and rejected are mixed up, or the learning rate is off.",
        "Check a few pairs by hand, then try another learning_rate.",
    ),
    (
        "accuracy", "high", 20, 20,
        "every training pair is ordered rightly",
        "It remembers the pairs, or an artifact gives the chosen response away.",
        "Look at held-out accuracy; use fewer epochs.",
    ),
]  # fmt: skip


def diagnose(metrics: Rows, config: Mapping[str, Any] | None = None) -> list[Finding]:
    """Look for known symptoms in the metrics of a run; also of one that has not ended.

    Args:
        metrics: rows of ``metrics.jsonl``, of any stage.
        config: the run's configuration, where some limits depend on it (``dtype``, ``epochs``), and whose keys alone a
            remedy may name.

    Returns:
        Findings in the order of the iteration where each was first seen; empty for a healthy run.
    """
    settings = config or {}
    rows = [row for row in metrics if "iteration" in row]
    found: list[Finding] = []
    for name in sorted({key for row in rows for key in row}):
        found += not_finite(rows, name)
    limits = bands()
    if settings.get("dtype", "float32") != "float32":
        limits["ratio_first_error"] = Band(0, 1e-2, "rounding of a 16-bit backbone")
    for metric, side, skip, window, *words in LIMITS:
        found += outside(rows[skip:], metric, limits[metric], side, window, words)
    for rule in TRENDS:
        found += rule(rows, settings)
    found = [replace(finding, remedy=within(finding.remedy, settings)) for finding in found]
    return sorted(found, key=lambda finding: (finding.iteration, finding.note, finding.metric))


# What a remedy says of a key that only some configurations have.
ADVICE = (
    ("entropy_coef", ", add entropy_coef"),
    ("entropy_coef", " or entropy_coef"),
    ("kl_target", " or set kl_target"),
    ("whiten_advantages", ", whiten the advantages"),
)


def within(remedy: str, config: Mapping[str, Any]) -> str:
    """A remedy without the advice on keys that a configuration does not have; as it is, where none is known."""
    for key, advice in ADVICE:
        if config and key not in config:
            remedy = remedy.replace(advice, "")
    return remedy


def not_finite(rows: Rows, metric: str) -> Iterable[Finding]:
    """A loss, score or gradient that is NaN or infinite; a critic on constant returns may be."""
    if metric == "explained_variance":
        return
    for row in rows:
        if metric in row and (row[metric] is None or not math.isfinite(float(row[metric]))):
            cause = "A step was too long, a 16-bit format overflowed, or the reward is not finite."
            remedy = "Lower learning_rate, use bfloat16 or float32, and check the reward function."
            if metric in WATCHED:
                cause = "This judge only watches, and failed; the training never reads it."
                remedy = "Nothing to do for the run: the warning in the terminal says why; mend the judge."
            where = int(row["iteration"])
            yield Finding(metric, where, math.nan, "a finite number", f"{metric} is not a number", cause, remedy)
            return


def outside(rows: Rows, metric: str, band: Band, side: str, window: int, words: Sequence[str]) -> Iterable[Finding]:
    """The first place where the metric's running mean leaves its band on the given side; only rows that have it."""
    rows = [row for row in rows if metric in row]
    means = averaged(column(rows, metric), window)
    beyond = means > band.high if side == "high" else means < band.low
    if beyond.any():
        first = int(np.argmax(beyond))
        symptom, cause, remedy = words
        place, value = int(rows[first]["iteration"]), float(means[first])
        yield Finding(metric, place, value, str(band), symptom, cause, remedy)


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


def over_optimized(rows: Rows, config: Mapping[str, Any]) -> Iterable[Finding]:
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
            else "Updates happen, but not toward the reward: noisy advantages, or too high a beta.",
            "Raise learning_rate or epochs." if still
            else "Use a larger rollout_batch, whiten the advantages, or lower beta.",
        )  # fmt: skip


def stuck_ratio(rows: Rows, config: Mapping[str, Any]) -> Iterable[Finding]:
    """The largest ratio stays at 1 although each batch is used for several steps: they change nothing."""
    batch, minibatch = config.get("rollout_batch", 0), config.get("minibatch", 0)
    several = config.get("epochs", 1) > 1 or batch > minibatch > 0
    measured = [row for row in rows if "ratio_max" in row]  # SFT, reward models and DPO have no ratio
    means = averaged(column(measured, "ratio_max"), WINDOW)
    still = means < 1 + STILL
    if several and still.any():
        first = int(np.argmax(still))
        yield Finding(
            "ratio_max", int(measured[first]["iteration"]), float(means[first]), f"above {1 + STILL:g}",
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


# metric, times its usual value, and beyond it by: symptom, cause, remedy
LEAPS: list[tuple[str, float, float, str, str, str]] = [
    (
        "approx_kl", 5.0, 0.08,
        "one update moved the policy many times as far as usual",
        "One batch with extreme advantages. The clip ends a token's pull, and does not bound the step.",
        "Look at the next batch. If it is as before, go on; if this comes again, lower learning_rate or epochs.",
    ),
    (
        "kl_k1", 3.0, 10.0,
        "one batch lies much farther from the reference than those before it",
        "The update before it went too far: look at its approx_kl.",
        "Keep no checkpoint of this iteration. If the next batch is back, go on; if not, lower learning_rate.",
    ),
]  # fmt: skip


def leaping(rows: Rows, config: Mapping[str, Any]) -> Iterable[Finding]:
    """A single iteration far outside what was usual in those before it, which a running mean would hide."""
    before = 2 * WINDOW
    for metric, times, beyond, symptom, cause, remedy in LEAPS:
        measured = [row for row in rows if metric in row]
        values = column(measured, metric)
        if len(values) <= before or (averaged(values, WINDOW) > bands()[metric].high).any():
            continue  # too short to say what is usual; or always far, which is told as such
        usual = np.median(sliding_window_view(values, before)[:-1], axis=1)
        far = values[before:] > np.maximum(times * usual, usual + beyond)
        if far.any():
            first = before + int(np.argmax(far))
            place, value = int(measured[first]["iteration"]), float(values[first])
            band = f"near {usual[first - before]:.2g}"
            yield Finding(metric, place, value, band, symptom, cause, remedy)


def rising_loss(rows: Rows, config: Mapping[str, Any]) -> Iterable[Finding]:
    """SFT, reward model, DPO: the loss ends well above its lowest point, or where it began."""
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
    over_optimized,
    no_learning,
    stuck_ratio,
    endless,
    collapsing,
    spiking,
    leaping,
    rising_loss,
]
