"""From a configuration to a trainer that is ready to run: models, data and reward put together."""

from collections.abc import Iterable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ppo_lib.errors import BadInput
from ppo_lib.models import registry
from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.backbone import Backbone
from ppo_lib.models.device import allow_tf32
from ppo_lib.models.reward_model import RewardModel
from ppo_lib.models.tokens import encode_responses
from ppo_lib.models.world import ALONE, World
from ppo_lib.run.data import load_demonstrations, load_pairs_to_learn, load_prompts
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
    if not getattr(config, "fused_blocks", True):
        backbone.fuse_blocks(False)
    backbone.merge_adapter = getattr(config, "merge_adapter", None)
    allow_tf32(getattr(config, "tf32", False))
    if stage == "sft":
        demonstrations = short_enough(load_demonstrations(config.data, world.say), config, backbone, world)
        return SFTTrainer(config, backbone, demonstrations, world)
    if stage == "reward":
        reward_model = RewardModel(backbone, config.lora_rank, seed=config.seed)
        pairs = short_enough(load_pairs_to_learn(config.data, world.say), config, backbone, world)
        return CalibratedRewardTrainer(config, reward_model, pairs, world)
    if stage == "dpo":
        policy = ActorCritic(backbone, config.lora_rank, config.seed)
        return DPOTrainer(
            config, policy, short_enough(load_pairs_to_learn(config.data, world.say), config, backbone, world), world
        )
    if backbone.context_length is not None and config.max_new_tokens >= backbone.context_length:
        raise ConfigError(
            f"max_new_tokens is {config.max_new_tokens}, but the model's context is {backbone.context_length} tokens, "
            "prompt included; lower it"
        )
    if stage == "grpo":
        ppo = ppo_trainer(config.rollout(), backbone, load_prompts(config.prompts, say=world.say), reward, world=world)
        return GRPOTrainer(config, ppo.policy, ppo.prompts, ppo.reward, ppo.monitors.get("gold"), world)
    return ppo_trainer(config, backbone, load_prompts(config.prompts, say=world.say), reward, world=world)


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
        prompts: texts to practice on, or to measure on.
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
    trainer = PPOTrainer(config, policy, asked, judge, gold_of(config), heldout, world)
    longest = max(map(len, trainer.prompt_ids)) + config.max_new_tokens
    for name, reader in ((config.reward_model, judge), (config.heldout_judge, heldout)):
        limit = limit_of(reader, backbone)
        if limit is not None and longest > limit:
            world.say(
                f"{name} reads {limit} tokens, but a prompt and its answer may have {longest} of the policy's: where "
                "it finds more, the beginning is cut off"
            )
    return trainer


def limit_of(reader: Any, backbone: Backbone) -> int | None:
    """How many tokens a judge of its own context reads; None for the policy's own backbone, functions and no judge."""
    if isinstance(reader, RewardModel):
        return None if reader.backbone is backbone else reader.backbone.context_length
    return getattr(reader, "context_length", None)


def short_enough(rows: Sequence[Texts], config: Any, backbone: Backbone, world: World) -> list[Texts]:
    """Of demonstrations or pairs, those that fit; all of them where the configuration wants the others refused."""
    limit = config.max_length or backbone.context_length
    if not config.drop_longer or limit is None:
        return list(rows)
    prompts = backbone.encode_prompts([row[0] for row in rows])
    answers = [encode_responses(backbone.tokenizer, row[1:]) for row in rows]
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

        What is trained is never lost here: where no scale can be fixed, the scores stay raw, and the sentence says so.

        Returns:
            A sentence that says what was found.
        """
        try:
            raw, cut_off, longest = self.answers_scored()
            self.model.calibrate_on(raw)
        except BadInput as error:
            self.model.mean.zero_()
            self.model.std.fill_(1.0)
            return f"not calibrated, so that scores stay raw and PPO's beta is in their unit: {error}"
        return (
            f"calibrated on {len(raw)} answers of the SFT model, {cut_off} of them cut off at {longest} tokens: raw "
            f"scores of mean {float(self.model.mean):.3g} and spread {float(self.model.std):.3g} are now 0 and 1"
        )

    def answers_scored(self) -> tuple[Tensor, int, int]:
        """Raw scores of sampled answers, how many of them were cut off, and at how many tokens.

        The tokens are read as they were sampled: read again from their text they could be more.
        """
        self.model.mean.zero_()
        self.model.std.fill_(1.0)
        backbone = self.model.backbone
        different = list(dict.fromkeys(prompt for prompt, _, _ in self.pairs))
        _, chosen = backbone.pair_ids(different[:1] * len(self.pairs), [better for _, better, _ in self.pairs])
        longest = max(1, max(map(len, chosen)) - 1)  # without the EOS
        asked = backbone.encode_prompts(different)
        if backbone.context_length is not None:  # a prompt that fills the context leaves no room for an answer
            asked = [ids for ids in asked if len(ids) < backbone.context_length]
            longest = min(longest, backbone.context_length - max(map(len, asked), default=0))
        if not asked:
            raise BadInput("no prompt of the comparisons leaves room for an answer; use shorter prompts")
        prompts = list(islice(cycle(asked), CALIBRATION_ANSWERS))  # few prompts are answered several times
        scores: list[float] = []
        cut_off, width = 0, max(map(len, prompts))
        while len(scores) < len(prompts):
            chunk = prompts[len(scores) :][: max(1, CALIBRATION_TOKENS // (width + longest))]
            generator = torch.Generator().manual_seed(self.config.seed + len(scores))
            drawn = sample(backbone, chunk, longest, 1.0, None, generator)
            scores += self.model.score_batch(drawn.batch).tolist()
            cut_off += int((~drawn.finished).sum())
        return torch.tensor(scores, dtype=torch.float64), cut_off, longest


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
