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

Simplifications, on purpose: one process; text in, text out (no tools, no several turns); the value after a truncated
response is 0; a constant learning rate.
"""

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ppo_lib.advantages import gae
from ppo_lib.configuration import ConfigError, check_config, option
from ppo_lib.kl import AdaptiveKL, FixedKL, kl_estimate
from ppo_lib.losses import clipped_policy_loss, ppo_loss, value_loss
from ppo_lib.masking import masked_mean, whiten
from ppo_lib.models import ActorCritic, RewardModel
from ppo_lib.rewards import augmented_rewards
from ppo_lib.rollout import REFUSED_SAMPLING, sample
from ppo_lib.tokens import TokenBatch, decode_responses, encode_prompts
from ppo_lib.training import Metrics, Optimizer, Order, State, explained_variance, peak_memory_bytes, synchronize

RewardFunction = Callable[[list[str], list[str]], list[float]]  # (prompts, responses) -> one score each


@dataclass(frozen=True)
class PPOConfig:
    """Knobs of PPO. ``book/hyperparameters`` tells what each does when it is too low or too high."""

    model: str = option("pocket:sft", help="the SFT model: pocket:sft, a folder in hub format, or a hub id")
    prompts: str = option("pocket", help="pocket, or a JSONL file of {prompt}")
    reward_model: str = option("pocket", help="pocket, a folder, or package.module:function")
    iterations: int = option(50, minimum=1, help="rollout batches in all")
    rollout_batch: int = option(64, minimum=1, help="responses sampled per iteration")
    minibatch: int = option(32, minimum=1, help="responses per optimizer step")
    microbatch: int = option(32, minimum=1, help="responses per forward pass; less memory, same result")
    epochs: int = option(4, minimum=1, help="passes over each rollout batch")
    max_new_tokens: int = option(48, minimum=1, help="longest response, in tokens")
    temperature: float = option(1.0, above=0.0, help="of sampling; log-probs are those of the sampled distribution")
    epsilon: float | None = option(0.2, minimum=0.0, help="clip width of the ratio; null for no clip")
    dual_clip: float | None = option(None, above=1.0, help="bound on bad tokens that got likelier; null for none")
    gamma: float = option(1.0, minimum=0.0, maximum=1.0, help="discount per token")
    lam: float = option(0.95, minimum=0.0, maximum=1.0, help="GAE's mixing of short and long horizons")
    beta: float = option(0.1, minimum=0.0, help="strength of the KL rubber band, reward per nat")
    kl_estimator: str = option("k1", choices=("k1", "k2", "k3"), help="per-token estimate of the KL")
    kl_in: str = option("reward", choices=("reward", "loss"), help="where the KL acts")
    kl_target: float | None = option(
        None, above=0.0, help="adapt beta towards this KL (nats per response); null: fixed"
    )
    kl_horizon: float = option(1000.0, above=0.0, help="responses over which beta adapts by 20 %")
    value_coef: float = option(0.1, minimum=0.0, help="c1, weight of the critic's loss")
    entropy_coef: float = option(0.0, minimum=0.0, help="c2, weight of the entropy bonus")
    value_clip: float | None = option(0.2, minimum=0.0, help="how far a value may move per batch; null for no limit")
    whiten_advantages: bool = option(True, help="scale advantages to mean 0, variance 1 over the rollout batch")
    whiten_rewards: bool = option(False, help="scale augmented rewards to variance 1, mean kept")
    normalize_scores: bool = option(True, help="use the reward model's calibrated scores, not its raw ones")
    missing_eos_penalty: float = option(0.0, minimum=0.0, help="taken off the score of a truncated response")
    learning_rate: float = option(1e-3, above=0.0, help="constant")
    max_grad_norm: float = option(1.0, above=0.0, help="longer gradients are scaled down to this")
    lora_rank: int = option(8, minimum=1, help="rank of the actor's adapter")
    seed: int = option(0, minimum=0, help="of adapter, prompts and sampling")
    device: str = option("auto", help="cpu, cuda, or auto for a GPU where there is one")
    dtype: str = option("float32", choices=("float32", "bfloat16", "float16"), help="precision of the backbone")

    def __post_init__(self) -> None:
        check_config(self)
        if self.rollout_batch % self.minibatch:
            raise ConfigError(
                f"minibatch is {self.minibatch}, but must divide rollout_batch, which is {self.rollout_batch}"
            )
        if self.microbatch > self.minibatch:
            raise ConfigError(
                f"microbatch is {self.microbatch}, but must be at most minibatch, which is {self.minibatch}"
            )
        if self.kl_in == "loss" and self.kl_estimator == "k1":
            raise ConfigError("kl_estimator is k1, whose gradient is zero on average; with kl_in: loss use k2 or k3")
        if self.kl_target is not None and self.beta == 0:
            raise ConfigError("beta is 0, but kl_target multiplies it up or down; start above 0 (0.1 is usual)")

    @property
    def optimizer_steps(self) -> int:
        """Optimizer steps that the three batch sizes mean, in all."""
        return self.iterations * self.epochs * (self.rollout_batch // self.minibatch)


# Keys that other trainers have and this one refuses, with the reason (read by ppo_lib.configuration).
PPOConfig.refused = REFUSED_SAMPLING  # type: ignore[attr-defined]


@dataclass
class Experience:
    """One rollout batch and all that is known about it. Per-token tensors are ``(B, T)``, zero in the padding.

    Attributes:
        batch: prompts and responses as tokens, with lengths.
        finished: ``(B,)`` boolean, ended by an EOS.
        prompts: what was asked, as given to the trainer.
        texts: the responses.
        scores: ``(B,)``, from the reward model.
        logprobs: ``log pi_old``, of the policy that sampled.
        ref_logprobs: ``log pi_ref``.
        values: critic's forecast before each token.
        entropy: of the policy's whole distribution at each token, in nats.
        rewards: augmented rewards.
        advantages: whitened if the config says so.
        returns: value targets.
    """

    batch: TokenBatch
    finished: Tensor
    prompts: list[str]
    texts: list[str]
    scores: Tensor
    logprobs: Tensor
    ref_logprobs: Tensor
    values: Tensor
    entropy: Tensor
    rewards: Tensor
    advantages: Tensor
    returns: Tensor


class PPOTrainer:
    """PPO, one iteration per :meth:`step`.

    Args:
        config: the knobs.
        policy: actor, critic and reference; its adapter and value head are trained in place.
        prompts: texts to practise on.
        reward: a :class:`RewardModel`, or a function from prompts and responses to scores.
        gold: a function like ``reward``, measured and never trained on.

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
    ) -> None:
        self.config, self.policy, self.reward, self.gold = config, policy, reward, gold
        self.backbone, self.device = policy.backbone, policy.backbone.device
        self.prompts = list(prompts)
        room = self.backbone.context_length and self.backbone.context_length - config.max_new_tokens
        self.prompt_ids = encode_prompts(self.backbone.tokenizer, self.prompts, max_length=room)
        self.order = Order(len(self.prompts), config.seed)
        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        self.optimizer = Optimizer(policy.parameters_to_train(), config.learning_rate, config.max_grad_norm)
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
            "peak_memory_bytes": peak_memory_bytes(self.device),
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
        sampled = sample(
            self.backbone, ids, config.max_new_tokens, config.temperature, "policy", generator or self.generator
        )
        batch, mask = sampled.batch, sampled.batch.mask
        prompts, texts = [self.prompts[i] for i in rows], decode_responses(tokenizer, batch)
        # 3. Judge. A response that never ended may cost something extra.
        scores = self.judge(prompts, texts, batch)
        charged = scores - config.missing_eos_penalty * ~sampled.finished
        # 4. Look again. pi_old is these stored numbers, not a copy of the model. The pieces are the very ones that
        #    the first epoch will see, so that its ratio is exactly 1, rounding included.
        shape = (4, *mask.shape)
        logprobs, values, entropy, ref_logprobs = torch.zeros(shape, dtype=self.backbone.head_dtype, device=self.device)
        for piece in self.pieces(torch.arange(len(batch), device=self.device)):
            part = batch.select(piece)
            width = part.responses.shape[1]
            seen = policy.evaluate(part, config.temperature)
            logprobs[piece, :width], values[piece, :width], entropy[piece, :width] = seen
            ref_logprobs[piece, :width] = policy.reference_logprobs(part, config.temperature)
        # 5. Augmented reward.
        kl = kl_estimate(logprobs, ref_logprobs, config.kl_estimator)
        rewards = augmented_rewards(charged, kl, mask, self.kl.beta if config.kl_in == "reward" else 0.0)
        if config.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False)
        # 6. Advantages, and the targets of the critic.
        advantages, returns = gae(rewards, values, mask, config.gamma, config.lam)
        if config.whiten_advantages:
            advantages = whiten(advantages, mask)
        return Experience(
            batch,
            sampled.finished,
            prompts,
            texts,
            scores,
            logprobs,
            ref_logprobs,
            values,
            entropy,
            rewards,
            advantages,
            returns,
        )

    def update(self, experience: Experience) -> Metrics:
        """Step 7: a few epochs of minibatches on one batch of experience, one optimizer step each."""
        config, lengths = self.config, experience.batch.response_lengths
        order = torch.arange(len(lengths), device=self.device)
        totals: Metrics = {}
        ratio_max, first_error, steps = 0.0, 0.0, 0
        for epoch in range(config.epochs):
            if epoch:  # the first epoch keeps the rollout's order, which is random already
                order = order[torch.randperm(len(order), generator=self.generator, device=self.device)]
            for minibatch in order.split(config.minibatch):
                for piece in minibatch.split(config.microbatch):
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
                    self.check_first_ratio(first_error)
                totals["grad_norm"] = totals.get("grad_norm", 0.0) + self.optimizer.step()
                steps += 1
        means = {name: total / steps for name, total in totals.items()}
        return {**means, "ratio_max": ratio_max, "ratio_first_error": first_error}

    def loss(self, experience: Experience, rows: Tensor) -> tuple[Tensor, Tensor, Metrics]:
        """The total loss on some responses, their ratios, and the loss's parts as numbers."""
        config, batch = self.config, experience.batch.select(rows)
        mask, width = batch.mask, batch.responses.shape[1]
        old_logprobs, ref_logprobs, old_values, advantages, returns = (
            x[rows, :width]
            for x in (
                experience.logprobs,
                experience.ref_logprobs,
                experience.values,
                experience.advantages,
                experience.returns,
            )
        )
        new = self.policy.evaluate(batch, config.temperature, entropy_grad=config.entropy_coef > 0)
        epsilon = math.inf if config.epsilon is None else config.epsilon
        policy = clipped_policy_loss(new.logprobs, old_logprobs, advantages, mask, epsilon, config.dual_clip)
        value = value_loss(new.values, returns, mask, old_values, config.value_clip)
        entropy = masked_mean(new.entropy, mask)
        total = ppo_loss(policy.loss, value, entropy, config.value_coef, config.entropy_coef)
        if config.kl_in == "loss":
            total = total + self.kl.beta * masked_mean(
                kl_estimate(new.logprobs, ref_logprobs, config.kl_estimator), mask
            )
        parts = {"policy_loss": policy.loss, "value_loss": value, "clip_fraction": policy.clip_fraction}
        numbers = {name: float(part.detach()) for name, part in {**parts, "approx_kl": policy.approx_kl}.items()}
        return total, policy.ratio, numbers

    def pieces(self, order: Tensor) -> Iterator[Tensor]:
        """The microbatches of every minibatch of ``order``."""
        for minibatch in order.split(self.config.minibatch):
            yield from minibatch.split(self.config.microbatch)

    def judge(self, prompts: list[str], texts: list[str], batch: TokenBatch) -> Tensor:
        """Scores ``(B,)`` of finished rollouts.

        A reward model on the policy's own backbone reads the very tokens that were sampled. Any other reads the text,
        with its own tokenizer.

        Raises:
            ValueError: a reward function that does not return one finite number per response.
        """
        if isinstance(self.reward, RewardModel) and self.reward.backbone is self.backbone:
            scores = self.reward.score_batch(batch, self.config.microbatch)
        else:
            function = self.reward.scores if isinstance(self.reward, RewardModel) else self.reward
            scores = self.ask(function, prompts, texts).to(self.device, self.backbone.head_dtype)
        if isinstance(self.reward, RewardModel) and not self.config.normalize_scores:
            scores = scores * self.reward.std + self.reward.mean
        return scores

    def ask(self, function: RewardFunction, prompts: list[str], texts: list[str]) -> Tensor:
        """Scores ``(B,)`` in float64 of a plain function of texts.

        Raises:
            ValueError: it does not return one finite number per response.
        """
        scores = torch.tensor([float(x) for x in function(prompts, texts)], dtype=torch.float64)
        if len(scores) != len(texts):
            raise ValueError(f"the reward function returned {len(scores)} scores for {len(texts)} responses")
        if not bool(torch.isfinite(scores).all()):
            row = int((~torch.isfinite(scores)).nonzero()[0])
            raise ValueError(
                f"the reward of response {row} ({texts[row][:40]!r}) is {float(scores[row])}; it must be finite"
            )
        return scores

    def check_first_ratio(self, error: float) -> None:
        """Warn when the first minibatch's ratios are not 1: before any update they must be."""
        if error > (1e-6 if self.config.dtype == "float32" else 1e-2):
            warnings.warn(
                f"the ratio of the first minibatch is off by {error:.1e} although nothing has been learned yet: old "
                "and new log-probs are computed in different ways (dropout, temperature, padding or dtype)",
                stacklevel=2,
            )

    def measure(self, experience: Experience) -> Metrics:
        """What the rollout batch looked like before the update; KL in nats per response, entropy per token."""
        mask, scores, prompts = experience.batch.mask, experience.scores, experience.prompts
        drift = experience.logprobs, experience.ref_logprobs
        gold = None if self.gold is None else self.ask(self.gold, prompts, experience.texts)
        kl = (kl_estimate(*drift, "k1") * mask).sum(dim=1)
        rows = range(min(4, len(scores)))
        self._samples = [
            {
                "iteration": self.iteration,
                "prompt": prompts[i],
                "response": experience.texts[i],
                "score": float(scores[i]),
                **({} if gold is None else {"gold": float(gold[i])}),
                "kl": float(kl[i]),
                "finished": bool(experience.finished[i]),
            }
            for i in rows
        ]
        return {
            "score_mean": float(scores.mean()),
            "score_std": float(scores.std(correction=0)),
            **({} if gold is None else {"gold_mean": float(gold.mean())}),
            "kl_k1": float(kl.mean()),
            "kl_k3": float((kl_estimate(*drift, "k3") * mask).sum(dim=1).mean()),
            "entropy": float(masked_mean(experience.entropy, mask)),
            "explained_variance": explained_variance(experience.values, experience.returns, mask),
            "response_length": float(experience.batch.response_lengths.double().mean()),
            "eos_rate": float(experience.finished.double().mean()),
        }

    def samples(self) -> list[dict[str, object]]:
        """The first few responses of the last iteration, with score and KL."""
        return self._samples

    def state(self) -> State:
        """All that the next iteration depends on."""
        tensors = {**self.optimizer.state(), **self.order.state(), "generator": self.generator.get_state()}
        return tensors, {"iteration": self.iteration, "beta": self.kl.beta}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, object]) -> None:
        """Go back to a state; what follows is bit for bit what would have followed."""
        self.optimizer.load_state(tensors)
        self.order.load_state(tensors)
        self.generator.set_state(tensors["generator"].cpu())
        self.iteration = int(values["iteration"])  # type: ignore[call-overload]
        self.kl.beta = float(values["beta"])  # type: ignore[arg-type]

    def save(self, folder: str | Path) -> None:
        """Write the adapter, the value head and the tokenizer."""
        self.policy.save_pretrained(folder)
