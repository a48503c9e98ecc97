"""PPO's configuration as arguments of OpenRLHF 0.11.2's ``openrlhf.cli.train_ppo_ray``.

Read from its argument parser and its code (models/loss.py, models/utils.py, trainer/ppo_utils/experience_maker.py).
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

DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "bf16", "auto": "bf16"}
DIFFERS = [
    "log-ratios are clamped to 20 in absolute value, KL estimates to 10.",
    "whitening divides by n instead of n - 1.",
    "responses come from vLLM, whose log-probs differ from the trainer's in rounding; the old log-probs are "
    "computed again by the trainer, as here.",
    "how many GPUs each model gets: --actor.num_gpus_per_node and its like, --vllm.num_engines.",
]


def flag(setting: Setting) -> list[str]:
    """``--key value``, ``--key a b``, or ``--key`` alone."""
    values = setting.value if isinstance(setting.value, list) else [setting.value]
    return [f"--{setting.key}", *([] if setting.value is True else map(str, values))]


def translate(config: Mapping[str, Any]) -> Translation:
    """A PPO configuration in OpenRLHF's words.

    Args:
        config: keys and values of :class:`ppo_lib.trainers.configuration.PPOConfig`.
    """
    result = Translation("OpenRLHF 0.11.2", "python3 -m openrlhf.cli.train_ppo_ray", flag, differs=DIFFERS.copy())
    return result.filled(config, models_and_data, batches, objective, optimizer)


def models_and_data(config: Mapping[str, Any], result: Translation) -> None:
    """Models, prompts, reward and precision."""
    rank = config["lora_rank"] if config.get("finetune", "lora") == "lora" else 0
    result.put(
        "model",
        {"actor.model_name_or_path": config["model"]},
        f"a folder in hub format or OWNER/NAME; names such as {TOY}:sft are known to ppo_lib alone.",
    )
    reward = str(config["reward_model"])
    if judge_of_ours(config, result, "it as a Python file for reward.remote_url"):
        pass
    elif ":" in reward:
        result.put(
            "reward_model",
            {"reward.remote_url": reward.partition(":")[0].replace(".", "/") + ".py"},
            "a Python file with reward_func(queries, prompts, labels), whose queries are prompt and response in one; "
            f"put {reward} into that form.",
        )
        result.same["normalize_scores"] = "the score of a function is used as it is."
    else:
        result.put(
            "reward_model",
            {"reward.model_name_or_path": reward},
            "a model of their train_rm; ours is an adapter and a head, so train theirs on the same comparisons.",
        )
        if config["normalize_scores"]:
            result.put(
                "normalize_scores",
                {"reward.normalize_enable": True},
                "by mean and spread that their reward training has stored.",
            )
        else:
            result.same["normalize_scores"] = "raw scores are their default."
    result.put(
        "", {"reward.clip_range": [-int(NEVER), int(NEVER)]}, "theirs cuts scores to -10 to 10; ours cuts nothing."
    )
    result.put(
        "prompts",
        {"data.prompt_dataset": config["prompts"], "data.input_key": "prompt"},
        "rows of {prompt}.",
    )
    if config["chat_template"]:
        result.put("chat_template", {"data.apply_chat_template": True}, "the tokenizer's own.")
    else:
        result.same["chat_template"] = "prompts are taken as they are unless asked otherwise."
    longest = "leave longer prompts out of the data yourself; --data.max_len bounds prompt and response together."
    result.either("max_prompt_tokens", not config["max_prompt_tokens"], longest, longest)
    texts_and_device(config, result)
    result.put(
        "lora_rank finetune",
        {"ds.lora.rank": rank, "ds.lora.alpha": 2 * rank or 16},
        "rank 0 trains all weights. alpha is 2 x rank here, 16 by default there.",
    )
    result.put(
        "dtype",
        {"ds.param_dtype": DTYPES[config["dtype"]]},
        "float32 is not offered, so bf16 it is." if config["dtype"] == "float32" else "",
    )
    result.put("seed", {"train.seed": config["seed"]})
    own = "a model of its own, which starts as the reward model (or as the actor, with a function)."
    critic_of_its_own(config, result, own)


def batches(config: Mapping[str, Any], result: Translation) -> None:
    """How much is sampled, and how often it is used."""
    result.put(
        "iterations",
        {"train.num_episodes": 1, "data.max_samples": config["iterations"] * config["rollout_batch"]},
        "one episode is one pass over the prompts: with fewer prompts than this, raise num_episodes.",
    )
    result.put(
        "rollout_batch",
        {"rollout.batch_size": config["rollout_batch"], "rollout.n_samples_per_prompt": 1},
        "counts prompts, with one response each.",
    )
    result.put("minibatch", {"train.batch_size": config["minibatch"]}, "over all GPUs together, as here.")
    result.put(
        "microbatch",
        {"train.micro_batch_size": config["microbatch"], "rollout.micro_batch_size": config["microbatch"]},
        "per GPU, as here. Losses are token means over the optimizer step, as here.",
    )
    if config["gradient_checkpointing"]:
        result.put(
            "gradient_checkpointing", {"actor.gradient_checkpointing_enable": True}, "actor and critic, as here."
        )
    else:
        result.same["gradient_checkpointing"] = "activations are kept unless asked otherwise."
    result.put("epochs", {"train.max_epochs": config["epochs"]}, "passes over a rollout batch, reshuffled.")
    result.put(
        "max_new_tokens",
        {"rollout.max_new_tokens": config["max_new_tokens"]},
        "prompt and response together must fit --data.max_len (2048).",
    )
    result.put(
        "temperature",
        {"rollout.temperature": config["temperature"]},
        "logits are divided by it in sampling and in the loss, as here.",
    )


def objective(config: Mapping[str, Any], result: Translation) -> None:
    """Rewards, advantages and losses."""
    wide = int(NEVER)
    result.put(
        "epsilon",
        {"actor.eps_clip": wide if config["epsilon"] is None else config["epsilon"]},
        "a bound that never acts." if config["epsilon"] is None else "",
    )
    if config["dual_clip"] is None:
        result.same["dual_clip"] = "off by default."
    else:
        result.put("dual_clip", {"actor.dual_clip": config["dual_clip"]})
    result.put(
        "gamma lam",
        {
            "algo.advantage.estimator": "gae",
            "algo.advantage.gamma": config["gamma"],
            "algo.advantage.lambd": config["lam"],
        },
    )
    result.put(
        "beta",
        {"algo.kl.init_coef": config["beta"]},
        "reward per nat, subtracted on every token; the score sits on the last token, as here.",
    )
    result.put("kl_estimator", {"algo.kl.estimator": config["kl_estimator"]})
    if config["kl_in"] == "loss":
        result.put("kl_in", {"algo.kl.use_loss": True})
    else:
        result.same["kl_in"] = "in the reward."
    kl_controller(config, result)
    if config["entropy_coef"] > 0:
        result.put("entropy_coef", {"actor.entropy_coef": config["entropy_coef"]})
    else:
        result.same["entropy_coef"] = "no bonus by default."
    result.put(
        "value_clip",
        {"critic.value_clip": wide if config["value_clip"] is None else config["value_clip"]},
        "a bound that never acts." if config["value_clip"] is None else "",
    )
    centered = "GAE's advantages are always centered; no_std_norm leaves out the scaling."
    result.either("whiten_advantages", config["whiten_advantages"], "always, over the whole rollout batch.", centered)
    scaled = "not offered; scale the reward instead."
    result.either("whiten_rewards", not config["whiten_rewards"], "never done.", scaled)
    replaced = (
        "reward.stop_properly_penalty_coef replaces a truncated response's score (below 0) or scales it (0 to 1); "
        "nothing subtracts."
    )
    result.either("missing_eos_penalty", not config["missing_eos_penalty"], "none by default.", replaced)


def optimizer(config: Mapping[str, Any], result: Translation) -> None:
    """Learning rates, schedule and gradients."""
    result.put(
        "learning_rate",
        {
            "actor.adam.lr": config["learning_rate"],
            "critic.adam.lr": config["learning_rate"],
            "actor.lr_scheduler": "constant",
            "critic.lr_scheduler": "constant",
        },
        "critic and actor have an optimizer each; theirs decays along a cosine, ours is constant.",
    )
    result.put("", {"actor.adam.betas": [0.9, 0.999], "critic.adam.betas": [0.9, 0.999]}, "(0.9, 0.95) by default.")
    result.put(
        "max_grad_norm",
        {"actor.max_norm": config["max_grad_norm"], "critic.max_norm": config["max_grad_norm"]},
        "of actor and critic separately; here of both together.",
    )
    value_weight(result, "critic.adam.lr")
