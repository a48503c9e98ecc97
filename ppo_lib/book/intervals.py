"""Shares and win rates with the interval that their number of trials allows."""

import math
from collections.abc import Sequence
from typing import Any


def wilson_interval(hits: float, count: float, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a share: unlike ``p ± z·sqrt(p(1 - p)/n)`` it never leaves [0, 1].

    Args:
        hits: successes; halves may occur, as ties.
        count: trials; an effective number of them need not be whole.
        z: quantile of the normal distribution, 1.96 for 95 %.

    Returns:
        its two ends.

    Raises:
        ValueError: no trial, or more hits than trials.

    Source: Wilson (1927), Probable inference, the law of succession, and statistical inference.
    """
    if count < 1 or not 0 <= hits <= count:
        raise ValueError(f"{hits} hits in {count} trials have no interval; give 0 <= hits <= count, and count above 0")
    p, n = hits / count, count
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def proportion(hits: float, count: int) -> dict[str, Any]:
    """A share with its 95 % interval."""
    low, high = wilson_interval(hits, count)
    return {"share": hits / count, "low": low, "high": high, "count": count}


def proportion_of_groups(groups: Sequence[Sequence[float]]) -> dict[str, Any]:
    """A share with its 95 % interval, of trials that come in groups and resemble each other there.

    The six pairs of one ranking share four responses: if one response is misjudged, several pairs are. Wilson's
    interval would take them for six trials. Here it is taken at the effective number of trials ``n / d``, where the
    design effect ``d`` is how much larger the variance of the share is than that of independent trials. With ``h_k``
    hits among the ``m_k`` trials of group ``k``, ``n`` trials in ``K`` groups and the share ``p``, its variance is the
    cluster-robust one of a ratio, ``K / (K - 1) * sum (h_k - p m_k)^2 / n^2``. It needs no random numbers, as a
    bootstrap over groups would, and stays within [0, 1].

    Args:
        groups: the outcomes of each group, 1 for a hit and 0 for none.

    Returns:
        As :func:`proportion`, with the number of ``groups`` beside the ``count`` of trials. The interval is never
        narrower than Wilson's, and equal to it where each group is one trial. Where all outcomes are equal, or there is
        one group, nothing tells how far trials resemble each other, and each group counts as one trial.

    Raises:
        ValueError: no trial at all.

    Source: Kish (1965), Survey Sampling, for the design effect; Korn and Graubard (1998), Confidence intervals for
    proportions with small expected number of positive counts estimated from survey data; Franco et al. (2019),
    Comparative study of confidence intervals for proportions in complex sample surveys, for Wilson's at ``n / d``.
    """
    groups = [group for group in groups if len(group)]
    hits, count, clusters = sum(map(sum, groups)), sum(map(len, groups)), len(groups)
    if not count:
        return proportion(hits, count)  # refuses
    p = hits / count
    effective = float(clusters)
    if clusters > 1 and 0 < p < 1:
        squares = sum((sum(group) - p * len(group)) ** 2 for group in groups)
        variance = clusters / (clusters - 1) * squares / count**2
        effective = count / max(1.0, variance / (p * (1 - p) / (count - 1)))
    low, high = wilson_interval(p * effective, effective)
    return {"share": p, "low": low, "high": high, "count": count, "groups": clusters}


def wins(before: Sequence[float], after: Sequence[float]) -> dict[str, Any]:
    """How often the second number of a pair is the larger one, with its interval; equal ones count half."""
    won = sum(1.0 if b > a else 0.5 if b == a else 0.0 for a, b in zip(before, after, strict=True))
    return proportion(won, len(before))


def percent(share: dict[str, Any]) -> str:
    """A share with its interval in percent, as people quote it."""
    return f"{share['share']:.1%} (95 % interval {share['low']:.1%} to {share['high']:.1%}, n = {share['count']})"
