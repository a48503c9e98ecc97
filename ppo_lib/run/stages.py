"""From a configuration to a trainer that is ready to run: models, data and reward put together."""

from collections.abc import Iterable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, TypeVar

import torch

from ppo_lib.models import registry
from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.backbone import Backbone
from ppo_lib.models.device import allow_tf32
from ppo_lib.models.reward_model import RewardModel
from ppo_lib.models.tokens import decode_responses
from ppo_lib.models.world import ALONE, World
from ppo_lib.run.data import load_demonstrations, load_pairs, load_prompts
from ppo_lib.run.judge_names import load_judge
from ppo_lib.run.machines import pick_device, pick_dtype
from ppo_lib.sampling.rollout import sample
from ppo_lib.trainers.configuration import ConfigError, DPOConfig, GRPOConfig, PPOConfig, RewardConfig, SFTConfig
from ppo_lib.trainers.dpo import DPOTrainer
from ppo_lib.trainers.grpo import GRPOTrainer
from ppo_lib.trainers.judging import RewardFunction
from ppo_lib.trainers.optimizer import Trainer
from ppo_lib.trainers.ppo import PPOTrainer
from ppo_lib.trainers.reward import RewardTrainer
from ppo_lib.trainers.sft import SFTTrainer

T = TypeVar("T")
Texts = TypeVar("Texts", tuple[str, str], tuple[str, str, str])
CONFIGS: dict[str, type] = {
    "sft": SFTConfig,
    "reward": RewardConfig,
    "ppo": PPOConfig,
    "grpo": GRPOConfig,
    "dpo": DPOConfig,
}
CALIBRATION_ANSWERS = 256  # enough to know mean and spread to about 6 % of the spread
CALIBRATION_TOKENS = 2**16  # whose keys and values are held at once: 3 GB of SmolLM2-135M's in float32


def build(
    stage: str, config: Any, sft: Path | None = None, reward: Path | None = None, world: World = ALONE
) -> Trainer:
    """The trainer of a stage, with everything that it needs loaded.

    Args:
        stage: one of ``CONFIGS``.
        config: an instance of the stage's class in ``CONFIGS``.
        sft: folder of the SFT model to stand on instead of ``config.model``.
        reward: folder of the reward model to use instead of ``config.reward_model``; trained on ``sft``.
        world: who shares the work; each loads the model onto its own device.

    Raises:
        ValueError: a model, data or reward that cannot be loaded.
    """
    torch.manual_seed(config.seed)
    model = str(sft or config.model)
    backbone = Backbone.from_pretrained(
        model, world.device or pick_device(config.device), pick_dtype(config), config.chat_template, world
    )
    backbone.gradient_checkpointing = config.gradient_checkpointing
    backbone.share_prefix = getattr(config, "share_prefix", True)
    backbone.fused_lora = getattr(config, "fused_lora", True)
    allow_tf32(getattr(config, "tf32", False))
    if stage == "sft":
        demonstrations = short_enough(load_demonstrations(config.data), config, backbone, world)
        return SFTTrainer(config, backbone, demonstrations, world)
    if stage == "reward":
        reward_model = RewardModel(backbone, config.lora_rank, seed=config.seed)
        pairs = short_enough(load_pairs(config.data), config, backbone, world)
        return CalibratedRewardTrainer(config, reward_model, pairs, world)
    if stage == "dpo":
        policy = ActorCritic(backbone, config.lora_rank, config.seed)
        return DPOTrainer(config, policy, short_enough(load_pairs(config.data), config, backbone, world), world)
    if backbone.context_length is not None and config.max_new_tokens >= backbone.context_length:
        raise ConfigError(
            f"max_new_tokens is {config.max_new_tokens}, but the model's context is {backbone.context_length} tokens, "
            "prompt included; lower it"
        )
    if stage == "grpo":
        ppo = ppo_trainer(config.rollout(), backbone, load_prompts(config.prompts), reward, world=world)
        return GRPOTrainer(config, ppo.policy, ppo.prompts, ppo.reward, ppo.monitors.get("gold"), world)
    return ppo_trainer(config, backbone, load_prompts(config.prompts), reward, world=world)


def ppo_trainer(
    config: PPOConfig,
    backbone: Backbone,
    prompts: Sequence[str],
    reward: Path | None = None,
    policy: ActorCritic | None = None,
    world: World = ALONE,
) -> PPOTrainer:
    """PPO's trainer with its judges.

    Args:
        config: the knobs.
        backbone: the SFT model.
        prompts: texts to practise on, or to measure on.
        reward: folder of a reward model trained on ``backbone``, instead of ``config.reward_model``.
        policy: a trained one; a fresh one if not given.
        world: who shares the work.

    Raises:
        ValueError: a judge that cannot be loaded, or prompts of which none is short enough.
    """
    judge = load_judge(config.reward_model, config, backbone, reward)
    heldout: Any = config.heldout_judge and load_judge(config.heldout_judge, config, backbone, key="heldout_judge")
    policy = policy or ActorCritic(backbone, config.lora_rank, config.seed, config.finetune, config.critic)
    asked = [prompt + config.prompt_suffix for prompt in prompts]
    if config.max_prompt_tokens is not None:
        lengths = map(len, backbone.encode_prompts(asked))
        asked = keep(asked, lengths, config.max_prompt_tokens, "max_prompt_tokens", world)
    return PPOTrainer(config, policy, asked, judge, gold_of(config), heldout, world)


def short_enough(rows: Sequence[Texts], config: Any, backbone: Backbone, world: World) -> list[Texts]:
    """Of demonstrations or pairs, those that fit; all of them where the configuration wants the others refused."""
    limit = config.max_length or backbone.context_length
    if not config.drop_longer or limit is None:
        return list(rows)
    prompts = backbone.encode_prompts([row[0] for row in rows])
    answers = [backbone.tokenizer(list(row[1:]), add_special_tokens=False)["input_ids"] for row in rows]
    lengths = (len(p) + max(map(len, texts)) + 1 for p, texts in zip(prompts, answers, strict=True))  # 1 for the EOS
    return keep(rows, lengths, limit, "max_length", world)


def keep(rows: Sequence[T], lengths: Iterable[int], limit: int, key: str, world: World) -> list[T]:
    """The rows of at most ``limit`` tokens; says how many were left out.

    Raises:
        ConfigError: none is short enough.
    """
    kept = [row for row, length in zip(rows, lengths, strict=True) if length <= limit]
    if not kept:
        raise ConfigError(f"{key} is {limit}, but none of the {len(rows)} texts has so few tokens; raise it")
    if len(kept) < len(rows):
        world.say(f"{key} is {limit}: {len(rows) - len(kept)} of {len(rows)} texts are longer, and are left out")
    return kept


class CalibratedRewardTrainer(RewardTrainer):
    """Reward training that ends by fixing the score's zero and unit on answers of the SFT model.

    The last step of its own, :meth:`calibrate`, is called by :func:`ppo_lib.run.fitting.fit` before it saves.
    """

    def calibrate(self) -> str:
        """Fix zero and unit on sampled answers to prompts of the comparisons; from one seed always the same.

        Returns:
            A sentence that says what was found.

        Raises:
            ValueError: all answers have the same score.
        """
        different = dict.fromkeys(prompt for prompt, _, _ in self.pairs)
        prompts = list(islice(cycle(different), CALIBRATION_ANSWERS))  # few prompts are answered several times
        backbone = self.model.backbone
        longest = max(len(ids) for ids in backbone.tokenizer([chosen for _, chosen, _ in self.pairs])["input_ids"])
        asked = max(map(len, backbone.encode_prompts(prompts)))
        if backbone.context_length is not None:
            longest = min(longest, backbone.context_length - asked)
        answers: list[str] = []
        finished: list[bool] = []
        while len(answers) < len(prompts):
            chunk = prompts[len(answers) :][: max(1, CALIBRATION_TOKENS // (asked + longest))]
            generator = torch.Generator().manual_seed(self.config.seed + len(answers))
            drawn = sample(backbone, backbone.encode_prompts(chunk), longest, 1.0, None, generator)
            answers += decode_responses(backbone.tokenizer, drawn.batch)
            finished += drawn.finished.tolist()
        self.model.calibrate(prompts, answers, finished)
        return (
            f"calibrated on {len(answers)} answers of the SFT model, {len(answers) - sum(finished)} of them cut off at "
            f"{longest} tokens: raw scores of mean {float(self.model.mean):.3g} and spread {float(self.model.std):.3g} "
            "are now 0 and 1"
        )


def gold_of(config: PPOConfig) -> RewardFunction | None:
    """The true quality of answers to these prompts, where their source knows it."""
    source = registry.find(config.prompts)
    return source.gold if source else None


def describe_batches(config: Any, iterations: int, world: World = ALONE) -> str:
    """The batch sizes in words, the optimizer steps that they mean, and what several processes share."""
    shared = f", each batch shared by {world.size} processes" if world.size > 1 else ""
    if world.sharded:
        shared = f", each batch and each model divided among {world.size} processes"
    groups = f" in groups of {config.group_size}" if isinstance(config, GRPOConfig) else ""
    config = config.rollout() if isinstance(config, GRPOConfig) else config
    if not isinstance(config, PPOConfig):
        steps = f"{config.epochs} epochs = {iterations} optimizer steps"
        if iterations == getattr(config, "max_steps", None):
            steps = f"max_steps = {iterations} optimizer steps, or {config.epochs} epochs if those are fewer"
        return (
            f"batch {config.batch} examples per optimizer step, microbatch {config.microbatch} per forward pass: "
            f"{steps}{shared}"
        )
    per = config.rollout_batch // config.minibatch
    return (
        f"rollout_batch {config.rollout_batch} responses{groups} per iteration, minibatch {config.minibatch} per "
        f"optimizer step, microbatch {config.microbatch} per forward pass: {config.iterations} iterations x "
        f"{config.epochs} epochs x {per} minibatches = {config.optimizer_steps} optimizer steps{shared}"
    )
