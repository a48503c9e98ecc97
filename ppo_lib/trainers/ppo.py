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

Steps 1 to 6 are :meth:`PPOTrainer.collect`, step 7 is :meth:`PPOTrainer.update`.

Simplifications, on purpose: text in, text out (no tools, no several turns); the value after a truncated
response is 0; a constant learning rate.
"""

import math
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ppo_lib.formulas.advantages import gae
from ppo_lib.formulas.kl import AdaptiveKL, FixedKL, kl_estimate
from ppo_lib.formulas.losses import clipped_policy_loss, ppo_loss, value_loss
from ppo_lib.formulas.masking import masked_mean, whiten
from ppo_lib.formulas.rewards import augmented_rewards
from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.device import peak_memory_bytes, synchronize
from ppo_lib.models.reward_model import RewardModel
from ppo_lib.models.tokens import TokenBatch, decode_responses
from ppo_lib.models.world import ALONE, World
from ppo_lib.sampling.rollout import sample_together
from ppo_lib.trainers.configuration import PPOConfig
from ppo_lib.trainers.experience import Experience, describe, sample_rows
from ppo_lib.trainers.judging import RewardFunction, ask, judge
from ppo_lib.trainers.optimizer import Metrics, Optimizer, Order, State, restore, state_of


class PPOTrainer:
    """PPO, one iteration per :meth:`step`.

    Args:
        config: the knobs.
        policy: actor, critic and reference; its ``parameters_to_train`` are trained in place.
        prompts: texts to practise on.
        reward: a :class:`RewardModel`, or a function from prompts and responses to scores.
        gold: true quality where it is known, a function like ``reward``; measured and never trained on.
        second: another judge, likewise only measured.
        world: who shares the work; by default this process does it alone.

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
        second: RewardFunction | None = None,
        world: World = ALONE,
    ) -> None:
        world.check_share("minibatch", config.minibatch)
        self.world = world
        self.config, self.policy, self.reward = config, policy, reward
        self.watchers = {name: judge for name, judge in (("gold", gold), ("second", second)) if judge is not None}
        self.backbone, self.device = policy.backbone, policy.backbone.device
        self.prompts = list(prompts)
        room = self.backbone.context_length and self.backbone.context_length - config.max_new_tokens
        self.prompt_ids = self.backbone.encode_prompts(self.prompts, max_length=room)
        self.order = Order(len(self.prompts), config.seed)
        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        self.optimizer = Optimizer(policy.parameters_to_train(), config.learning_rate, config.max_grad_norm, world)
        self.kl: FixedKL | AdaptiveKL = FixedKL(config.beta)
        if config.kl_target is not None:
            self.kl = AdaptiveKL(config.beta, config.kl_target, config.kl_horizon)
        self.iteration, self.iterations = 0, config.iterations
        self._samples: list[dict[str, object]] = []

    def step(self) -> Metrics:
        """One iteration: collect experience, learn from it, adapt beta."""
        start = time.perf_counter()
        experience = self.collect(self.order.draw(self.config.rollout_batch))  # 1. draw prompts
        synchronize(self.device)
        collected = time.perf_counter()
        beta, learned = self.kl.beta, self.update(experience)
        synchronize(self.device)
        done = time.perf_counter()

        self.iteration += 1
        metrics = self.measure(experience)
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
        config, policy, tokenizer = self.config, self.policy, self.backbone.tokenizer
        # 2. Roll out. The sampler knows nothing but max_new_tokens and temperature.
        ids = [self.prompt_ids[i] for i in rows]
        how = config.max_new_tokens, config.temperature, policy.actor.adapter, generator or self.generator
        sampled = sample_together(self.world, policy.actor.backbone, ids, *how)
        batch, mask, finished = sampled.batch, sampled.batch.mask, sampled.finished
        prompts, texts = [self.prompts[i] for i in rows], decode_responses(tokenizer, batch)
        # 3. Judge. A response that never ended may cost something extra.
        scores = self.judge(prompts, texts, batch, finished)
        charged = scores - config.missing_eos_penalty * ~finished
        # 4. Look again. pi_old is these stored numbers, not a copy of the model. The pieces are the very ones that
        #    the first epoch will see, so that its ratio is exactly 1, rounding included.
        shape = (4, *mask.shape)
        logprobs, values, entropy, ref_logprobs = torch.zeros(shape, dtype=self.backbone.head_dtype, device=self.device)
        for minibatch in torch.arange(len(batch), device=self.device).split(config.minibatch):
            for piece in self.pieces(minibatch, batch):
                part = batch.select(piece)
                width = part.responses.shape[1]
                seen = policy.evaluate(part, config.temperature)
                logprobs[piece, :width], values[piece, :width], entropy[piece, :width] = seen
                ref_logprobs[piece, :width] = policy.reference_logprobs(part, config.temperature)
        self.world.add(logprobs, values, entropy, ref_logprobs)  # each process has filled in its own rows
        # 5. Augmented reward.
        kl = kl_estimate(logprobs, ref_logprobs, config.kl_estimator)
        rewards = augmented_rewards(charged, kl, mask, self.kl.beta if config.kl_in == "reward" else 0.0)
        if config.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False)
        # 6. Advantages, and the targets of the critic.
        advantages, returns = gae(rewards, values, mask, config.gamma, config.lam)
        if config.whiten_advantages:
            advantages = whiten(advantages, mask)
        per_token = logprobs, ref_logprobs, values, entropy, rewards, advantages, returns
        return Experience(batch, finished, prompts, texts, scores, *per_token)

    def update(self, experience: Experience) -> Metrics:
        """Step 7: a few epochs of minibatches on one batch of experience, one optimizer step each."""
        config, lengths = self.config, experience.batch.response_lengths
        order = torch.arange(len(lengths), device=self.device)
        totals: Metrics = {}
        ratio_max, first_error, grad_norm, steps = 0.0, 0.0, 0.0, 0
        for epoch in range(config.epochs):
            if epoch:  # the first epoch keeps the rollout's order, which is random already
                order = order[torch.randperm(len(order), generator=self.generator, device=self.device)]
            for minibatch in order.split(config.minibatch):
                for piece in self.pieces(minibatch, experience.batch):
                    # Every token of a step weighs the same, whatever piece it falls into.
                    share = float(lengths[piece].sum() / lengths[minibatch].sum())
                    loss, ratio, parts = self.loss(experience, piece)
                    (share * loss).backward()
                    for name, value in parts.items():
                        totals[name] = totals.get(name, 0.0) + share * value
                    ratio_max = max(ratio_max, float(ratio.max()))
                    if steps == 0:  # nothing has been learned yet
                        first_error = max(first_error, float((ratio - 1).abs().max()))
                if steps == 0:
                    first_error = self.world.largest(first_error)
                    self.check_first_ratio(first_error)
                grad_norm += self.optimizer.step()
                steps += 1
        means = {name: self.world.total(total)[0] / steps for name, total in totals.items()}
        ratio_max = self.world.largest(ratio_max)
        return {**means, "grad_norm": grad_norm / steps, "ratio_max": ratio_max, "ratio_first_error": first_error}

    def loss(self, experience: Experience, rows: Tensor) -> tuple[Tensor, Tensor, Metrics]:
        """The total loss on some responses, their ratios, and the loss's parts as numbers."""
        config, old = self.config, experience.select(rows)
        mask = old.batch.mask
        new = self.policy.evaluate(old.batch, config.temperature, entropy_grad=config.entropy_coef > 0)
        epsilon = math.inf if config.epsilon is None else config.epsilon
        policy = clipped_policy_loss(new.logprobs, old.logprobs, old.advantages, mask, epsilon, config.dual_clip)
        value = value_loss(new.values, old.returns, mask, old.values, config.value_clip)
        entropy = masked_mean(new.entropy, mask)
        total = ppo_loss(policy.loss, value, entropy, config.value_coef, config.entropy_coef)
        if config.kl_in == "loss":
            kl = kl_estimate(new.logprobs, old.ref_logprobs, config.kl_estimator)
            total = total + self.kl.beta * masked_mean(kl, mask)
        parts = {"policy_loss": policy.loss, "value_loss": value, "clip_fraction": policy.clip_fraction}
        parts["approx_kl"] = policy.approx_kl
        return total, policy.ratio, {name: float(part.detach()) for name, part in parts.items()}

    def pieces(self, minibatch: Tensor, batch: TokenBatch) -> tuple[Tensor, ...]:
        """The microbatches of this process's share of a minibatch; rows of like length together, to save padding."""
        rows = self.world.share(minibatch)
        if len(rows) > self.config.microbatch:
            rows = rows[(batch.prompt_lengths + batch.response_lengths)[rows].argsort(stable=True)]
        return rows.split(self.config.microbatch)

    def judge(self, prompts: list[str], texts: list[str], batch: TokenBatch, finished: Tensor | None = None) -> Tensor:
        """Scores ``(B,)`` of rollouts; see :func:`ppo_lib.trainers.judging.judge`."""
        how = self.config.microbatch, self.config.normalize_scores, self.world, finished
        return judge(self.reward, self.backbone, prompts, texts, batch, *how)

    def check_first_ratio(self, error: float) -> None:
        """Warn when the first minibatch's ratios are not 1: before any update they must be."""
        if self.world.first and error > (1e-6 if self.backbone.causal_lm.dtype == torch.float32 else 1e-2):
            warnings.warn(
                f"the ratio of the first minibatch is off by {error:.1e} although nothing has been learned yet: old "
                "and new log-probs are computed in different ways (dropout, temperature, padding or dtype)",
                stacklevel=2,
            )

    def measure(self, experience: Experience) -> Metrics:
        """What the rollout batch looked like before the update; see :func:`ppo_lib.trainers.experience.describe`."""
        texts = experience.prompts, experience.texts
        seen = {name: ask(judge, *texts, self.world) for name, judge in self.watchers.items()}
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
        """Go back to a state; what follows is bit for bit what would have followed."""
        restore(self, tensors, values)
        self.generator.set_state(tensors["generator"].cpu())
        self.kl.beta = float(values["beta"])  # type: ignore[arg-type]

    def save(self, folder: str | Path) -> None:
        """Write what was trained, the value head and the tokenizer; of several processes, the first one does."""
        self.policy.save_pretrained(folder)
