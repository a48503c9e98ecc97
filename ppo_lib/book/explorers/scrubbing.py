"""Stepping through a recorded run: its curves with a cursor, and what the policy answered at that step."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from ppo_lib.book.explorers.core import Frame, Panel, Parameter, curve, short, strip
from ppo_lib.book.explorers.explorer import Explorer
from ppo_lib.book.recordings import RecordedRun, load_recorded

# What colors the tokens: column of the recording, and the value of the full tint.
QUANTITIES = {
    "log π_θ − log π_ref (nats)": ("kl", 2.0),
    "advantage Â": ("advantage", 2.0),
    "value V (reward)": ("value", 2.0),
}
CAPTION = "The answer token by token, with the quantity chosen above: blue is positive, orange negative."
RUNS = {
    "β = 0, no rubber band": "pocket/beta_0.0/seed_0",
    "β = 0.05, the recipe": "pocket/beta_0.05/seed_0",
    "β = 0.5": "pocket/beta_0.5/seed_0",
    "no baseline": "pocket/no_baseline/seed_0",
    "all brakes off": "pocket/all_off/seed_0",
    "stories, β = 0.1": "stories/beta_0.1/seed_0",
    "stories, β = 0": "stories/beta_0.0/seed_0",
}
# The judge that PPO is not trained on: column of the samples, and its name.
OTHERS = {"gold": "gold score", "heldout": "held-out judge"}


@lru_cache
def recording(run: str) -> RecordedRun:
    """A recorded run by its readable name."""
    return load_recorded(RUNS[run])


def answers(run: str) -> list[dict[str, Any]]:
    """The recorded answers that have their tokens, at every step that was looked at."""
    return [row for row in recording(run).samples if "tokens" in row]


def answer_at(run: str, prompt: str, step: float) -> dict[str, Any]:
    """The recorded answer to ``prompt`` at the recorded step nearest to ``step``."""
    rows = [row for row in answers(run) if row["prompt"] == prompt]
    return min(rows, key=lambda row: abs(row["iteration"] - step))


def other_column(row: dict[str, Any]) -> str:
    """Which of ``OTHERS`` a recorded answer was judged by."""
    return next(name for name in OTHERS if name in row)


def frame(run: str, prompt: str, step: float, quantity: str) -> Frame:
    """Curves with a cursor at ``step``; the answer with ``quantity`` on its tokens."""
    row = answer_at(run, prompt, step)
    column, scale = QUANTITIES[quantity]
    metrics, other = recording(run), other_column(row)
    iterations = metrics.column("iteration")
    drawn = (("score_mean", "proxy score", 0), (f"{other}_mean", OTHERS[other], 0), ("kl_k1", "KL to the reference", 1))
    curves = [curve(name, iterations, metrics.column(metric), panel=panel) for metric, name, panel in drawn]
    for panel in (0, 1):
        # Iteration 0 is before training: the cursor stands at the first measurement.
        at = max(int(row["iteration"]), 1) - 1
        heights = [metrics.column(metric)[at] for metric, _, where in drawn if where == panel]
        curves.append(curve("this step", [iterations[at]] * len(heights), heights, "points", panel))
    when = "before training" if row["iteration"] == 0 else f"after iteration {row['iteration']}"
    return Frame(
        curves=tuple(curves),
        rows=(
            ("proxy score of this answer", short(row["score"], 3)),
            (f"{OTHERS[other]} of this answer", short(row[other], 3)),
            ("log-ratio summed over the answer", f"{short(sum(row['kl']), 3)} nats"),
            ("length", f"{len(row['tokens'])} tokens"),
        ),
        sentence=f"{when.capitalize()}, asked “{prompt}”: “{' '.join(str(row['response']).split())}”",
        strips=(strip(CAPTION, row["tokens"], row[column], scale),),
    )


def scrubber(
    run: str | Sequence[str] = "β = 0, no rubber band",
    prompt: str | None = None,
    quantities: Sequence[str] = tuple(QUANTITIES),
    name: str = "scrubber",
) -> Explorer:
    """Step through a recorded run, or through several as far as all of them went.

    Args:
        run: one of ``RUNS``, or several of one world to choose from.
        prompt: show only this one; all recorded prompts by default.
        quantities: what may color the tokens, of ``QUANTITIES``.
        name: another one where a page has two scrubbers.

    Raises:
        ValueError: a run or quantity that is not known.
    """
    runs = (run,) if isinstance(run, str) else tuple(run)
    unknown = [one for one in runs if one not in RUNS] + [one for one in quantities if one not in QUANTITIES]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is unknown; runs are {list(RUNS)}, quantities {list(QUANTITIES)}")
    prompts = (prompt,) if prompt else tuple(dict.fromkeys(row["prompt"] for row in answers(runs[0])))
    steps = tuple(sorted(set.intersection(*({int(row["iteration"]) for row in answers(one)} for one in runs))))
    return Explorer(
        name=name,
        title="What did the policy answer at each step, and where did the credit go?",
        parameters=(
            Parameter("run", "run", runs, runs[0]),
            Parameter("step", "iteration", steps, steps[-1], listed=True),
            Parameter("prompt", "prompt", prompts, prompts[0]),
            Parameter("quantity", "color of the tokens", tuple(quantities), quantities[0]),
        ),
        function=frame,
        panels=(
            Panel("Mean scores of each batch.", "iteration", "score"),
            Panel("How far the policy has drifted.", "iteration", "KL (nats per response)"),
        ),
    )
