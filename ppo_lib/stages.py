"""From a configuration to a trainer that is ready to run: models, data and reward put together."""

import importlib
import os
import sys
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch

from ppo_lib import pocket
from ppo_lib.backbone import Backbone
from ppo_lib.configuration import ConfigError
from ppo_lib.distributed import ALONE, Processes
from ppo_lib.examples import load_demonstrations, load_pairs, load_prompts
from ppo_lib.loading import base_name, load_shape, read_json, resolve
from ppo_lib.memory import MemoryPlan, plan_memory
from ppo_lib.models import ActorCritic, RewardModel
from ppo_lib.ppo import PPOConfig, PPOTrainer, RewardFunction
from ppo_lib.records import Stage
from ppo_lib.reward_training import RewardConfig, RewardTrainer
from ppo_lib.rollout import generate_text
from ppo_lib.sft import SFTConfig, SFTTrainer
from ppo_lib.tokens import encode_prompts

CONFIGS: dict[str, type] = {"sft": SFTConfig, "reward": RewardConfig, "ppo": PPOConfig}
CALIBRATION_ANSWERS = 256  # enough to know mean and spread to about 6 % of the spread


def build(
    stage: str, config: Any, sft: Path | None = None, reward: Path | None = None, processes: Processes = ALONE
) -> Stage:
    """The trainer of a stage, with everything that it needs loaded.

    Args:
        stage: ``sft``, ``reward`` or ``ppo``.
        config: an instance of the stage's class in ``CONFIGS``.
        sft: folder of the SFT model to stand on instead of ``config.model``.
        reward: folder of the reward model to use instead of ``config.reward_model``; trained on ``sft``.
        processes: who shares the work; each loads the model onto its own device.

    Raises:
        ValueError: a model, data or reward that cannot be loaded.
    """
    torch.manual_seed(config.seed)
    model = str(sft or config.model)
    backbone = Backbone.from_pretrained(
        model, device=processes.device or pick_device(config.device), dtype=config.dtype
    )
    if stage == "sft":
        return SFTTrainer(config, backbone, load_demonstrations(config.data), processes)
    if stage == "reward":
        reward_model = RewardModel(backbone, config.lora_rank, seed=config.seed)
        return CalibratedRewardTrainer(config, reward_model, load_pairs(config.data), processes)
    if backbone.context_length is not None and config.max_new_tokens >= backbone.context_length:
        raise ConfigError(
            f"max_new_tokens is {config.max_new_tokens}, but the model's context is {backbone.context_length} tokens, "
            "prompt included; lower it"
        )
    judge = load_reward(config, backbone, reward)
    policy = ActorCritic(backbone, config.lora_rank, config.seed, config.finetune, config.critic)
    return PPOTrainer(config, policy, load_prompts(config.prompts), judge, gold_of(config), processes)


def memory_plan(
    config: PPOConfig, sft: Path | None = None, reward: Path | None = None, processes: int = 1
) -> MemoryPlan:
    """The memory plan of a PPO run, from configurations, tokenizer and prompts; no weights are read.

    Args:
        config, sft, reward: as :func:`build` takes them.
        processes: how many share the work.

    Raises:
        ValueError: a model, prompts or reward model that cannot be read.
    """
    model = str(sft or config.model)
    shape, tokenizer = load_shape(model)
    longest = max(map(len, encode_prompts(tokenizer, load_prompts(config.prompts))))
    rank, others = 0, []
    folder = resolve("pocket:reward") if config.reward_model == "pocket" else Path(config.reward_model)
    folder = Path(reward or folder)
    if (folder / "adapter_config.json").is_file():
        adapter = read_json(folder / "adapter_config.json", "a PEFT adapter folder")
        if reward is not None or adapter["base_model_name_or_path"] == model:
            rank = adapter["r"]
        else:
            others = [load_shape(adapter["base_model_name_or_path"])[0]]
    return plan_memory(shape, config, longest, rank, others, processes)


class CalibratedRewardTrainer(RewardTrainer):
    """Reward training that ends by fixing the score's zero and unit on answers of the SFT model."""

    def save(self, folder: str | Path) -> None:
        """Calibrate on sampled answers to prompts of the comparisons, then save."""
        different = dict.fromkeys(prompt for prompt, _, _ in self.pairs)
        prompts = list(islice(cycle(different), CALIBRATION_ANSWERS))  # few prompts are answered several times
        backbone = self.model.backbone
        longest = max(len(ids) for ids in backbone.tokenizer([chosen for _, chosen, _ in self.pairs])["input_ids"])
        context = backbone.context_length
        if context is not None:
            longest = min(longest, context - max(map(len, backbone.tokenizer(prompts)["input_ids"])))
        answers = generate_text(backbone, prompts, longest, 1.0, seed=self.config.seed)
        self.model.calibrate(prompts, answers)
        super().save(folder)


def pick_device(name: str) -> str:
    """``auto`` is a GPU where there is one; other names are checked.

    Raises:
        ConfigError: an unknown device, or one that this machine lacks.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device is {name!r}, but must be auto, cpu or cuda") from error
    missing = device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()
    if device.type not in ("cpu", "cuda", "mps") or missing:
        raise ConfigError(f"device is {name!r}, but this machine has none; use auto or cpu")
    return name


def load_reward(config: PPOConfig, backbone: Backbone, folder: Path | None = None) -> RewardModel | RewardFunction:
    """The judge of PPO: a reward model, on the policy's own backbone where it was trained on that, or a function.

    Args:
        config: its ``reward_model`` is ``pocket``, a folder, or ``package.module:function``.
        backbone: the policy's.
        folder: a reward model known to be trained on ``backbone``; goes before the configuration.

    Raises:
        ValueError: none of these, or one that cannot be loaded.
    """
    if folder is not None:
        return RewardModel.from_pretrained(folder, backbone)
    name = config.reward_model
    if name != "pocket" and not Path(name).is_dir():
        if ":" in name:
            return import_function(name)
        raise ConfigError(f"reward_model is {name!r}, but must be 'pocket', a folder, or 'package.module:function'")
    base = base_name(resolve("pocket:reward") if name == "pocket" else name)
    shared = backbone
    if base != backbone.name:
        shared = Backbone.from_pretrained(base, device=str(backbone.device), dtype=config.dtype)
    return RewardModel.from_pretrained(name, shared)


def import_function(name: str) -> Callable[[list[str], list[str]], list[float]]:
    """The function ``package.module:function``, also of a module in the current folder.

    Raises:
        ConfigError: it cannot be imported, or is not a function.
    """
    module, _, attribute = name.partition(":")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"reward_model is {name!r}, which cannot be imported: {error}") from error
    if not callable(function):
        raise ConfigError(f"reward_model is {name!r}, which is not a function of (prompts, responses)")
    return function


def gold_of(config: PPOConfig) -> RewardFunction | None:
    """The gold score of the pocket world; other worlds have none."""
    return pocket.gold_scores if config.prompts == "pocket" else None


def describe_batches(config: Any, iterations: int, processes: int = 1) -> str:
    """The batch sizes in words, the optimizer steps that they mean, and how many processes share each batch."""
    shared = f", each batch shared by {processes} processes" if processes > 1 else ""
    if not isinstance(config, PPOConfig):
        return (
            f"batch {config.batch} examples per optimizer step, microbatch {config.microbatch} per forward pass: "
            f"{config.epochs} epochs = {iterations} optimizer steps{shared}"
        )
    per = config.rollout_batch // config.minibatch
    return (
        f"rollout_batch {config.rollout_batch} responses per iteration, minibatch {config.minibatch} per optimizer "
        f"step, microbatch {config.microbatch} per forward pass: {config.iterations} iterations x {config.epochs} "
        f"epochs x {per} minibatches = {config.optimizer_steps} optimizer steps{shared}"
    )
