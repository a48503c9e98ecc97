"""Two recorded runs beside each other, of whatever world: score against drift, and what another judge says."""

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import fmean

from ppo_lib.book.explorers.core import Curve, Frame, Panel, Parameter, curve, short
from ppo_lib.book.explorers.explorer import Explorer
from ppo_lib.book.recordings import RecordedRun, list_recorded, load_recorded

# Folders of recorded runs, one run per seed. The names are read on a phone, so they are short.
RUNS = {
    "stories, β = 0.1": "stories/beta_0.1",
    "stories, β = 0": "stories/beta_0.0",
    "stories, β = 0.3": "stories/beta_0.3",
    "pocket, β = 0.05": "pocket/beta_0.05",
    "pocket, β = 0": "pocket/beta_0.0",
}
LAST = 3  # iterations whose mean is "the end"
FIRST, SECOND = "first run", "second run"


@lru_cache
def seeds_of(run: str) -> tuple[RecordedRun, ...]:
    """The recorded seeds of a run, by its readable name."""
    return tuple(load_recorded(name) for name in list_recorded() if name.startswith(f"{RUNS[run]}/"))


def available() -> tuple[str, ...]:
    """The names of ``RUNS`` that are recorded."""
    return tuple(run for run in RUNS if seeds_of(run))


def other_metric(run: RecordedRun) -> str:
    """The metric of the judge that PPO was not trained on."""
    return "gold_mean" if "gold_mean" in run.metrics[0] else "heldout_mean"


def mean_of(runs: Sequence[RecordedRun], metric: str) -> list[float]:
    """A metric's mean over the seeds, iteration by iteration."""
    return [fmean(values) for values in zip(*(run.column(metric) for run in runs), strict=True)]


def range_at_end(runs: Sequence[RecordedRun], metric: str) -> str:
    """Mean of the last iterations, and between which values the seeds lie."""
    ends = [fmean(run.column(metric)[-LAST:]) for run in runs]
    return f"{short(fmean(ends), 3)} ({short(min(ends), 3)} to {short(max(ends), 3)})"


def curves_of_runs(runs: Sequence[RecordedRun], name: str) -> list[Curve]:
    """Proxy against KL, KL over iterations, and the other judge over iterations."""
    steps = [row["iteration"] for row in runs[0].metrics]
    nats = mean_of(runs, "kl_k1")
    return [
        curve(name, nats, mean_of(runs, "score_mean"), panel=0),
        curve(name, steps, nats, panel=1),
        curve(name, steps, mean_of(runs, other_metric(runs[0])), panel=2),
    ]


def frame(first: str, second: str) -> Frame:
    """Both runs, means over their seeds."""
    both = [seeds_of(first), seeds_of(second)]

    def row(name: str, metric: str) -> tuple[str, str, str]:
        cells = (range_at_end(runs, metric or other_metric(runs[0])) for runs in both)
        return (name, *cells)  # type: ignore[return-value]

    model = ("model", *("3.15 M, found" if "stories" in run else "0.96 M, made here" for run in (first, second)))
    judge = ("other judge", *("gold score" if "gold" in other_metric(runs[0]) else "word lexicon" for runs in both))
    prices = [(fmean(mean_of(runs, "kl_k1")[-LAST:]), fmean(mean_of(runs, "score_mean")[-LAST:])) for runs in both]
    nearer = min((first, second), key=lambda run: prices[(first, second).index(run)][0])
    sentence = (
        "Twice the same run."
        if first == second
        else f"“{nearer}” ends nearer to its reference, at {short(min(prices)[0], 3)} nats against "
        f"{short(max(prices)[0], 3)}."
    )
    return Frame(
        curves=tuple(
            one for runs, name in zip(both, (FIRST, SECOND), strict=True) for one in curves_of_runs(runs, name)
        ),
        rows=(
            model,
            ("seeds", *(str(len(runs)) for runs in both)),
            row("proxy score", "score_mean"),
            row("KL, nats per response", "kl_k1"),
            judge,
            row("its score", ""),
        ),
        sentence=sentence,
    )


def compare_runs() -> Explorer:
    """Two recorded runs beside each other.

    Raises:
        ValueError: none is recorded.
    """
    names = available()
    if not names:
        raise ValueError("no run of the capstone is recorded; benchmarks/stories_sweep.py records them")
    highest = max(math.ceil(max(mean_of(seeds_of(run), "score_mean"))) for run in names)
    return Explorer(
        name="compare-runs",
        title="What does another run buy with its nats?",
        parameters=(
            Parameter("first", "first run", names, names[0]),
            Parameter("second", "second run", names, names[min(1, len(names) - 1)]),
        ),
        function=frame,
        panels=(
            Panel(
                "What was trained for, and its price.", "KL (nats per response)", "proxy score", y_range=(-1, highest)
            ),
            Panel("How far the policy has drifted.", "iteration", "KL (nats per response)"),
            Panel("A judge that was never trained on.", "iteration", "its own unit"),
        ),
        header=("at the end", FIRST, SECOND),
    )
