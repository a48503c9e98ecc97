"""β against proxy score, gold score and KL, over recorded runs of the pocket model."""

import math
import statistics
from functools import lru_cache

from ppo_lib.book.explorers.core import Curve, Frame, Panel, Parameter, curve, short
from ppo_lib.book.explorers.explorer import Explorer
from ppo_lib.book.recordings import RecordedRun, list_recorded, load_recorded

PREFIX = "pocket/beta_"
LAST = 5  # iterations whose mean is "the end": one batch is noisy


@lru_cache
def sweep() -> dict[float, list[RecordedRun]]:
    """The recorded runs by β, rising; one run per seed."""
    found: dict[float, list[RecordedRun]] = {}
    for name in list_recorded():
        if name.startswith(PREFIX):
            found.setdefault(float(name.removeprefix(PREFIX).split("/")[0]), []).append(load_recorded(name))
    if not found:
        raise ValueError(f"no run below {PREFIX!r} is recorded; benchmarks/pocket_sweep.py records them")
    return dict(sorted(found.items()))


def at_end(runs: list[RecordedRun], metric: str) -> tuple[float, float]:
    """Mean and standard deviation over seeds of a metric's last iterations."""
    ends = [statistics.fmean(run.column(metric)[-LAST:]) for run in runs]
    return statistics.fmean(ends), statistics.stdev(ends) if len(ends) > 1 else 0.0


def over_seeds(runs: list[RecordedRun], metric: str) -> list[tuple[float, ...]]:
    """For each iteration the metric of all seeds."""
    return list(zip(*(run.column(metric) for run in runs), strict=True))


def points_of(name: str, betas: list[str], ends: list[tuple[float, float]], panel: int = 0) -> Curve:
    """Points with their spread: mean and standard deviation over seeds, for each β."""
    means, spreads = zip(*ends, strict=True)
    return curve(name, betas, means, "points", panel, spread=spreads)


def plus_minus(pair: tuple[float, float]) -> str:
    """Mean ± standard deviation as text."""
    return f"{short(pair[0], 3)} ± {short(pair[1], 2)}"


def frame(beta: float) -> Frame:
    """All β at the end of training, and this β on the way there."""
    runs = sweep()
    nearest = min(runs, key=lambda one: abs(one - beta))
    names = [short(one) for one in runs]
    here = [short(nearest)]
    ends = {
        metric: [at_end(seeds, metric) for seeds in runs.values()] for metric in ("score_mean", "gold_mean", "kl_k1")
    }
    proxy, gold, nats = (at_end(runs[nearest], metric) for metric in ends)
    best = max(zip(runs, ends["gold_mean"], strict=True), key=lambda pair: pair[1][0])[0]
    way = over_seeds(runs[nearest], "gold_mean")
    steps = range(1, len(way) + 1)
    gaps = [at_end(runs[nearest], metric)[0] - at_end(runs[best], metric)[0] for metric in ("score_mean", "gold_mean")]
    if nearest == best:
        meaning = f"β = {short(best)} ends with the highest gold score of all strengths tried."
    else:
        proxy_gap, gold_gap = (("+" if gap > 0 else "") + short(gap, 2) for gap in gaps)
        drift = nats[0] - at_end(runs[best], "kl_k1")[0]
        meaning = (
            f"Against β = {short(best)}, which ends with the highest gold score, the proxy stands {proxy_gap} and the "
            f"gold score {gold_gap}, at {short(abs(drift), 2)} nats {'more' if drift > 0 else 'less'} drift."
        )
    return Frame(
        curves=(
            points_of("proxy score", names, ends["score_mean"]),
            points_of("gold score", names, ends["gold_mean"]),
            curve("this β", here * 2, [proxy[0], gold[0]], "points"),
            points_of("KL at the end", names, ends["kl_k1"], panel=1),
            curve("this β", here, [nats[0]], "points", 1),
            curve(
                "proxy, mean of the seeds",
                steps,
                map(statistics.fmean, over_seeds(runs[nearest], "score_mean")),
                panel=2,
            ),
            curve("gold, mean of the seeds", steps, map(statistics.fmean, way), panel=2),
            curve(
                "gold, best and worst seed",
                [*steps, len(way), *steps],
                [*map(max, way), math.nan, *map(min, way)],
                panel=2,
            ),
        ),
        rows=(
            ("proxy score at the end", plus_minus(proxy)),
            ("gold score at the end", plus_minus(gold)),
            ("KL at the end", f"{plus_minus(nats)} nats per response"),
            ("seeds", str(len(runs[nearest]))),
        ),
        sentence=meaning,
    )


def beta_runs() -> Explorer:
    """β over recorded runs: proxy score, gold score and KL with their spread over seeds."""
    grid = tuple(sweep())
    return Explorer(
        name="beta-runs",
        title="Which β earns the most of what we really want?",
        parameters=(
            # A run cannot be interpolated: the live form, too, offers the strengths that were run.
            Parameter("beta", "β, strength of the rubber band", grid, 0.1 if 0.1 in grid else grid[0], listed=True),
        ),
        function=frame,
        panels=(
            Panel("Scores at the end of training, mean and spread over seeds.", "β", "score"),
            Panel("Drift at the end of training.", "β", "KL (nats per response)"),
            Panel("Scores on the way, at this β.", "iteration", "score"),
        ),
    )
