"""Record the recipe `capitals` on a processor: one reward model, and PPO with the recipe's beta and with 0, over seeds.

    python benchmarks/capitals_sweep.py                     # everything that is not there yet
    python benchmarks/capitals_sweep.py reward              # the reward model alone; the runs need it
    python benchmarks/capitals_sweep.py ppo --beta 0 --seed 1

A finished run is skipped and an interrupted one goes on at its last checkpoint, so the script can be stopped at any
time. The answers that are ranked are those of the same weights, drawn on a card at temperature 1 (recorded as
`capitals/h200/rankings`) and cut to the budget of this run: the first 24 tokens of a sampled answer are what a budget
of 24 tokens would have drawn. The labelers rank them anew. Stored are `capitals/cpu/reward` and
`capitals/cpu/beta_B/seed_S`: metrics, all answers of every iteration, and in the manifest what was measured before and
after, on held-out and on training countries apart. `--work` holds the folders of the runs.
"""

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from ppo_lib.book.intervals import proportion
from ppo_lib.book.jsonl import append_lines, read_jsonl
from ppo_lib.book.recordings import list_recorded, load_recorded, save_recorded
from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.backbone import Backbone
from ppo_lib.models.loading import load_shape
from ppo_lib.models.reward_model import RewardModel
from ppo_lib.pocket import capitals, labelers
from ppo_lib.run.data import load_pairs
from ppo_lib.run.evaluation import EvaluationConfig, evaluate_policy, reward_accuracy
from ppo_lib.run.fitting import fit
from ppo_lib.run.folders import RunFolder
from ppo_lib.run.manifests import manifest
from ppo_lib.run.stages import build
from ppo_lib.trainers.configuration import PPOConfig, RewardConfig, load_recipe, read_config, to_mapping
from ppo_lib.trainers.ppo import PPOTrainer

SEEDS, BETAS, TOKENS = range(3), (None, 0.0), 24  # None: the recipe's
RANKED = {"train": 240, "heldout": 48}
EACH = 40  # questions of each part that are measured on
MODEL = "smollm2:file"  # whatever the machine could have: all runs on the same weights
PLACE = {"model": MODEL, "device": "cpu"}


def rank(work: Path) -> dict[str, Path]:
    """The rankings as files, by split."""
    _, tokenizer = load_shape(MODEL)
    files = {split: work / f"{split}.jsonl" for split in RANKED}
    recorded = load_recorded("capitals/h200/rankings").samples
    for split, count in RANKED.items():
        rows = []
        for row in (r for r in recorded if r["split"] == split):
            cut = [tokenizer.decode(ids[:TOKENS]) for ids in tokenizer(row["responses"])["input_ids"]]
            if len(set(cut)) == len(cut):
                order = capitals.label(row["prompt"], cut)
                rows.append({"prompt": row["prompt"], "responses": [cut[n] for n in order]})
        if not files[split].exists():
            append_lines(files[split], rows[:count])
    return files


def reward(work: Path) -> None:
    """The reward model on the rankings, and how well it orders those of held-out countries."""
    files, name = rank(work), "capitals/cpu/reward"
    section = load_recipe("capitals")["reward"] | PLACE | {"data": str(files["train"])}
    config, run = read_config(RewardConfig, section, "reward"), RunFolder(work / "reward", resume=True)
    if not run.finished:
        for row in fit(build("reward", config), run):
            print(json.dumps(row), flush=True)
    if name in list_recorded():
        return
    pairs = load_pairs(str(files["heldout"]))
    about = manifest(to_mapping(replace(config, data="train.jsonl")), run.elapsed(), name=name, measured={
        "accuracy": reward_accuracy(config, run.model, how=EvaluationConfig(pairs=str(files["heldout"]))),
        "best_accuracy": labelers.best_accuracy(pairs, gold=capitals.gold_score),
        "utility_accuracy": labelers.utility_accuracy(pairs, gold=capitals.gold_score),
        "rankings": {split: len(read_jsonl(file)) for split, file in files.items()},
        "before": measure(work, ppo_config(None, 0)),
    })  # fmt: skip
    rows = [{"split": split, **row} for split, file in files.items() for row in read_jsonl(file)]
    print(save_recorded(name, run.metrics(), rows, about, digits=4))


def ppo_config(beta: float | None, seed: int) -> PPOConfig:
    """The recipe's configuration with these."""
    section = load_recipe("capitals")["ppo"] | PLACE | {"seed": seed, "max_new_tokens": TOKENS}
    return read_config(PPOConfig, section | ({} if beta is None else {"beta": beta}), "ppo")


def measure(work: Path, config: PPOConfig, policy: Path | None = None) -> dict[str, Any]:
    """Means over questions of either part, each answered once at temperature 1."""
    backbone, found = Backbone.from_pretrained(MODEL, chat_template=True), {}
    judge = RewardModel.from_pretrained(work / "reward" / "model", backbone)
    actor = ActorCritic.from_pretrained(policy, backbone) if policy else ActorCritic(backbone, config.lora_rank)
    for part in ("heldout", "train"):
        asked = capitals.prompts(part)[:EACH]
        trainer = PPOTrainer(config, actor, asked, judge, capitals.gold_scores, capitals.right)
        means, rows = evaluate_policy(trainer, EvaluationConfig(count=EACH))
        right = proportion(sum(row["heldout"] for row in rows), len(rows))
        words = sum(len(row["response"].split()) for row in rows) / len(rows)
        found[part] = means | {"right": right, "words": words, "answers": [row["response"] for row in rows[:6]]}
    return found


def ppo(work: Path, beta: float | None, seed: int) -> None:
    """One run of PPO, with all its answers."""
    config = ppo_config(beta, seed)
    name = f"capitals/cpu/beta_{config.beta}/seed_{seed}"
    if name in list_recorded():
        return
    run, folder = RunFolder(work / f"beta_{config.beta}-seed_{seed}", resume=True), work / "reward" / "model"
    if not run.finished:
        trainer: Any = build("ppo", config, reward=folder)
        collect, latest = trainer.collect, []
        trainer.collect = lambda *a, **k: latest.append(collect(*a, **k)) or latest[-1]
        trainer.samples = lambda: [
            {"prompt": p, "response": t, "score": s, "finished": f, "kl": k}
            for p, t, s, f, k in zip(
                latest[-1].prompts, latest[-1].texts, latest[-1].scores.tolist(), latest[-1].finished.tolist(),
                ((latest[-1].logprobs - latest[-1].ref_logprobs) * latest[-1].batch.mask).sum(1).tolist(), strict=True,
            )
        ]  # fmt: skip
        for row in fit(trainer, run, checkpoint_every=1, progress=False):
            latest[:-1] = []
            kept = ("iteration", "score_mean", "gold_mean", "heldout_mean", "kl_k1", "eos_rate", "response_length")
            print(name, json.dumps({key: round(row[key], 3) for key in kept}), flush=True)
    samples = [
        row
        | {"gold": capitals.gold_score(row["prompt"], row["response"])}
        | {"right": bool(capitals.right([row["prompt"]], [row["response"]])[0])}
        for row in run.samples()
    ]
    about = manifest(to_mapping(config), run.elapsed(), name=name, measured=measure(work, config, run.model))
    about["config"]["reward_model"] = "capitals/cpu/reward"
    print(save_recorded(name, run.metrics(), samples, about, digits=4), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", nargs="?", choices=["reward", "ppo"], help="default: all that is missing")
    parser.add_argument("--work", type=Path, default=Path("runs/capitals_sweep"))
    parser.add_argument("--beta", type=float)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.stage != "ppo":
        reward(options.work)
    if options.stage == "ppo":
        ppo(options.work, options.beta, options.seed)
    elif options.stage is None:
        for seed in SEEDS:
            for beta in BETAS:
                ppo(options.work, beta, seed)


if __name__ == "__main__":
    main()
