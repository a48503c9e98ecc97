"""GRPO's training loop: PPO's rollout, several answers to each prompt, and an update without a critic."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ppo_lib.formulas.grpo import group_advantages, grpo_loss, token_weights
from ppo_lib.formulas.losses import PolicyLoss
from ppo_lib.formulas.masking import trusted
from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.device import clock, peak_memory_bytes
from ppo_lib.models.reward_model import RewardModel
from ppo_lib.models.tokens import rows_on
from ppo_lib.models.world import ALONE, World
from ppo_lib.trainers.configuration import GRPOConfig
from ppo_lib.trainers.experience import Experience
from ppo_lib.trainers.judging import RewardFunction
from ppo_lib.trainers.microbatches import Meter, microbatches, minibatches
from ppo_lib.trainers.optimizer import Metrics, Optimizer, State
from ppo_lib.trainers.ppo import PPOTrainer


class GRPOTrainer:
    """GRPO, one iteration per :meth:`step`. PPO's trainer does the rollout; advantages and update are its own.

    Args:
        config: the knobs.
        policy: its adapter is trained in place; the value head is there and is not used.
        prompts: texts to practice on.
        reward: a :class:`RewardModel`, or a function from prompts and responses to scores.
        gold: a function like ``reward``, measured and never trained on.
        world: the processes that share the work. Each holds the whole rollout batch, so groups stay whole.

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
        world: World = ALONE,
    ) -> None:
        self.config, self.policy = config, policy
        self.ppo = PPOTrainer(config.rollout(), policy, prompts, reward, gold, world=world)
        parameters = policy.backbone.adapter_parameters("policy")
        self.ppo.optimizer = Optimizer(
            parameters, config.learning_rate, config.max_grad_norm, world, policy.backbone.causal_lm.dtype
        )
        self.iterations = config.iterations

    @property
    def iteration(self) -> int:
        """Iterations done so far."""
        return self.ppo.iteration

    def step(self) -> Metrics:
        """One iteration: answer some prompts several times each, and learn from the differences.

        Returns:
            Metrics by name: what the rollout batch was like when it was sampled (see :meth:`PPOTrainer.measure`), means
            over the optimizer steps that followed (:meth:`update`), the share of groups whose scores were all equal,
            seconds, tokens, bytes.

        Raises:
            FloatingPointError: a gradient is NaN or infinite; the parameters stay as they were.
            ValueError: a reward function that does not return one finite number per response.
        """
        start, size = clock(self.ppo.device), self.config.group_size
        drawn = self.ppo.order.draw(self.config.rollout_batch // size)
        experience = self.ppo.collect([row for row in drawn for _ in range(size)])
        collected = clock(self.ppo.device)
        # The score, less what a truncated response is charged and what its KL costs if that stands in the reward.
        scores = experience.rewards.sum(dim=1)
        advantages = group_advantages(scores, size, self.config.scale)
        learned = self.update(experience, advantages)
        done = clock(self.ppo.device)
        self.ppo.iteration += 1
        metrics = self.ppo.measure(experience)
        del metrics["explained_variance"]  # there is no critic
        return {
            "iteration": self.iteration,
            **metrics,
            **learned,
            "silent_groups": float((advantages.view(-1, size) == 0).all(dim=1).double().mean()),
            "tokens": float(experience.batch.response_lengths.sum()),
            "beta": self.config.beta,
            "learning_rate": self.config.learning_rate,
            "seconds_rollout": collected - start,
            "seconds_update": done - collected,
            "tokens_per_second": int(experience.batch.response_lengths.sum()) / (done - start),
            "peak_memory_bytes": self.ppo.world.largest(peak_memory_bytes(self.ppo.device)),
        }

    def update(self, experience: Experience, advantages: Tensor) -> Metrics:
        """A few epochs of minibatches on one batch of experience, one optimizer step each.

        Args:
            experience: the rollout batch.
            advantages: ``(B,)``, one for each response.
        """
        config, batch, ppo = self.config, experience.batch, self.ppo
        mask, meter = batch.mask, Meter(ppo.world)
        for minibatch in minibatches(len(batch), config.minibatch, config.epochs, ppo.generator):
            weights = torch.zeros_like(mask)
            index = rows_on(mask.device, minibatch)
            weights[index] = token_weights(mask[index], config.average, config.max_new_tokens)
            for rows, share in microbatches(minibatch, batch, config.microbatch, ppo.world):
                out = self.loss(experience, advantages, rows, weights[rows_on(mask.device, rows)])
                ppo.optimizer.backward(out.loss)
                meter.add(1.0, out.ratio, {"loss": out.loss})  # its weights stand in it
                meter.add(share, out.ratio, {"clip_fraction": out.clip_fraction, "approx_kl": out.approx_kl})
            meter.step(ppo.optimizer.step())
        ppo.check_first_ratio(meter.first_error)
        return meter.means()

    def loss(
        self, experience: Experience, advantages: Tensor, rows: Sequence[int] | Tensor, weights: Tensor
    ) -> PolicyLoss:
        """The loss of the responses ``rows``, whose token weights ``(rows, T)`` are given."""
        config, old = self.config, experience.select(rows)
        mask = old.batch.mask
        new = self.policy.evaluate(old.batch, config.temperature, entropy=False)
        with trusted():  # masks and numbers were checked when they were collected
            return grpo_loss(
                new.logprobs,
                old.logprobs,
                old.ref_logprobs,
                advantages[rows_on(advantages.device, rows)].to(new.logprobs.dtype),
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
        """Go back to a state; what follows is, on a CPU bit for bit, what would have followed."""
        self.ppo.load_state(tensors, values)

    def save(self, folder: str | Path) -> None:
        """Write the adapter, the unused value head and the tokenizer: what PPO would write, by the first process."""
        self.policy.save_pretrained(folder)
