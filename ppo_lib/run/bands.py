"""Reference bands of the metrics, what a finding is, and the few statistics that both rest on.

The bands are rules of thumb for PPO on language models (the sources are the book's page of
hyperparameters). They are wide, and a run that learns may still leave one for a while: a value
outside is a reason to look, not a proof of a fault.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    """Means over the ``window`` values up to each place; fewer at the start are NaN."""
    sums = np.cumsum(np.concatenate([[0.0], np.nan_to_num(values)]))
    means = np.full(len(values), math.nan)
    if len(values) >= window:
        means[window - 1 :] = (sums[window:] - sums[:-window]) / window
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
