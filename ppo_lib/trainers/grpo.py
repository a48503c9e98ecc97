"""GRPO's training loop: PPO's rollout, several answers to each prompt, and an update without a critic."""

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ppo_lib.formulas.grpo import group_advantages, grpo_loss, token_weights
from ppo_lib.formulas.losses import PolicyLoss
from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.device import peak_memory_bytes
from ppo_lib.models.reward_model import RewardModel
from ppo_lib.trainers.configuration import GRPOConfig
from ppo_lib.trainers.experience import Experience
from ppo_lib.trainers.judging import RewardFunction
from ppo_lib.trainers.optimizer import Metrics, Optimizer, State
from ppo_lib.trainers.ppo import PPOTrainer


class GRPOTrainer:
    """GRPO, one iteration per :meth:`step`. PPO's trainer does the rollout; advantages and update are its own.

    Args:
        config: the knobs.
        policy: its adapter is trained in place; the value head is there and is not used.
        prompts: texts to practise on.
        reward: a :class:`RewardModel`, or a function from prompts and responses to scores.
        gold: a function like ``reward``, measured and never trained on.

    Raises:
        ValueError: no prompts, an empty one, or a prompt that leaves no room for a response.
    """

    def __init__(
        self,
        config: GRPOConfig,
        policy: ActorCritic,
        prompts: Sequence[str],
        reward: RewardModel | RewardFunction,
        gold: RewardFunction | None = None,
    ) -> None:
        self.config, self.policy = config, policy
        self.ppo = PPOTrainer(config.rollout(), policy, prompts, reward, gold)
        parameters = policy.backbone.adapter_parameters("policy")
        self.ppo.optimizer = Optimizer(parameters, config.learning_rate, config.max_grad_norm)
        self.iterations = config.iterations

    @property
    def iteration(self) -> int:
        return self.ppo.iteration

    def step(self) -> Metrics:
        """One iteration: answer some prompts several times each, and learn from the differences."""
        start, size = time.perf_counter(), self.config.group_size
        drawn = self.ppo.order.draw(self.config.rollout_batch // size)
        experience = self.ppo.collect([row for row in drawn for _ in range(size)])
        # The score, less what a truncated response is charged and what its KL costs if that stands in the reward.
        scores = experience.rewards.sum(dim=1)
        advantages = group_advantages(scores, size, self.config.scale)
        learned = self.update(experience, advantages)
        self.ppo.iteration += 1
        metrics = self.ppo.measure(experience)
        del metrics["explained_variance"]  # there is no critic
        return {
            "iteration": self.iteration,
            **metrics,
            **learned,
            "silent_groups": float((advantages.view(-1, size) == 0).all(dim=1).double().mean()),
            "tokens": float(experience.batch.response_lengths.sum()),
            "tokens_per_second": int(experience.batch.response_lengths.sum()) / (time.perf_counter() - start),
            "peak_memory_bytes": peak_memory_bytes(self.ppo.device),
        }

    def update(self, experience: Experience, advantages: Tensor) -> Metrics:
        """A few epochs of minibatches on one batch of experience, one optimizer step each."""
        config, batch, ppo = self.config, experience.batch, self.ppo
        lengths = batch.response_lengths
        order = torch.arange(len(batch), device=ppo.device)
        totals: Metrics = {}
        first_error, steps = 0.0, 0
        for epoch in range(config.epochs):
            if epoch:  # the first epoch keeps the rollout's order, in whose pieces the old log-probs were computed
                order = order[torch.randperm(len(order), generator=ppo.generator, device=ppo.device)]
            for minibatch in order.split(config.minibatch):
                weights = token_weights(batch.mask[minibatch], config.average, config.max_new_tokens)
                pieces = minibatch.split(config.microbatch), weights.split(config.microbatch)
                for rows, piece in zip(*pieces, strict=True):
                    out = self.loss(experience, advantages, rows, piece)
                    out.loss.backward()
                    share = float(lengths[rows].sum() / lengths[minibatch].sum())
                    for name in ("loss", "clip_fraction", "approx_kl"):
                        value = float(getattr(out, name).detach()) * (1.0 if name == "loss" else share)
                        totals[name] = totals.get(name, 0.0) + value
                    if steps == 0:  # nothing has been learned yet
                        first_error = max(first_error, float((out.ratio - 1).abs().max()))
                if steps == 0:
                    ppo.check_first_ratio(first_error)
                totals["grad_norm"] = totals.get("grad_norm", 0.0) + ppo.optimizer.step()
                steps += 1
        return {**{name: total / steps for name, total in totals.items()}, "ratio_first_error": first_error}

    def loss(self, experience: Experience, advantages: Tensor, rows: Tensor, weights: Tensor) -> PolicyLoss:
        """The loss of some responses, whose token weights are given."""
        config, old = self.config, experience.select(rows)
        mask = old.batch.mask
        new = self.policy.evaluate(old.batch, config.temperature)
        return grpo_loss(
            new.logprobs,
            old.logprobs,
            old.ref_logprobs,
            advantages[rows].to(new.logprobs.dtype),
            mask,
            weights[:, : mask.shape[1]].to(new.logprobs.dtype),
            config.epsilon,
            config.beta if config.kl_in == "loss" else 0.0,
            config.kl_estimator,
        )

    def samples(self) -> list[dict[str, object]]:
        """The first few responses of the last iteration, with score and KL."""
        return self.ppo.samples()

    def state(self) -> State:
        """All that the next iteration depends on."""
        return self.ppo.state()

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, object]) -> None:
        """Go back to a state; what follows is bit for bit what would have followed."""
        self.ppo.load_state(tensors, values)

    def save(self, folder: str | Path) -> None:
        """Write the adapter, the unused value head and the tokenizer: what PPO would write."""
        self.policy.save_pretrained(folder)
