"""The knobs of PPO, each with its range, and the combinations that cannot work."""

from dataclasses import dataclass

from ppo_lib.models.actor_critic import CRITIC, FINETUNE
from ppo_lib.sampling.rollout import REFUSED_SAMPLING
from ppo_lib.trainers.options import DTYPES, ConfigError, check_config, option


@dataclass(frozen=True)
class PPOConfig:
    """Knobs of PPO. ``book/hyperparameters`` tells what each does when it is too low or too high."""

    model: str = option("pocket:sft", help="the SFT model: pocket:sft, a folder in hub format, or OWNER/NAME@COMMIT")
    prompts: str = option("pocket", help="see ppo_lib.run.data: pocket, a JSONL file, a data set")
    prompt_suffix: str = option("", help="text put after every prompt, such as the wanted form of the answer")
    chat_template: bool = option(False, help="put prompts into the tokenizer's chat template, as -Instruct models want")
    max_prompt_tokens: int | None = option(None, minimum=1, help="leave out longer prompts; null refuses them")
    reward_model: str = option("pocket", help="what is maximised, see ppo_lib.run.judges: pocket, a folder, a function")
    second_judge: str | None = option(None, help="measured and never trained on, see ppo_lib.run.judges; null for none")
    iterations: int = option(50, minimum=1, help="rollout batches in all")
    rollout_batch: int = option(64, minimum=1, help="responses sampled per iteration")
    minibatch: int = option(32, minimum=1, help="responses per optimizer step")
    microbatch: int = option(32, minimum=1, help="responses per forward pass; less memory, same result")
    gradient_checkpointing: bool = option(False, help="compute activations twice instead of keeping them")
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
    learning_rate: float = option(1e-3, above=0.0, help="constant; about 1e-3 for LoRA, 1e-6 to 1e-5 for full")
    max_grad_norm: float = option(1.0, above=0.0, help="longer gradients are scaled down to this")
    finetune: str = option("lora", choices=FINETUNE, help="train adapters, or all weights of a copy of the model")
    critic: str = option("shared", choices=CRITIC, help="a head on the actor's states, or a network of its own too")
    lora_rank: int = option(8, minimum=1, help="rank of the adapters; finetune: full has none")
    seed: int = option(0, minimum=0, help="of adapter, prompts and sampling")
    device: str = option("auto", help="cpu, cuda, or auto for a GPU where there is one")
    dtype: str = option("float32", choices=DTYPES, help="of the backbone; auto: bfloat16 where the GPU computes in it")

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
        if self.finetune == "full" and self.dtype == "float16":
            raise ConfigError(
                "dtype is float16, in which gradients of all weights underflow; with finetune: full use bfloat16 or "
                "float32, or use finetune: lora"
            )

    @property
    def optimizer_steps(self) -> int:
        """Optimizer steps that the three batch sizes mean, in all."""
        return self.iterations * self.epochs * (self.rollout_batch // self.minibatch)


# Keys that other trainers have and this one refuses, with the reason (read by ppo_lib.trainers.configuration).
PPOConfig.refused = REFUSED_SAMPLING  # type: ignore[attr-defined]
