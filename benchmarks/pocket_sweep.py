"""Record the pocket runs that the chapters show: PPO over beta and over seeds, and the ablations.

    python benchmarks/pocket_sweep.py                       # everything that is not there yet
    python benchmarks/pocket_sweep.py --only beta           # the sweep over beta
    python benchmarks/pocket_sweep.py --table               # print what was recorded

Two processes of one thread each. A finished run is skipped, so the script can be stopped and started again.
"""

import argparse
import math
import os
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from looks import scrub
from sweeps import run_missing

from ppo_lib import pocket
from ppo_lib.book.recordings import list_recorded, load_recorded, save_recorded
from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.tokens import encode_pairs
from ppo_lib.run.manifests import manifest
from ppo_lib.sampling.rollout import generate_text
from ppo_lib.trainers.configuration import PPOConfig, load_recipe, read_config, to_mapping
from ppo_lib.trainers.ppo import PPOTrainer

SEEDS = range(5)
BETAS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
VARIANTS: dict[str, dict[str, Any]] = {
    "no_clip_many_epochs": {"epsilon": None, "value_clip": None, "epochs": 8},
    "many_epochs": {"epochs": 8},
    "no_policy_clip_many_epochs": {"epsilon": None, "epochs": 8},
    # The critic and the lambda that goes with it, and that lambda alone.
    "no_critic": {"value_coef": 0.0, "lam": 1.0},
    "lambda_one": {"lam": 1.0},
    # What the score is compared with: normalized scores still have the SFT model's mean taken off.
    "no_baseline": {"value_coef": 0.0, "lam": 1.0, "whiten_advantages": False},
    "raw_no_baseline": {"value_coef": 0.0, "lam": 1.0, "whiten_advantages": False, "normalize_scores": False},
    "no_baseline_entropy_bonus": {"value_coef": 0.0, "lam": 1.0, "whiten_advantages": False, "entropy_coef": 0.02},
    "no_whitening": {"whiten_advantages": False},
    "raw_rewards": {"normalize_scores": False, "whiten_advantages": False},
    "entropy_bonus": {"beta": 0.0, "entropy_coef": 0.02},
    "all_off": {
        "beta": 0.0,
        "epsilon": None,
        "value_clip": None,
        "epochs": 8,
        "value_coef": 0.0,
        "lam": 1.0,
        "whiten_advantages": False,
        "normalize_scores": False,
        "max_grad_norm": 1e6,
    },
}
VARIANT_ITERATIONS = 20  # enough to fail; compare with the sweep's look after as many
LOOKS = (5, 10, 15, 20, 30, 40)  # iterations after which diversity and forgetting are looked at; more of them early
SCRUB_EVERY, SCRUB_ROWS, SCRUB_KEEP = 5, 32, 4
SCRUBBED_SEED = 0
SCRUBBED = ("beta_0.0", "beta_0.05", "beta_0.5", "no_baseline", "all_off")


Job = tuple[str, dict[str, Any], int]  # name, overrides, seed


def runs() -> Iterator[Job]:
    """Name, overrides and seed of every run."""
    for seed in SEEDS:
        for beta in BETAS:
            yield f"beta_{beta}", {"beta": beta}, seed
    for seed in SEEDS:
        for name, overrides in VARIANTS.items():
            yield name, {"iterations": VARIANT_ITERATIONS} | overrides, seed


def name_of(job: Job) -> str:
    name, _, seed = job
    return f"pocket/{name}/seed_{seed}"


@torch.no_grad()
def base_perplexity(policy: ActorCritic, documents: list[str]) -> float:
    """Perplexity per token of the policy on base-corpus text: what it has forgotten (first tokens are given)."""
    backbone = policy.backbone
    ids = backbone.tokenizer(documents)["input_ids"]
    decode = backbone.tokenizer.decode
    batch = encode_pairs(
        backbone.tokenizer,
        [decode(row[:4]) for row in ids],
        [decode(row[4:]) for row in ids],
        backbone.eos_token_ids[0],
        backbone.pad_token_id,
    )
    logprobs = policy.evaluate(batch).logprobs
    return math.exp(-float(logprobs.sum() / batch.mask.sum()))


def held_out(trainer: PPOTrainer) -> dict[str, float]:
    """Proxy and gold score, length and diversity of sampled answers to the held-out prompts.

    ``distinct_answers`` is over one answer to each prompt, ``distinct_of_8`` over eight answers to one prompt (mean of
    16 prompts), ``distinct_words`` counts the words in use, ``top_opening`` is the share of the commonest first word.
    """
    prompts = pocket.prompts("heldout")
    config = trainer.config
    answers = generate_text(trainer.backbone, prompts, config.max_new_tokens, 1.0, "policy", seed=12345)
    scores = trainer.reward.scores(prompts, answers)  # type: ignore[union-attr]
    openings = Counter(answer.split()[0] if answer.split() else "" for answer in answers)
    few = [prompt for prompt in prompts[:: len(prompts) // 16][:16] for _ in range(8)]
    again = generate_text(trainer.backbone, few, config.max_new_tokens, 1.0, "policy", seed=4321)
    return {
        "heldout_score": statistics.fmean(scores),
        "heldout_gold": statistics.fmean(pocket.gold_scores(prompts, answers)),
        "heldout_words": statistics.fmean(len(answer.split()) for answer in answers),
        "distinct_answers": len(set(answers)) / len(answers),
        "distinct_of_8": statistics.fmean(len(set(again[i : i + 8])) / 8 for i in range(0, len(again), 8)),
        "distinct_words": float(len(set(" ".join(answers).split()))),
        "top_opening": openings.most_common(1)[0][1] / len(answers),
    }


def record(job: Job) -> str:
    """Run one job to its end and store it."""
    name, overrides, seed = job
    torch.set_num_threads(1)
    recipe = load_recipe("pocket")["ppo"]
    config = read_config(PPOConfig, recipe | overrides | {"seed": seed, "device": "cpu"}, name)
    start = time.perf_counter()
    backbone = pocket.load_backbone("sft")
    reward = pocket.load_reward_model(backbone)
    policy = ActorCritic(backbone, config.lora_rank, seed=seed)
    prompts = pocket.prompts("train")
    trainer = PPOTrainer(config, policy, prompts, reward, pocket.gold_scores)
    documents = list(islice(pocket.documents(seed=99), 64))
    favorites = [p for p in prompts if p.startswith("What is the capital")][:2] + prompts[:SCRUB_ROWS]
    rows = [prompts.index(p) for p in list(dict.fromkeys(favorites))[:SCRUB_ROWS]]
    scrubbed = seed == SCRUBBED_SEED and name in SCRUBBED
    metrics: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = scrub(trainer, rows, SCRUB_KEEP) if scrubbed else []
    looks: list[dict[str, Any]] = [
        {"iteration": 0, **held_out(trainer), "base_perplexity": base_perplexity(policy, documents)}
    ]
    for _ in range(config.iterations):
        row: dict[str, Any] = trainer.step()
        if trainer.iteration in LOOKS or trainer.iteration == config.iterations:
            look = {**held_out(trainer), "base_perplexity": base_perplexity(policy, documents)}
            looks.append({"iteration": trainer.iteration, **look})
        metrics.append(row)
        if scrubbed and trainer.iteration % SCRUB_EVERY == 0:
            samples += scrub(trainer, rows, SCRUB_KEEP)
        elif trainer.iteration == config.iterations:
            samples += trainer.samples()[:3]
    about = manifest(
        to_mapping(config),
        time.perf_counter() - start,
        name=name,
        looks=[{key: float(f"{value:.5g}") for key, value in look.items()} for look in looks],
    )
    save_recorded(name_of(job), metrics, samples, about)
    last = looks[-1]
    return (
        f"{name_of(job):32s} gold {looks[0]['heldout_gold']:.2f} -> {last['heldout_gold']:.2f}  "
        f"proxy {looks[0]['heldout_score']:.2f} -> {last['heldout_score']:.2f}  kl {metrics[-1]['kl_k1']:.2f}  "
        f"{about['seconds']:.0f} s"
    )


def table() -> None:
    """Mean and standard deviation over seeds of the final held-out numbers, by run name."""
    found: dict[str, list[tuple[float, ...]]] = {}
    before: list[tuple[float, float]] = []
    for name in list_recorded():
        if not name.startswith("pocket/"):
            continue
        run = load_recorded(name)
        if "looks" not in run.manifest:
            continue  # recorded for another purpose
        looks = run.manifest["looks"]
        before.append((looks[0]["heldout_score"], looks[0]["heldout_gold"]))
        kl = statistics.fmean(row["kl_k1"] for row in run.metrics[-5:])
        best = max(row["gold_mean"] for row in run.metrics)
        last = looks[-1]
        found.setdefault(name.split("/")[1], []).append(
            (
                last["heldout_score"],
                last["heldout_gold"],
                best,
                kl,
                last["heldout_words"],
                last["distinct_answers"],
                last["base_perplexity"],
                run.manifest["seconds"],
            )
        )
    if before:
        print(f"before PPO: proxy {before[0][0]:.2f}, gold {before[0][1]:.2f}")
    print(f"{'run':22s} n  {'proxy':>14s} {'gold':>14s} {'best':>6s} {'kl':>6s} words distinct  base-ppl  s")
    for name, rows in found.items():
        proxy, gold, best, kl, words, distinct, perplexity, seconds = zip(*rows, strict=True)
        spread = statistics.stdev if len(rows) > 1 else lambda _: math.nan
        print(
            f"{name:22s} {len(rows)}  {statistics.fmean(proxy):6.2f} ± {spread(proxy):5.2f} "
            f"{statistics.fmean(gold):6.2f} ± {spread(gold):5.2f} {statistics.fmean(best):6.2f} "
            f"{statistics.fmean(kl):6.2f} {statistics.fmean(words):5.1f} {statistics.fmean(distinct):8.2f} "
            f"{statistics.fmean(perplexity):9.1f} {statistics.fmean(seconds):4.0f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="run names that begin with this")
    parser.add_argument("--seeds", type=int, default=99, help="seeds below this")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="print the table of what is recorded, run nothing")
    options = parser.parse_args()
    if not options.table:
        wanted = [job for job in runs() if job[0].startswith(options.only) and job[2] < options.seeds]
        run_missing(wanted, name_of, record, options.processes)
    table()


if __name__ == "__main__":
    main()
