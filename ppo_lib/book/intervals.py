"""Shares and win rates with the interval that their number of trials allows."""

import math
from collections.abc import Sequence
from typing import Any


def wilson_interval(hits: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a share: unlike ``p ± z·sqrt(p(1 - p)/n)`` it never leaves [0, 1].

    Args:
        hits: successes; halves may occur, as ties.
        count: trials.
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


def share(hits: float, count: int) -> dict[str, Any]:
    """A share with its 95 % interval."""
    low, high = wilson_interval(hits, count)
    return {"share": hits / count, "low": low, "high": high, "count": count}


def wins(before: Sequence[float], after: Sequence[float]) -> dict[str, Any]:
    """How often the second number of a pair is the larger one, with its interval; equal ones count half."""
    won = sum(1.0 if b > a else 0.5 if b == a else 0.0 for a, b in zip(before, after, strict=True))
    return share(won, len(before))


def percent(share: dict[str, Any]) -> str:
    """A share with its interval in percent, as people quote it."""
    return f"{share['share']:.1%} (95 % interval {share['low']:.1%} to {share['high']:.1%}, n = {share['count']})"
