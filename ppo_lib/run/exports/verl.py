"""PPO's configuration as Hydra overrides of veRL 0.9.1's ``verl.trainer.main_ppo``.

Read from its YAML files and its code (trainer/ppo/core_algos.py, trainer/ppo/ray_trainer.py, workers/engine/fsdp).
"""

from collections.abc import Mapping
from typing import Any

from ppo_lib.models.registry import TOY
from ppo_lib.run.exports.translation import (
    NEVER,
    Setting,
    Translation,
    critic_of_its_own,
    judge_of_ours,
    kl_controller,
    texts_and_device,
    value_weight,
)

ESTIMATORS = {"k1": "kl", "k2": "mse", "k3": "low_var_kl"}
DIFFERS = [
    "log-ratios are clamped to 20 in absolute value, k3 to 10.",
    "actor_rollout_ref.rollout.name chooses the engine that samples; sglang is another one.",
    "how many GPUs: trainer.nnodes, trainer.n_gpus_per_node, rollout.tensor_model_parallel_size.",
    "validation runs before training and needs data.val_files; trainer.val_before_train=False turns it off.",
]


def flag(setting: Setting) -> list[str]:
    """``key=value``, as Hydra reads it."""
    words = {True: "True", False: "False"}
    value = words.get(setting.value, setting.value) if isinstance(setting.value, bool) else setting.value
    return [f"{setting.key}={value}"]


def translate(config: Mapping[str, Any]) -> Translation:
    """A PPO configuration in veRL's words.

    Args:
        config: keys and values of :class:`ppo_lib.trainers.configuration.PPOConfig`.
    """
    result = Translation("veRL 0.9.1", "python3 -m verl.trainer.main_ppo", flag, differs=DIFFERS.copy())
    return result.filled(config, models_and_data, batches, objective, optimizer)


def models_and_data(config: Mapping[str, Any], result: Translation) -> None:
    """Models, prompts, reward and precision."""
    rank = config["lora_rank"] if config.get("finetune", "lora") == "lora" else 0
    result.put(
        "model",
        {"actor_rollout_ref.model.path": config["model"], "critic.model.path": config["model"]},
        f"a folder in hub format or OWNER/NAME; names such as {TOY}:sft are known to ppo_lib alone.",
    )
    critic_of_its_own(config, result, "a model of its own.")
    reward = str(config["reward_model"])
    if judge_of_ours(config, result, "it as a function for reward.custom_reward_function"):
        pass
    elif ":" in reward:
        module, _, name = reward.partition(":")
        result.put(
            "reward_model",
            {
                "reward.custom_reward_function.path": module.replace(".", "/") + ".py",
                "reward.custom_reward_function.name": name,
            },
            "a function of (data_source, solution_str, ground_truth, extra_info) and one response, not of a batch.",
        )
        result.same["normalize_scores"] = "the score of a function is used as it is."
    else:
        result.put(
            "reward_model",
            {
                "reward.reward_model.enable": True,
                "reward.reward_model.model_path": reward,
                "reward.reward_model.rollout.name": "vllm",
            },
            "a model with a scalar head in one folder; ours is an adapter and a head, so merge it or train theirs.",
        )
        raw = "scores are used raw; ours have mean 0 and spread 1 on the SFT model's answers."
        result.either("normalize_scores", not config["normalize_scores"], raw, raw)
    result.put(
        "prompts",
        {"data.train_files": config["prompts"], "data.val_files": config["prompts"]},
        "Parquet files whose column prompt holds chat messages; convert the JSONL first.",
    )
    dtype = "bfloat16" if config["dtype"] == "auto" else config["dtype"]  # it runs on GPUs that have it
    longest = config["max_prompt_tokens"]
    if longest is None:
        result.same["max_prompt_tokens"] = "prompts that are too long are an error."
    else:
        settings = {"data.max_prompt_length": longest, "data.filter_overlong_prompts": True}
        result.put("max_prompt_tokens", settings, "longer prompts are left out, as here.")
    template = "its prompts are chat messages, and the tokenizer's template is always applied."
    result.either("chat_template", config["chat_template"], template, template)
    texts_and_device(config, result)
    result.put(
        "lora_rank finetune",
        {
            **{
                f"{part}.model.{key}": value
                for part in ("actor_rollout_ref", "critic")
                for key, value in {"lora_rank": rank, "lora_alpha": 2 * rank or 16}.items()
            }
        },
        "rank 0 trains all weights. alpha is 2 x rank here, 16 by default there.",
    )
    result.put(
        "dtype",
        {
            "actor_rollout_ref.rollout.dtype": dtype,
            "actor_rollout_ref.actor.fsdp_config.dtype": dtype,
            "critic.fsdp.dtype": dtype,
        },
        "of sampling and of the forward passes; the trained weights are kept in float32.",
    )
    result.put(
        "seed",
        {"data.seed": config["seed"], "actor_rollout_ref.rollout.seed": config["seed"]},
        "of the data; the engines' seeds follow actor_rollout_ref.rollout.seed.",
    )
    result.put("", {"actor_rollout_ref.rollout.name": "vllm"}, "an engine has to be named.")


def batches(config: Mapping[str, Any], result: Translation) -> None:
    """How much is sampled, and how often it is used."""
    actor, rollout, reference = (f"actor_rollout_ref.{part}" for part in ("actor", "rollout", "ref"))
    result.put(
        "iterations",
        {"trainer.total_training_steps": config["iterations"], "trainer.total_epochs": config["iterations"]},
        "epochs are passes over the prompts; this many are more than enough.",
    )
    result.put(
        "rollout_batch",
        {"data.train_batch_size": config["rollout_batch"], f"{rollout}.n": 1},
        "counts prompts, with one response each.",
    )
    result.put(
        "minibatch",
        {f"{actor}.ppo_mini_batch_size": config["minibatch"]},
        "over all GPUs together, as here; the critic's follows.",
    )
    result.put(
        "microbatch",
        {
            f"{actor}.ppo_micro_batch_size_per_gpu": config["microbatch"],
            f"{rollout}.log_prob_micro_batch_size_per_gpu": config["microbatch"],
            f"{reference}.log_prob_micro_batch_size_per_gpu": config["microbatch"],
            "critic.ppo_micro_batch_size_per_gpu": config["microbatch"],
        },
        "per GPU, as here. Losses are token means over the optimizer step, as here.",
    )
    result.put(
        "gradient_checkpointing",
        {
            f"{part}.model.enable_gradient_checkpointing": config["gradient_checkpointing"]
            for part in ("actor_rollout_ref", "critic")
        },
        "on by default there.",
    )
    result.put(
        "epochs",
        {f"{actor}.ppo_epochs": config["epochs"], f"{actor}.shuffle": True},
        "passes over a rollout batch; not reshuffled unless asked. The critic's follow.",
    )
    result.put(
        "max_new_tokens",
        {"data.max_response_length": config["max_new_tokens"]},
        "prompts of more than data.max_prompt_length (512) tokens are an error.",
    )
    result.put(
        "temperature",
        {f"{rollout}.temperature": config["temperature"]},
        "logits are divided by it in sampling and in the loss, as here.",
    )


def objective(config: Mapping[str, Any], result: Translation) -> None:
    """Rewards, advantages and losses."""
    actor = "actor_rollout_ref.actor"
    epsilon = int(NEVER) if config["epsilon"] is None else config["epsilon"]
    result.put(
        "epsilon",
        {**{f"{actor}.clip_ratio{end}": epsilon for end in ("", "_low", "_high")}},
        "a bound that never acts." if config["epsilon"] is None else "",
    )
    result.put(
        "dual_clip",
        {f"{actor}.clip_ratio_c": config["dual_clip"] or int(NEVER)},
        "3 by default, and never off: a bound that never acts." if config["dual_clip"] is None else "",
    )
    result.put(
        "gamma lam",
        {"algorithm.adv_estimator": "gae", "algorithm.gamma": config["gamma"], "algorithm.lam": config["lam"]},
    )
    kind = ESTIMATORS[config["kl_estimator"]]
    if config["kl_in"] == "loss":
        result.put(
            "beta kl_in kl_estimator",
            {f"{actor}.use_kl_loss": True, f"{actor}.kl_loss_coef": config["beta"], f"{actor}.kl_loss_type": kind},
        )
    else:
        result.put(
            "beta kl_in kl_estimator",
            {
                "algorithm.use_kl_in_reward": config["beta"] > 0,
                "algorithm.kl_ctrl.kl_coef": config["beta"],
                "algorithm.kl_penalty": kind,
            },
            "off by default. Reward per nat, subtracted on every token; the score sits on the last token, as here.",
        )
    kl_controller(config, result)
    result.put("entropy_coef", {f"{actor}.entropy_coeff": config["entropy_coef"]})
    result.put(
        "value_clip",
        {"critic.cliprange_value": int(NEVER) if config["value_clip"] is None else config["value_clip"]},
        "a bound that never acts." if config["value_clip"] is None else "",
    )
    always = "always, over the whole rollout batch, dividing by n - 1 as here."
    unasked = "GAE's advantages are always whitened."
    result.either("whiten_advantages", config["whiten_advantages"], always, unasked)
    scaled = "not offered; scale the reward instead."
    result.either("whiten_rewards", not config["whiten_rewards"], "never done.", scaled)
    charged = "not offered for plain PPO; let the reward function charge it."
    result.either("missing_eos_penalty", not config["missing_eos_penalty"], "none by default.", charged)


def optimizer(config: Mapping[str, Any], result: Translation) -> None:
    """Learning rates and gradients."""
    parts = ("actor_rollout_ref.actor", "critic")
    result.put(
        "learning_rate",
        {**{f"{part}.optim.lr": config["learning_rate"] for part in parts}},
        "critic and actor have an optimizer each; both are constant by default, as here.",
    )
    result.put("", {**{f"{part}.optim.weight_decay": 0.0 for part in parts}}, "0.01 by default.")
    result.put(
        "max_grad_norm",
        {**{f"{part}.optim.clip_grad": config["max_grad_norm"] for part in parts}},
        "of actor and critic separately; here of both together.",
    )
    value_weight(result, "critic.optim.lr")
