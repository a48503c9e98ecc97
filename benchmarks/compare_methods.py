"""Record the comparison of chapter 12: PPO, GRPO and DPO on the pocket model, at equal cost, several seeds.

    python benchmarks/compare_methods.py                    # every run that is not there yet
    python benchmarks/compare_methods.py --only grpo        # one method
    python benchmarks/compare_methods.py --table            # print what was recorded

What is held equal: the SFT model and the adapter's rank; the training prompts; the comparisons (those that trained the
reward model, of which DPO reads a random part); the held-out prompts and the sampling of the final look; the peak
learning rate; the number of optimizer steps. PPO and GRPO sample the same number of responses. DPO reads as many
responses with gradient as PPO's epochs do: ITERATIONS * rollout_batch * epochs, two to a pair. Responses, not tokens,
are what can be fixed in advance; the tokens of every run are counted and stored.

What is not: the reward model. Its training is a cost of PPO and GRPO alone, and is not counted.

The final look: SAMPLES answers to every held-out prompt, their proxy and gold scores, and KL(policy || reference) in
nats per response: at every sampled prefix the exact KL of the two next-token distributions, summed over the response.
"""

import argparse
import os
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from sweeps import run_missing

from ppo_lib import pocket
from ppo_lib.book.recordings import list_recorded, load_recorded, save_recorded
from ppo_lib.formulas.kl import kl_exact
from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.reward_model import RewardModel
from ppo_lib.models.tokens import decode_responses, encode_prompts
from ppo_lib.run.manifests import manifest
from ppo_lib.sampling.rollout import sample
from ppo_lib.trainers.configuration import DPOConfig, GRPOConfig, PPOConfig, to_mapping
from ppo_lib.trainers.dpo import DPOTrainer
from ppo_lib.trainers.grpo import GRPOTrainer
from ppo_lib.trainers.ppo import PPOTrainer
from ppo_lib.trainers.reward import Pair

Job = tuple[str, float, int]  # method, beta, seed

SEEDS = range(5)
METHODS = ("ppo", "grpo", "dpo")
BETAS = (0.1, 0.02, 0.5)  # the same numbers; what a nat costs differs, since the methods see different scores
ITERATIONS = 25  # half of the recipe's; all the runs together take some forty minutes of one core
SIZES = {"rollout_batch": 64, "minibatch": 32, "microbatch": 32, "epochs": 4, "max_new_tokens": 48}  # the recipe's
LEARNING_RATE = 1e-3  # the recipe's
SAMPLES = 1  # answers per held-out prompt
LOOK_SEED = 12345
KEPT = 3  # texts per run


def jobs() -> Iterator[Job]:
    """All runs, one seed after the other: whenever it is stopped, what is there is comparable."""
    yield "sft", 0.0, 0  # where all of them start
    for seed in SEEDS:
        for beta in BETAS:
            for method in METHODS:
                yield method, beta, seed


def name_of(job: Job) -> str:
    method, beta, seed = job
    return "methods/sft" if method == "sft" else f"methods/{method}/beta_{beta}/seed_{seed}"


def build(job: Job, policy: ActorCritic, reward: RewardModel) -> PPOTrainer | GRPOTrainer | DPOTrainer:
    """The trainer of a job; what is not named here is the method's own default."""
    method, beta, seed = job
    shared = {"beta": beta, "seed": seed, "device": "cpu", "learning_rate": LEARNING_RATE}
    rollout = {"iterations": ITERATIONS, **SIZES}
    if method == "dpo":
        count = ITERATIONS * SIZES["rollout_batch"] * SIZES["epochs"] // 2
        pairs = random.Random(seed).sample(pocket.preference_pairs("train"), count)
        half = SIZES["minibatch"] // 2  # so many pairs hold as many responses as a minibatch of PPO
        return DPOTrainer(DPOConfig(**shared, batch=half, microbatch=half), policy, pairs)
    if method == "grpo":
        return GRPOTrainer(GRPOConfig(**shared, **rollout), policy, pocket.prompts("train"), reward)
    return PPOTrainer(PPOConfig(**shared, **rollout), policy, pocket.prompts("train"), reward)


@torch.no_grad()
def look(policy: ActorCritic, reward: RewardModel) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Held-out answers of the policy: means, and a few texts."""
    backbone = policy.backbone
    prompts = pocket.prompts("heldout") * SAMPLES
    generator = torch.Generator().manual_seed(LOOK_SEED)
    ids = encode_prompts(backbone.tokenizer, prompts)
    sampled = sample(backbone, ids, SIZES["max_new_tokens"], 1.0, "policy", generator)
    batch, texts = sampled.batch, decode_responses(backbone.tokenizer, sampled.batch)
    drift = []
    for rows in torch.arange(len(batch)).split(64):
        part = batch.select(rows)
        states = backbone.hidden_states(part, None)[:, part.prompt_width - 1 : -1]
        drift += (kl_exact(policy(part).logits, backbone.logits(states)) * part.mask).sum(dim=1).tolist()
    scores, gold = reward.score_batch(batch).tolist(), pocket.gold_scores(prompts, texts)
    means = {
        "gold": statistics.fmean(gold),
        "proxy": statistics.fmean(scores),
        "kl": statistics.fmean(drift),
        "tokens": statistics.fmean(batch.response_lengths.tolist()),
        "eos_rate": float(sampled.finished.double().mean()),
        "distinct_answers": len(set(texts)) / len(texts),
    }
    rows = [
        {"prompt": p, "response": t, "score": s, "gold": g, "kl": k}
        for p, t, s, g, k in zip(prompts[:KEPT], texts, scores, gold, drift, strict=False)
    ]
    return means, rows


def record(job: Job) -> str:
    """Run one job to its end and store its last look."""
    method, _, seed = job
    torch.set_num_threads(1)
    backbone = pocket.load_backbone("sft")
    reward = pocket.load_reward_model(backbone)
    policy = ActorCritic(backbone, seed=seed)
    trainer = None if method == "sft" else build(job, policy, reward)
    return train_and_store(name_of(job), method, trainer, policy, reward)


def train_and_store(
    name: str,
    method: str,
    trainer: PPOTrainer | GRPOTrainer | DPOTrainer | None,
    policy: ActorCritic,
    reward: RewardModel,
    heldout_pairs: Sequence[Pair] = (),
) -> str:
    """Train to the end (if there is a trainer), look, store, and say how it went."""
    start, work = time.perf_counter(), time.process_time()
    history: list[dict[str, Any]] = []
    config: dict[str, Any] = to_mapping(trainer.config) if trainer else {"model": "pocket:sft", "seed": 0}
    tokens = 0.0
    for _ in range(trainer.iterations if trainer else 0):
        row = trainer.step()
        tokens += row["tokens"] if "tokens" in row else row["response_length"] * config["rollout_batch"]
        history.append({key: row[key] for key in HISTORY if key in row})
    cost = time.process_time() - work
    means, texts = look(policy, reward)
    if heldout_pairs:
        means |= {f"heldout_{key}": value for key, value in trainer.evaluate(heldout_pairs).items()}
    about = manifest(
        config,
        time.perf_counter() - start,
        method=method,
        look={key: float(f"{value:.5g}") for key, value in means.items()},
        sampled_tokens=0 if method == "dpo" else round(tokens),
        gradient_tokens=round(tokens) * (1 if method == "dpo" else config.get("epochs", 1)),
        cpu_seconds=round(cost, 1),
    )
    save_recorded(name, history[:: max(1, len(history) // 12)], texts, about)
    return (
        f"{name:36s} gold {means['gold']:.3f}  proxy {means['proxy']:.3f}  kl {means['kl']:.2f}  "
        f"{about['gradient_tokens']} gradient tokens, {cost:.0f} CPU s, {about['seconds']:.0f} s"
    )


HISTORY = (
    "iteration",
    "score_mean",
    "kl_k1",
    "loss",
    "accuracy",
    "margin",
    "chosen_logprob_change",
    "rejected_logprob_change",
    "silent_groups",
    "clip_fraction",
    "response_length",
)


def table() -> None:
    """Mean and standard deviation over seeds, by method and beta."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for name in list_recorded():
        if name.startswith("methods/"):
            _, method, *beta = name.split("/")
            found.setdefault((method, beta[0] if beta else ""), []).append(load_recorded(name).manifest)
    print("method beta       n  gold            proxy           KL              tokens  gradient tokens")
    for (method, beta), runs in sorted(found.items()):
        columns = []
        for key in ("gold", "proxy", "kl"):
            values = [run["look"][key] for run in runs]
            spread = statistics.stdev(values) if len(values) > 1 else float("nan")
            columns.append(f"{statistics.fmean(values):6.3f} ± {spread:5.3f}")
        length = statistics.fmean(run["look"]["tokens"] for run in runs)
        cost = statistics.fmean(run["gradient_tokens"] for run in runs)
        print(f"{method:6s} {beta:10s} {len(runs)}  {'  '.join(columns)}  {length:6.1f}  {cost:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a method")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="seeds below this")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="print the table of what is recorded, run nothing")
    options = parser.parse_args()
    if not options.table:
        wanted = [job for job in jobs() if job[0].startswith(options.only) and job[2] < options.seeds]
        run_missing(wanted, name_of, record, options.processes)
    table()


if __name__ == "__main__":
    main()
