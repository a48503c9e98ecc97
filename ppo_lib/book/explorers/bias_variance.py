"""Bias and variance of the advantage against λ, as measured on the pocket model."""

import math
from functools import lru_cache
from typing import Any

from ppo_lib.book.explorers.core import Frame, Panel, Parameter, curve, short
from ppo_lib.book.explorers.explorer import Explorer
from ppo_lib.book.recordings import load_recorded

RUN = "pocket/explorer_advantages"


@lru_cache
def measured(gamma: float) -> tuple[dict[str, Any], ...]:
    """The recorded rows of the discount nearest to ``gamma``, λ rising."""
    rows = load_recorded(RUN).metrics
    nearest = min((row["gamma"] for row in rows), key=lambda one: abs(one - gamma))
    return tuple(sorted((row for row in rows if row["gamma"] == nearest), key=lambda row: row["lam"]))


def frame(gamma: float, lam: float) -> Frame:
    """Both against λ, and where this λ stands."""
    rows = measured(gamma)
    lams = [row["lam"] for row in rows]
    errors = [math.hypot(row["bias"], row["deviation"]) for row in rows]
    here = min(range(len(rows)), key=lambda i: abs(lams[i] - lam))
    best = lams[min(range(len(rows)), key=errors.__getitem__)]
    row = rows[here]
    share = 100 * (row["bias"] / errors[here]) ** 2
    if here == len(rows) - 1 and gamma == 1:
        meaning = "At λ = 1 and γ = 1 there is no bias at all, and the most noise"
    elif here == 0:
        meaning = (
            "At λ = 0 there is no noise, since one token's surprise is no gamble; the critic's mistakes are all bias"
        )
    else:
        meaning = f"of the squared error, {short(share, 2)} % is bias and the rest noise"
    return Frame(
        curves=(
            curve("bias (root mean square)", lams, [one["bias"] for one in rows]),
            curve("noise (standard deviation)", lams, [one["deviation"] for one in rows]),
            curve("total error", lams, errors),
            curve("this λ", [lams[here]] * 3, [row["bias"], row["deviation"], errors[here]], "points"),
        ),
        rows=(
            ("bias", short(row["bias"], 3)),
            ("noise", short(row["deviation"], 3)),
            ("total error", short(errors[here], 3)),
            ("λ with the smallest error at this γ", short(best)),
        ),
        sentence=f"At λ = {short(lams[here])}, {meaning}." if not meaning.startswith("At") else f"{meaning}.",
    )


def gae_bias_variance() -> Explorer:
    """γ, λ: bias and noise of Â at real tokens, measured by many continuations of each."""
    about = load_recorded(RUN).manifest
    rows = load_recorded(RUN).metrics
    where = f"{about['states']} tokens of the pocket model, {about['continuations']} continuations each"
    return Explorer(
        name="gae-bias-variance",
        title="What does λ cost: bias, or noise?",
        parameters=(
            Parameter("lam", "λ, mixing", tuple(sorted({row["lam"] for row in rows})), 0.9, listed=True),
            Parameter("gamma", "γ, discount", tuple(sorted({row["gamma"] for row in rows})), 1.0, listed=True),
        ),
        function=frame,
        panels=(
            Panel(
                f"Error of Â at {where}.",
                "λ",
                "error of Â (reward)",
                (-0.03, 1.03),
            ),
        ),
    )
