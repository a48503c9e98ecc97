"""Is my run healthy? From the metrics of a run to symptoms, likely causes and remedies.

    for finding in diagnose(RunFolder("runs/first", resume=True).metrics()):
        print(finding)

Limits that one number can break are listed here; what shows only over many iterations is in
:mod:`ppo_lib.run.health`; the bands are in :mod:`ppo_lib.run.bands`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ppo_lib.run.bands import WINDOW, Band, Finding, Rows, averaged, bands, column
from ppo_lib.run.health import TRENDS

__all__ = ["Band", "Finding", "bands", "diagnose"]

# metric, side of the band, iterations to let pass first, iterations averaged: symptom, cause, remedy
LIMITS: list[tuple[str, str, int, int, str, str, str]] = [
    (
        "ratio_first_error", "high", 0, 1,
        "the ratio is not 1 before the first update",
        "Old and new log-probs are computed in different ways: dropout, temperature, padding, dtype.",
        "Score both with the same code on the same batch, in evaluation mode.",
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
        "Normalise the scores, raise value_coef or loosen value_clip.",
    ),
    (
        "score_std", "low", 0, WINDOW,
        "all responses get the same score",
        "The reward does not tell the responses apart, or the policy gives one answer only.",
        "Read samples.jsonl with their scores; check the reward on answers known to be good and bad.",
    ),
    (
        "accuracy", "low", 20, 20,
        "the reward model hardly beats a coin",
        "The pairs are noise, chosen and rejected are mixed up, or the learning rate is off.",
        "Check a few pairs by hand, then try another learning_rate.",
    ),
    (
        "accuracy", "high", 20, 20,
        "the reward model orders every training pair rightly",
        "It remembers the pairs, or an artefact gives the chosen response away.",
        "Look at held-out accuracy; use fewer epochs.",
    ),
]  # fmt: skip


def diagnose(metrics: Rows, config: Mapping[str, Any] | None = None) -> list[Finding]:
    """Look for known symptoms in the metrics of a run; also of one that has not ended.

    Args:
        metrics: rows of ``metrics.jsonl``, of any of the three stages.
        config: the run's configuration, where some limits depend on it (``dtype``, ``epochs``).

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
    return sorted(found, key=lambda finding: (finding.iteration, finding.note, finding.metric))


def not_finite(rows: Rows, metric: str) -> Iterable[Finding]:
    """A loss, score or gradient that is NaN or infinite; a critic on constant returns may be."""
    if metric == "explained_variance":
        return
    for row in rows:
        if metric in row and (row[metric] is None or not math.isfinite(float(row[metric]))):
            yield Finding(
                metric, int(row["iteration"]), math.nan, "a finite number",
                f"{metric} is not a number",
                "A step was too long, a 16-bit format overflowed, or the reward is not finite.",
                "Lower learning_rate, use bfloat16 or float32, and check the reward function.",
            )  # fmt: skip
            return


def outside(rows: Rows, metric: str, band: Band, side: str, window: int, words: Sequence[str]) -> Iterable[Finding]:
    """The first place where the metric's running mean leaves its band on the given side."""
    means = averaged(column(rows, metric), window)
    if not any(metric in row for row in rows):
        return
    beyond = means > band.high if side == "high" else means < band.low
    if beyond.any():
        first = int(np.argmax(beyond))
        symptom, cause, remedy = words
        place, value = int(rows[first]["iteration"]), float(means[first])
        yield Finding(metric, place, value, str(band), symptom, cause, remedy)
