"""Direct preference optimization: the policy learned from comparisons, with no reward model and no sampling.

The policy that maximises ``E[r] - beta * KL(pi || pi_ref)`` is ``pi* = pi_ref * exp(r / beta) / Z``. Solved for the
reward, ``r = beta * log(pi* / pi_ref) + beta * log Z``, and ``Z`` depends on the prompt only. Two responses to one
prompt therefore differ in reward by ``beta`` times the difference of their log-ratios: put that into the
Bradley-Terry likelihood, and the reward model has become the policy itself.

Source: Rafailov et al. (2023), sections 4 and 5.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ppo_lib.formulas.losses import bradley_terry_loss
from ppo_lib.formulas.masking import check_mask, fill_padding
from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.tokens import TokenBatch
from ppo_lib.trainers.optimizer import (
    Metrics,
    Optimizer,
    Order,
    State,
    peak_memory_bytes,
    restore,
    state_of,
    warmup_then_decay,
)
from ppo_lib.trainers.options import check_config, option, same_option
from ppo_lib.trainers.reward import Pair, RewardConfig


class DPOLoss(NamedTuple):
    """What :func:`dpo_loss` returns.

    Attributes:
        loss: scalar in nats per pair; ``log 2`` while the policy is the reference.
        chosen: ``(N,)`` implicit rewards of the preferred responses; no gradient.
        rejected: ``(N,)`` those of the others; no gradient.
    """

    loss: Tensor
    chosen: Tensor
    rejected: Tensor


def implicit_rewards(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, beta: float) -> Tensor:
    """The reward that a policy stands for, up to a constant per prompt: ``beta * sum_t(log pi - log pi_ref)``.

    Args:
        logprobs: ``(B, T)``, ``log pi_theta`` of the responses' tokens.
        ref_logprobs: ``(B, T)``, the same tokens under the reference; carry no gradient.
        mask: ``(B, T)``, 1 where the token counts.
        beta: price of a nat, in units of the reward.

    Returns:
        ``(B,)`` in units of the reward: a sum over tokens, not a mean, since it is the log-ratio of the response.

    Raises:
        ValueError: wrong shape, empty mask, non-finite counted value, or ``beta`` not above 0.
    """
    if not beta > 0:
        raise ValueError(f"beta is {beta}, but must be above 0: at 0 the optimum puts everything on one response")
    keep = check_mask(mask)
    logprobs = fill_padding("logprobs", logprobs, keep)
    ref_logprobs = fill_padding("ref_logprobs", ref_logprobs, keep).detach()
    return beta * (logprobs - ref_logprobs).sum(dim=1)


def dpo_loss(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, beta: float) -> DPOLoss:
    """Bradley-Terry on implicit rewards: ``-mean log sigma(beta * (log-ratio chosen - log-ratio rejected))``.

    Args:
        logprobs, ref_logprobs, mask: ``(2N, T)``: the N chosen responses, then the N rejected ones in the same order.
        beta: price of a nat, in units of the reward.

    Raises:
        ValueError: as :func:`implicit_rewards`, or an odd number of rows.

    Source: Rafailov et al. (2023), equation 7.
    """
    rewards = implicit_rewards(logprobs, ref_logprobs, mask, beta)
    if len(rewards) % 2:
        raise ValueError(f"there are {len(rewards)} rows, but must be 2N: N chosen responses, then N rejected ones")
    chosen, rejected = rewards.chunk(2)
    return DPOLoss(bradley_terry_loss(chosen, rejected), chosen.detach(), rejected.detach())


@dataclass(frozen=True)
class DPOConfig:
    """Knobs of DPO. ``book/hyperparameters`` tells what each does when it is too low or too high."""

    model: str = option("pocket:sft", help="the SFT model: pocket:sft, a folder in hub format, or a hub id")
    data: str = option("pocket", help="comparisons: pocket, or a JSONL file of {prompt, chosen, rejected}")
    epochs: int = option(1, minimum=1, help="passes over the pairs")
    batch: int = option(64, minimum=1, help="pairs per optimizer step")
    microbatch: int = same_option(RewardConfig, "microbatch")
    beta: float = option(0.1, above=0.0, help="price of a nat, in the unit of the labelers' utility")
    learning_rate: float = same_option(RewardConfig, "learning_rate")
    max_grad_norm: float = same_option(RewardConfig, "max_grad_norm")
    lora_rank: int = option(8, minimum=1, help="rank of the actor's adapter")
    max_length: int | None = same_option(RewardConfig, "max_length")
    seed: int = same_option(RewardConfig, "seed")
    device: str = same_option(RewardConfig, "device")
    dtype: str = same_option(RewardConfig, "dtype")

    def __post_init__(self) -> None:
        check_config(self)


class DPOTrainer:
    """Trains the actor's adapter on comparisons, one optimizer step per iteration.

    The reference is the same backbone with its adapters off. The critic's head is there and is not used.

    Args:
        config: the knobs.
        policy: its adapter is trained in place.
        pairs: ``(prompt, chosen, rejected)``.

    Raises:
        ValueError: no pairs, or one that does not fit.
    """

    def __init__(self, config: DPOConfig, policy: ActorCritic, pairs: Sequence[Pair]) -> None:
        self.config, self.policy, self.pairs = config, policy, list(pairs)
        self.backbone = backbone = policy.backbone
        self.order = Order(len(self.pairs), config.seed)
        self.max_length = config.max_length or backbone.context_length
        prompts, *answers = zip(*self.pairs, strict=True)
        for responses in answers:  # refuse what does not fit now, not in an hour
            backbone.pair_ids(prompts, responses, self.max_length)
        parameters = backbone.adapter_parameters("policy")
        self.optimizer = Optimizer(parameters, config.learning_rate, config.max_grad_norm)
        self.iteration = 0
        self.iterations = config.epochs * max(1, len(self.pairs) // config.batch)

    def encode(self, pairs: Sequence[Pair]) -> TokenBatch:
        """``2N`` responses as tokens: the chosen ones first, then the rejected ones."""
        prompts, chosen, rejected = zip(*pairs, strict=True)
        return self.backbone.encode_pairs(prompts + prompts, chosen + rejected, self.max_length)

    def loss(self, batch: TokenBatch) -> tuple[DPOLoss, Tensor]:
        """The loss on encoded pairs, and by how much each response's log-probability has changed ``(2N,)``."""
        logprobs, reference = self.policy.evaluate(batch).logprobs, self.policy.reference_logprobs(batch)
        moved = (logprobs.detach() - reference).sum(dim=1)
        return dpo_loss(logprobs, reference, batch.mask, self.config.beta), moved

    def step(self) -> Metrics:
        start = time.perf_counter()
        rows = [self.pairs[i] for i in self.order.draw(self.config.batch)]
        totals: Metrics = {}
        for i in range(0, len(rows), self.config.microbatch):
            piece = rows[i : i + self.config.microbatch]
            batch = self.encode(piece)
            out, moved = self.loss(batch)
            (out.loss * len(piece) / len(rows)).backward()
            totals["tokens"] = totals.get("tokens", 0.0) + float(batch.response_lengths.sum())
            for name, value in measures(out, moved).items():
                totals[name] = totals.get(name, 0.0) + value * len(piece) / len(rows)
        rate = warmup_then_decay(self.iteration, self.iterations)
        norm = self.optimizer.step(rate)
        self.iteration += 1
        return {
            "iteration": self.iteration,
            **totals,
            "grad_norm": norm,
            "learning_rate": self.config.learning_rate * rate,
            "pairs_per_second": len(rows) / (time.perf_counter() - start),
            "peak_memory_bytes": peak_memory_bytes(self.backbone.device),
        }

    @torch.no_grad()
    def evaluate(self, pairs: Sequence[Pair]) -> Metrics:
        """Loss, accuracy, margin and the change of both log-probabilities on pairs that were not trained on."""
        totals: Metrics = {}
        for i in range(0, len(pairs), 256):
            piece = pairs[i : i + 256]
            for name, value in measures(*self.loss(self.encode(piece))).items():
                totals[name] = totals.get(name, 0.0) + value * len(piece) / len(pairs)
        return totals

    def samples(self) -> list[dict[str, object]]:
        return []

    def state(self) -> State:
        return state_of(self)

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, object]) -> None:
        restore(self, tensors, values)

    def save(self, folder: str | Path) -> None:
        """Write the adapter, the unused value head and the tokenizer: what PPO would write."""
        self.policy.save_pretrained(folder)


def measures(out: DPOLoss, moved: Tensor) -> Metrics:
    """What a batch of pairs says of the policy: margin in units of the reward, log-probabilities in nats."""
    chosen, rejected = moved.chunk(2)
    return {
        "loss": float(out.loss.detach()),
        "accuracy": float((out.chosen > out.rejected).double().mean()),
        "margin": float((out.chosen - out.rejected).mean()),
        "chosen_logprob_change": float(chosen.mean()),
        "rejected_logprob_change": float(rejected.mean()),
    }
