"""Record PPO on real weights: the story model of the recipe `stories`, over beta and over seeds.

    python -m ppo_lib align --recipe stories --set model=MODEL --set data=stories:DATA --set prompts=stories:DATA \
        --set heldout_judge=stories:DATA --out runs/stories            # the first two stages, and PPO as people run it
    python benchmarks/stories_sweep.py --run runs/stories --data DATA # PPO again from those stages, and recorded

The head of ppo_lib/recipes/stories.yaml says what MODEL and DATA are. One process of one thread by default; a recorded
run is skipped, so the script can be stopped and started again.
"""

import argparse
import json
import os
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from looks import scrub
from sweeps import run_missing

from ppo_lib.book.intervals import wins
from ppo_lib.book.recordings import save_recorded
from ppo_lib.run.commands import read_recipe, spread
from ppo_lib.run.data import load_prompts
from ppo_lib.run.evaluation import EvaluationConfig, evaluate_policy
from ppo_lib.run.manifests import manifest
from ppo_lib.run.stages import build
from ppo_lib.trainers.configuration import apply_overrides, load_recipe, to_mapping
from ppo_lib.trainers.ppo import PPOTrainer

BETAS, SEEDS = (0.1, 0.0), range(3)
SCRUB_EVERY, SCRUB_ROWS, SCRUB_KEEP = 2, 32, 4
ROWS = 6  # of held-out texts that are kept, before and after


class Job(NamedTuple):
    """One run: its strength of the rubber band, its seed, and the folders that it stands on."""

    beta: float
    seed: int
    run: Path
    data: str


def name_of(job: Job) -> str:
    return f"stories/beta_{job.beta}/seed_{job.seed}"


def record(job: Job) -> str:
    """Run one job to its end and store it."""
    torch.set_num_threads(1)
    source = f"stories:{job.data}"
    settings = ["model=MODEL", *(f"{key}={source}" for key in ("data", "prompts", "heldout_judge"))]
    settings += [f"ppo.beta={job.beta}", f"ppo.seed={job.seed}", "device=cpu"]
    recipe = load_recipe("stories")
    configs, how = read_recipe(apply_overrides(recipe, spread(settings, recipe)), "stories")
    config, stages = configs["ppo"], {stage: job.run / stage for stage in ("sft", "reward")}
    folders = {stage: folder / "model" for stage, folder in stages.items()}
    measured = json.loads((job.run / "evaluation.json").read_text(encoding="utf-8"))
    start, used = time.perf_counter(), time.process_time()
    trainer = build("ppo", config, **folders)
    assert isinstance(trainer, PPOTrainer)
    heldout = load_prompts(config.prompts, "heldout")[: how.count]
    judges = trainer.reward, None, trainer.monitors["heldout"]
    exam = PPOTrainer(config, trainer.policy, heldout, *judges)  # the same policy, on other prompts
    before, first = evaluate_policy(exam, EvaluationConfig())
    rows = list(range(SCRUB_ROWS))
    metrics: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = scrub(trainer, rows, SCRUB_KEEP)
    for _ in range(config.iterations):
        metrics.append(dict(trainer.step()))
        if trainer.iteration % SCRUB_EVERY == 0:
            samples += scrub(trainer, rows, SCRUB_KEEP)
    after, last = evaluate_policy(exam, EvaluationConfig())
    won = {judge: wins([row[judge] for row in first], [row[judge] for row in last]) for judge in ("score", "heldout")}
    about = manifest(
        {**to_mapping(config), "model": "MODEL", "prompts": "stories:DATA", "heldout_judge": "stories:DATA"},
        time.perf_counter() - start,
        name=name_of(job),
        cpu_seconds=round(time.process_time() - used, 2),
        stages={stage: stage_of(folder) for stage, folder in stages.items()},
        evaluation={
            "prompts": len(heldout),
            "before": before,
            "after": after,
            "wins": won,
            "reward_accuracy": measured["reward_accuracy"],
        }
        | {"rows": [{"before": a, "after": b} for a, b in zip(first[:ROWS], last[:ROWS], strict=True)]},
    )
    save_recorded(name_of(job), metrics, samples if job.seed == 0 else [], about)
    return (
        f"{name_of(job):26s} proxy {before['score_mean']:.2f} -> {after['score_mean']:.2f}  held-out "
        f"{before['heldout_mean']:.2f} -> {after['heldout_mean']:.2f} (preferred {won['heldout']['share']:.0%})  "
        f"kl {after['kl_k1']:.1f}  {about['seconds']:.0f} s"
    )


def stage_of(folder: Path) -> dict[str, Any]:
    """What the manifest of a stage's folder says of its cost."""
    description = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return {key: description[key] for key in ("seconds", "peak_memory_bytes", "iterations", "hardware")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of align, with its stages sft and reward")
    parser.add_argument("--data", required=True, help="folder of stories and ratings")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    new = partial(Job, run=options.run.resolve(), data=options.data)
    jobs = [new(beta, seed) for beta in BETAS for seed in SEEDS]
    jobs.sort(key=lambda job: job.seed > 0)  # one seed of each strength first
    run_missing(jobs, name_of, record, options.processes)


if __name__ == "__main__":
    main()
