"""Record DPO for chapter 12 as a careful user would run it: learning rates to choose from, and all labeled pairs.

    python benchmarks/dpo_rates.py --only part     # at the gradient work of compare_methods.py
    python benchmarks/dpo_rates.py --only all      # once through every labeled pair, several rates
    python benchmarks/dpo_rates.py --table         # print what was recorded, run nothing

``compare_methods.py`` gives DPO as many pairs as make the work of the three methods equal, and PPO's learning rate.
Here DPO gets what it would get in earnest. The rate is chosen by the loss on HELDOUT pairs of held-out prompts:
labelers' choices, which whoever has pairs has, and not by the gold score, which nobody has.

``all`` reads every pair once, as the reward model's training did: the same data, and one stage fewer.
"""

import argparse
import os
import random
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from compare_methods import ITERATIONS, SIZES, train_and_store
from sweeps import run_missing

from ppo_lib import pocket
from ppo_lib.book.recordings import list_recorded, load_recorded
from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.trainers.configuration import DPOConfig
from ppo_lib.trainers.dpo import DPOTrainer

Job = tuple[str, float, float, int]  # "part" or "all" of the pairs, learning rate, beta, seed

BATCHES = {"part": SIZES["minibatch"] // 2, "all": 64}  # that of compare_methods.py; the default
HELDOUT = 1000
SEEDS, BETAS, RATES = (0,), (0.1, 0.02, 0.5), (1e-3, 5e-4, 2.5e-4)


def jobs() -> Iterator[Job]:
    """All runs, the cheap ones first; each run through all pairs takes some ten minutes of one core."""
    for pairs in ("part", "all"):
        for seed in SEEDS:
            for beta in BETAS:
                for rate in RATES:
                    yield pairs, rate, beta, seed


def name_of(job: Job) -> str:
    pairs, rate, beta, seed = job
    return f"dpo/{pairs}/rate_{rate}/beta_{beta}/seed_{seed}"


def record(job: Job) -> str:
    """Run one job to its end and store its last look."""
    pairs, rate, beta, seed = job
    torch.set_num_threads(1)
    labeled = pocket.preference_pairs("train")
    if pairs == "part":  # the very pairs of compare_methods.py
        count = ITERATIONS * SIZES["rollout_batch"] * SIZES["epochs"] // 2
        labeled = random.Random(seed).sample(labeled, count)
    backbone = pocket.load_backbone("sft")
    reward = pocket.load_reward_model(backbone)
    policy = ActorCritic(backbone, seed=seed)
    sizes = {"batch": BATCHES[pairs], "microbatch": 16}
    config = DPOConfig(beta=beta, seed=seed, device="cpu", learning_rate=rate, **sizes)
    unseen = random.Random(1).sample(pocket.preference_pairs("heldout"), HELDOUT)
    return train_and_store(name_of(job), "dpo", DPOTrainer(config, policy, labeled), policy, reward, unseen)


def table() -> None:
    print("run                                     gold   proxy     KL  loss on held-out pairs  accuracy")
    for name in list_recorded():
        if name.startswith("dpo/"):
            seen = load_recorded(name).manifest["look"]
            print(f"{name:38s} {seen['gold']:5.3f}  {seen['proxy']:6.3f} {seen['kl']:6.2f}", end="  ")
            print(f"{seen['heldout_loss']:6.4f}  {seen['heldout_accuracy']:5.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", choices=("", "part", "all"))
    parser.add_argument("--rate", type=float, help="this learning rate only")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="print the table of what is recorded, run nothing")
    options = parser.parse_args()
    if not options.table:
        wanted = [job for job in jobs() if job[0].startswith(options.only) and options.rate in (None, job[1])]
        run_missing(wanted, name_of, record, options.processes)
    table()


if __name__ == "__main__":
    main()
