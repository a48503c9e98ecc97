"""Stage three: proximal policy optimization of a language model against a reward.

One iteration is eight steps, numbered here as in chapter 10:

1. draw prompts;
2. roll out: the policy answers them;
3. judge: one score per response;
4. look again: log-probs and values of every token under the policy, log-probs under the reference;
5. augmented reward: minus beta times the KL on every token, plus the score on the last;
6. advantages and value targets by GAE;
7. update: a few epochs of minibatches on this one batch, with the clipped loss;
8. adapt beta, and report.

Steps 2 to 6 are :meth:`PPOTrainer.collect`, step 7 is :meth:`PPOTrainer.update` with :meth:`PPOTrainer.loss`; steps 1
and 8 stand around them in :meth:`PPOTrainer.step`.

Simplifications, on purpose: text in, text out (no tools, no several turns); the value after a truncated
response is 0; a constant learning rate.
"""

import math
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ppo_lib.formulas.advantages import gae
from ppo_lib.formulas.kl import AdaptiveKL, FixedKL, kl_estimate
from ppo_lib.formulas.losses import clipped_policy_loss, ppo_loss, value_loss
from ppo_lib.formulas.masking import masked_mean, trusted, whiten
from ppo_lib.formulas.rewards import augmented_rewards
from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.device import clock, peak_memory_bytes
from ppo_lib.models.reward_model import RewardModel
from ppo_lib.models.tokens import TokenBatch, rows_on
from ppo_lib.models.world import ALONE, World
from ppo_lib.sampling.rollout import Sampled, sample
from ppo_lib.trainers.configuration import PPOConfig
from ppo_lib.trainers.experience import Experience, describe, sample_rows
from ppo_lib.trainers.judging import RewardFunction, judge, watch
from ppo_lib.trainers.microbatches import Meter, microbatches, minibatches
from ppo_lib.trainers.optimizer import Metrics, Optimizer, Order, State, restore, set_generator, state_of


class PPOTrainer:
    """PPO, one iteration per :meth:`step`.

    Args:
        config: the knobs.
        policy: actor, critic and reference; its ``parameters_to_train`` are trained in place.
        prompts: texts to practice on.
        reward: a :class:`RewardModel`, or a function from prompts and responses to scores.
        gold: true quality where it is known, a function like ``reward``; measured and never trained on.
        heldout_judge: another judge, a reward model or a function, likewise only measured.
        world: the processes that share the work; by default this one does it alone.

    Raises:
        ValueError: no prompts, an empty one, or a prompt that leaves no room for a response.
    """

    def __init__(
        self,
        config: PPOConfig,
        policy: ActorCritic,
        prompts: Sequence[str],
        reward: RewardModel | RewardFunction,
        gold: RewardFunction | None = None,
        heldout_judge: RewardModel | RewardFunction | None = None,
        world: World = ALONE,
    ) -> None:
        world.check_share("minibatch", config.minibatch)
        self.world, self.config, self.policy, self.reward = world, config, policy, reward
        measured = {"gold": gold, "heldout": heldout_judge}
        self.monitors = {name: judge for name, judge in measured.items() if judge is not None}
        self.backbone, self.device = policy.backbone, policy.backbone.device
        self.prompts = list(prompts)
        room = self.backbone.context_length and self.backbone.context_length - config.max_new_tokens
        self.prompt_ids = self.backbone.encode_prompts(self.prompts, max_length=room)
        self.order = Order(len(self.prompts), config.seed)
        self.generator = torch.Generator().manual_seed(config.seed)  # on the host: from a seed the same on any device
        self.kl: FixedKL | AdaptiveKL = FixedKL(config.beta)
        if config.kl_target is not None:
            self.kl = AdaptiveKL(config.beta, config.kl_target, config.kl_horizon)
        self.iteration, self.iterations = 0, config.iterations
        self._samples: list[dict[str, object]] = []

    @cached_property
    def optimizer(self) -> Optimizer:
        """AdamW on all that the policy trains; made when it is first asked for, since who only measures needs none."""
        config = self.config
        parameters, weights = self.policy.parameters_to_train(), self.backbone.causal_lm.dtype
        return Optimizer(parameters, config.learning_rate, config.max_grad_norm, self.world, weights)

    def step(self) -> Metrics:
        """One iteration: collect experience, learn from it, adapt beta.

        Returns:
            Metrics by name: what the rollout batch was like when it was sampled (:meth:`measure`), means over the
            optimizer steps that followed (:meth:`update`), the beta that was in force, seconds, tokens, bytes.

        Raises:
            FloatingPointError: a gradient is NaN or infinite; the parameters stay as they were.
            ValueError: a reward function that does not return one finite number per response.
        """
        start = clock(self.device)
        experience = self.collect(self.order.draw(self.config.rollout_batch))  # 1. draw prompts
        collected = clock(self.device)
        learned = self.update(experience)
        done = clock(self.device)

        self.iteration += 1
        metrics, beta = self.measure(experience), self.kl.beta
        self.kl.update(metrics["kl_k1"], self.config.rollout_batch)  # 8. adapt beta, and report
        return {
            "iteration": self.iteration,
            **metrics,
            **learned,
            "beta": beta,
            "learning_rate": self.config.learning_rate,
            "seconds_rollout": collected - start,
            "seconds_update": done - collected,
            "tokens_per_second": int(experience.batch.response_lengths.sum()) / (done - start),
            "peak_memory_bytes": self.world.largest(peak_memory_bytes(self.device)),
        }

    @torch.no_grad()
    def collect(self, rows: Sequence[int], generator: torch.Generator | None = None) -> Experience:
        """Steps 2 to 6: let the policy answer some of the prompts, and work out what each token was worth.

        Args:
            rows: which prompts.
            generator: source of randomness; the trainer's own if not given.
        """
        config, prompts = self.config, [self.prompts[row] for row in rows]

        # 2. Roll out: every response with its length, and whether it came to an end of its own.
        sampled = self.roll_out(rows, generator or self.generator)
        batch, finished = sampled.batch, sampled.finished
        mask, texts = batch.mask, self.backbone.response_texts(batch)

        # 3. Judge. A response that never ended may cost something extra.
        scores = self.judge(prompts, texts, batch, finished)
        charged = scores - config.missing_eos_penalty * ~finished

        # 4. Look again. pi_old and V_old are these stored numbers, not copies of the models.
        logprobs, values, entropy, ref_logprobs = self.look_again(batch)

        # 5. Augmented reward: the pull of the rubber band on every token, the score on the last.
        kl = kl_estimate(logprobs, ref_logprobs, config.kl_estimator)
        rewards = augmented_rewards(charged, kl, mask, self.kl.beta if config.kl_in == "reward" else 0.0)
        if config.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False)

        # 6. Advantages, and the targets of the critic.
        advantages, returns = gae(rewards, values, mask, config.gamma, config.lam)
        if config.whiten_advantages:
            advantages = whiten(advantages, mask)

        return Experience(
            batch=batch,
            finished=finished,
            prompts=prompts,
            texts=texts,
            scores=scores,
            logprobs=logprobs,
            ref_logprobs=ref_logprobs,
            values=values,
            entropy=entropy,
            rewards=rewards,
            advantages=advantages,
            returns=returns,
            sampled_logprobs=sampled.logprobs if self.policy.actor.merges else None,
        )

    def update(self, experience: Experience) -> Metrics:
        """Step 7: a few epochs of minibatches on one batch of experience, one optimizer step each."""
        config, batch, meter = self.config, experience.batch, Meter(self.world)
        with self.policy.acting():
            for minibatch in minibatches(len(batch), config.minibatch, config.epochs, self.generator):
                for rows, weight in microbatches(minibatch, batch, config.microbatch, self.world):
                    loss, ratio, parts = self.loss(experience, rows)
                    self.optimizer.backward(weight * loss)
                    meter.add(weight, ratio, parts)
                meter.step(self.optimizer.step())
        self.check_first_ratio(meter.first_error)
        return meter.means()

    def loss(self, experience: Experience, rows: Sequence[int] | Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """``L = L_policy + c1 L_value - c2 S`` on some responses.

        Args:
            experience: the rollout batch; what it holds are numbers, no gradient runs into them.
            rows: which responses.

        Returns:
            The loss, the ratios ``(B, T)``, and the parts of the loss that are reported, as scalars by name.
        """
        config, old = self.config, experience.select(rows)
        mask = old.batch.mask
        new = self.policy.evaluate(old.batch, config.temperature, config.entropy_coef > 0, config.entropy_coef > 0)
        epsilon = math.inf if config.epsilon is None else config.epsilon
        with trusted():  # masks and numbers were checked when they were collected
            policy = clipped_policy_loss(new.logprobs, old.logprobs, old.advantages, mask, epsilon, config.dual_clip)
            value = value_loss(new.values, old.returns, mask, old.values, config.value_clip)
            entropy = masked_mean(new.entropy, mask)
            total = ppo_loss(policy.loss, value, entropy, config.value_coef, config.entropy_coef)
            if config.kl_in == "loss":
                kl = kl_estimate(new.logprobs, old.ref_logprobs, config.kl_estimator)
                total = total + self.kl.beta * masked_mean(kl, mask)
        parts = {"policy_loss": policy.loss, "value_loss": value}
        return total, policy.ratio, {**parts, "clip_fraction": policy.clip_fraction, "approx_kl": policy.approx_kl}

    # ------------------------------------------------------------------------------------ who does what of the above

    def roll_out(self, rows: Sequence[int], generator: torch.Generator) -> Sampled:
        """One response to each prompt, sampled from the policy's own distribution, and which ones ended."""
        config, actor = self.config, self.policy.actor
        prompts = [self.prompt_ids[row] for row in rows]
        return sample(
            actor.backbone,
            prompts,
            config.max_new_tokens,
            config.temperature,
            actor.adapter,
            generator,
            world=self.world,
        )

    def judge(self, prompts: list[str], texts: list[str], batch: TokenBatch, finished: Tensor | None = None) -> Tensor:
        """Scores ``(B,)`` of rollouts; see :func:`ppo_lib.trainers.judging.judge`."""
        config = self.config
        return judge(
            self.reward,
            self.backbone,
            prompts,
            texts,
            batch,
            microbatch=config.microbatch,
            normalize=config.normalize_scores,
            world=self.world,
            finished=finished,
        )

    def look_again(self, batch: TokenBatch) -> tuple[Tensor, ...]:
        """Log-probs, values and entropies of the policy, and log-probs of the reference, ``(B, T)`` each.

        They are computed in the very microbatches that the first epoch will see, so that its ratio is exactly 1,
        rounding included.
        """
        config = self.config
        seen = torch.zeros((4, *batch.mask.shape), dtype=self.backbone.head_dtype, device=self.device)
        for minibatch in minibatches(len(batch), config.minibatch, 1, self.generator):
            for rows, _ in microbatches(minibatch, batch, config.microbatch, self.world):
                part = batch.select(rows)
                now = self.policy.evaluate(part, config.temperature)
                ref_logprobs = self.policy.reference_logprobs(part, config.temperature)
                columns = torch.stack([now.logprobs, now.values, now.entropy, ref_logprobs])
                seen[:, rows_on(self.device, rows), : part.responses.shape[1]] = columns
        self.world.add(seen)  # each process has filled in its own rows
        return seen.unbind()

    def check_first_ratio(self, error: float) -> None:
        """Warn when the first minibatch's ratios are not 1: before any update they must be."""
        if self.world.first and error > (1e-2 if self.backbone.causal_lm.dtype.itemsize < 4 else 1e-6):
            warnings.warn(
                f"the ratio of the first minibatch is off by {error:.1e} although nothing has been learned yet: old "
                "and new log-probs are computed in different ways (dropout, temperature, padding or dtype)",
                stacklevel=2,
            )

    def measure(self, experience: Experience) -> Metrics:
        """What the rollout batch looked like before the update; see :func:`ppo_lib.trainers.experience.describe`."""
        e, size = experience, self.config.microbatch
        seen = watch(self.monitors, self.backbone, e.prompts, e.texts, e.batch, e.finished, size, self.world)
        self._samples = sample_rows(experience, self.iteration, seen)
        return describe(experience, seen)

    def samples(self) -> list[dict[str, object]]:
        """The first few responses of the last iteration, with score and KL."""
        return self._samples

    def state(self) -> State:
        """All that the next iteration depends on."""
        tensors, values = state_of(self)  # parameters, Adam's moments, the order of the prompts, the iteration
        return {**tensors, "generator": self.generator.get_state()}, {**values, "beta": self.kl.beta}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, object]) -> None:
        """Go back to a state; what follows is, on a CPU bit for bit, what would have followed."""
        restore(self, tensors, values)
        set_generator(self.generator, tensors["generator"])
        self.kl.beta = float(values["beta"])  # type: ignore[arg-type]

    def save(self, folder: str | Path) -> None:
        """Write what was trained, the value head and the tokenizer; of several processes, the first one does."""
        self.policy.save_pretrained(folder)
