"""DPO's trainer: the loss of :mod:`ppo_lib.formulas.dpo` on comparisons, with no reward model and no sampling."""

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ppo_lib.formulas.dpo import DPOLoss, dpo_loss
from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.device import peak_memory_bytes
from ppo_lib.models.tokens import TokenBatch
from ppo_lib.models.world import ALONE, World
from ppo_lib.trainers.configuration import DPOConfig
from ppo_lib.trainers.optimizer import Metrics, Optimizer, Order, WithoutSamples, warmup_then_decay
from ppo_lib.trainers.reward import Pair


class DPOTrainer(WithoutSamples):
    """Trains the actor's adapter on comparisons, one optimizer step per iteration.

    The reference is the same backbone with its adapters off. The critic's head is there and is not used.

    Args:
        config: the knobs.
        policy: its adapter is trained in place.
        pairs: ``(prompt, chosen, rejected)``.
        world: the processes that share each batch; by default this one does it alone.

    Raises:
        ValueError: no pairs, or one that does not fit.
    """

    def __init__(self, config: DPOConfig, policy: ActorCritic, pairs: Sequence[Pair], world: World = ALONE) -> None:
        world.check_share("batch", config.batch)
        self.world = world
        self.config, self.policy, self.pairs = config, policy, list(pairs)
        self.backbone = backbone = policy.backbone
        self.order = Order(len(self.pairs), config.seed)
        self.max_length = config.max_length or backbone.context_length
        prompts, *answers = zip(*self.pairs, strict=True)
        for responses in answers:  # refuse what does not fit now, not in an hour
            backbone.pair_ids(prompts, responses, self.max_length)
        parameters = backbone.adapter_parameters("policy")
        self.optimizer = Optimizer(
            parameters, config.learning_rate, config.max_grad_norm, world, policy.backbone.causal_lm.dtype
        )
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
        """One optimizer step on the next ``batch`` pairs.

        Returns:
            Metrics by name: means over the pairs before the step (:func:`measures`), response tokens read, the
            gradient's length, the learning rate, pairs per second, bytes.

        Raises:
            FloatingPointError: the gradient is NaN or infinite; the parameters stay as they were.
        """
        start = time.perf_counter()
        rows = [self.pairs[i] for i in self.order.draw(self.config.batch)]
        totals: Metrics = {}
        own = self.world.share(rows)
        for i in range(0, len(own), self.config.microbatch):
            microbatch = own[i : i + self.config.microbatch]
            batch = self.encode(microbatch)
            out, moved = self.loss(batch)
            self.optimizer.backward(out.loss * len(microbatch) / len(rows))
            totals["tokens"] = totals.get("tokens", 0.0) + float(batch.response_lengths.sum())
            for name, value in measures(out, moved).items():
                totals[name] = totals.get(name, 0.0) + value * len(microbatch) / len(rows)
        totals = dict(zip(totals, self.world.total(*totals.values()), strict=True))
        rate = warmup_then_decay(self.iteration, self.iterations)
        norm = self.optimizer.step(rate)
        self.iteration += 1
        return {
            "iteration": self.iteration,
            **totals,
            "grad_norm": norm,
            "learning_rate": self.config.learning_rate * rate,
            "pairs_per_second": len(rows) / (time.perf_counter() - start),
            "peak_memory_bytes": self.world.largest(peak_memory_bytes(self.backbone.device)),
        }

    @torch.no_grad()
    def evaluate(self, pairs: Sequence[Pair]) -> Metrics:
        """Loss, accuracy, margin and the change of both log-probabilities on pairs that were not trained on."""
        totals: Metrics = {}
        for i in range(0, len(pairs), 256):
            chunk = pairs[i : i + 256]
            for name, value in measures(*self.loss(self.encode(chunk))).items():
                totals[name] = totals.get(name, 0.0) + value * len(chunk) / len(pairs)
        return totals

    def save(self, folder: str | Path) -> None:
        """Write the adapter, the unused value head and the tokenizer: what PPO would write, by the first process."""
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
