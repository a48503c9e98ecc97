"""Record what two explorers show of the pocket model: real ratios, and the bias and variance of advantages.

    python benchmarks/record_explorers.py            # both, about five minutes on one core
    python benchmarks/record_explorers.py ratios     # one of them: ratios or advantages

Both look at a policy in the middle of training: the pocket recipe after WARM_UP iterations.
"""

import argparse
import math
import os
import time
import warnings
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from torch import Tensor

from ppo_lib import pocket
from ppo_lib.book.recordings import save_recorded
from ppo_lib.formulas.advantages import gae
from ppo_lib.formulas.kl import kl_estimate
from ppo_lib.formulas.rewards import augmented_rewards
from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.tokens import TokenBatch, decode_responses
from ppo_lib.run.manifests import manifest
from ppo_lib.sampling.rollout import sample
from ppo_lib.trainers.configuration import PPOConfig, load_recipe, read_config, to_mapping
from ppo_lib.trainers.ppo import PPOTrainer

WARM_UP = 10
KEPT_RESPONSES = 24  # of the batch of ratios
STATES, CONTINUATIONS = 48, 64
GAMMAS = (0.9, 0.95, 0.99, 1.0)
LAMBDAS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)


def warm(**overrides: Any) -> PPOTrainer:
    """The pocket recipe after its first iterations."""
    recipe = load_recipe("pocket")["ppo"]
    config = read_config(PPOConfig, recipe | {"device": "cpu"} | overrides, "record_explorers")
    backbone = pocket.load_backbone("sft")
    reward = pocket.load_reward_model(backbone)
    policy = ActorCritic(backbone, config.lora_rank, seed=config.seed)
    trainer = PPOTrainer(config, policy, pocket.prompts("train"), reward)
    for _ in range(WARM_UP):
        trainer.step()
    return trainer


def ratios() -> None:
    """One batch of experience, and its log-ratios after each epoch of learning from it, with and without the clip."""
    start, rows = time.perf_counter(), []
    for clipped in (True, False):
        trainer = warm(**({} if clipped else {"epsilon": None}))
        epochs = trainer.config.epochs
        experience = trainer.collect(trainer.order.draw(trainer.config.rollout_batch))
        kept = torch.arange(KEPT_RESPONSES)
        part = experience.batch.select(kept)
        mask = part.mask.bool()
        width = mask.shape[1]
        object.__setattr__(trainer.config, "epochs", 1)
        for epoch in range(epochs + 1):
            with torch.no_grad():
                now = trainer.policy.evaluate(part, trainer.config.temperature).logprobs
            rows.append(
                {
                    "clipped": clipped,
                    "epoch": epoch,
                    "log_ratio": (now - experience.logprobs[kept, :width])[mask].tolist(),
                    "advantage": experience.advantages[kept, :width][mask].tolist(),
                }
            )
            with warnings.catch_warnings():
                # From the second epoch on the first ratio is not 1, since this is the same batch again.
                warnings.simplefilter("ignore")
                trainer.update(experience)
        object.__setattr__(trainer.config, "epochs", epochs)
    about = manifest(to_mapping(trainer.config), time.perf_counter() - start, name="explorer_ratios", warm_up=WARM_UP)
    save_recorded("pocket/explorer_ratios", [], rows, about, digits=3)
    print(f"ratios: {len(rows)} rows of {len(rows[0]['log_ratio'])} tokens")


@torch.no_grad()
def scored(trainer: PPOTrainer, prompts: list[str], batch: TokenBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Augmented rewards, values and mask of finished responses."""
    scores = trainer.judge(prompts, decode_responses(trainer.backbone.tokenizer, batch), batch)
    seen = trainer.policy.evaluate(batch, trainer.config.temperature)
    kl = kl_estimate(seen.logprobs, trainer.policy.reference_logprobs(batch, trainer.config.temperature))
    return augmented_rewards(scores, kl, batch.mask, trainer.config.beta), seen.values, batch.mask


def continued(trainer: PPOTrainer, prompt: list[int], start: list[int], generator: torch.Generator) -> TokenBatch:
    """Many responses that begin with the same tokens and then go their own ways."""
    left = trainer.config.max_new_tokens - len(start)
    ids = [prompt + start] * CONTINUATIONS
    drawn = sample(trainer.backbone, ids, left, trainer.config.temperature, "policy", generator).batch
    # The beginning, too, belongs to the response: only the boundary between prompt and response moves.
    lengths = drawn.response_lengths + len(start)
    return TokenBatch(drawn.sequences, drawn.prompt_lengths - len(start), lengths, drawn.prompt_width - len(start))


def advantages() -> None:
    """Bias and standard deviation of the advantage estimate at single tokens, over many continuations of each.

    The truth is the action's own worth, Q(s, a) - V(s) with the critic's V(s) as baseline: the mean over continuations
    of the undiscounted return minus V(s). (An error of V(s) itself shifts all actions alike, and no gradient sees it.)
    """
    start = time.perf_counter()
    trainer = warm()
    generator = torch.Generator().manual_seed(1)
    experience = trainer.collect(trainer.order.draw(STATES))
    batch = experience.batch
    sums = {(gamma, lam): [0.0, 0.0] for gamma in GAMMAS for lam in LAMBDAS}
    tokens, used = batch.responses, 0
    for i in range(len(batch)):
        length = int(batch.response_lengths[i])
        if length < 4:
            continue
        at = int(torch.randint(0, length - 2, (1,), generator=generator))
        width, own = batch.prompt_width, int(batch.prompt_lengths[i])
        prompt = batch.sequences[i, width - own : width].tolist()
        many = continued(trainer, prompt, tokens[i, : at + 1].tolist(), generator)
        rewards, values, mask = scored(trainer, [experience.prompts[i]] * CONTINUATIONS, many)
        truth = gae(rewards, values, mask, 1.0, 1.0).advantages[:, at]
        for (gamma, lam), found in sums.items():
            estimate = gae(rewards, values, mask, gamma, lam).advantages[:, at]
            gap = estimate - truth
            # The squared mean of so many noisy gaps is too large by their variance over their number.
            found[0] += float(gap.mean().square() - gap.var() / CONTINUATIONS)
            found[1] += float(estimate.var())
        used += 1
    rows = [
        {
            "gamma": gamma,
            "lam": lam,
            "bias": round(math.sqrt(max(bias / used, 0.0)), 5),
            "deviation": round(math.sqrt(variance / used), 5),
        }
        for (gamma, lam), (bias, variance) in sums.items()
    ]
    about = manifest(
        to_mapping(trainer.config),
        time.perf_counter() - start,
        name="explorer_advantages",
        warm_up=WARM_UP,
        states=used,
        continuations=CONTINUATIONS,
    )
    save_recorded("pocket/explorer_advantages", rows, [], about, digits=4)
    print(f"advantages: {used} states, {CONTINUATIONS} continuations each")
    for found_row in rows:
        print("  ".join(f"{key} {value:.3g}" for key, value in found_row.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=("ratios", "advantages"), help="record only this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name, function in (("ratios", ratios), ("advantages", advantages)):
        if options.what in (None, name):
            function()


if __name__ == "__main__":
    main()
