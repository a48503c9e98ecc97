"""ppo_lib: the small library that the book "Proximal" builds, chapter by chapter, and imports ever after.

    from ppo_lib import gae, kl_estimate, PPOConfig, PPOTrainer

The book's vocabulary stands here, and each word is loaded from its room when it is first asked for. The rooms, in the
order in which they import each other: :mod:`ppo_lib.formulas`, :mod:`ppo_lib.models`, :mod:`ppo_lib.sampling`,
:mod:`ppo_lib.trainers`, :mod:`ppo_lib.parallel`, :mod:`ppo_lib.pocket`, :mod:`ppo_lib.book`, :mod:`ppo_lib.run`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ppo_lib import versions

if TYPE_CHECKING:  # for editors and type checkers; a test holds this together with the table below
    from ppo_lib.formulas.advantages import discounted_returns as discounted_returns
    from ppo_lib.formulas.advantages import gae as gae
    from ppo_lib.formulas.advantages import td_errors as td_errors
    from ppo_lib.formulas.dpo import dpo_loss as dpo_loss
    from ppo_lib.formulas.grpo import group_advantages as group_advantages
    from ppo_lib.formulas.grpo import grpo_loss as grpo_loss
    from ppo_lib.formulas.kl import AdaptiveKL as AdaptiveKL
    from ppo_lib.formulas.kl import kl_estimate as kl_estimate
    from ppo_lib.formulas.kl import kl_exact as kl_exact
    from ppo_lib.formulas.losses import bradley_terry_loss as bradley_terry_loss
    from ppo_lib.formulas.losses import clipped_policy_loss as clipped_policy_loss
    from ppo_lib.formulas.losses import entropy as entropy
    from ppo_lib.formulas.losses import policy_gradient_loss as policy_gradient_loss
    from ppo_lib.formulas.losses import ppo_loss as ppo_loss
    from ppo_lib.formulas.losses import sft_loss as sft_loss
    from ppo_lib.formulas.losses import value_loss as value_loss
    from ppo_lib.formulas.masking import masked_mean as masked_mean
    from ppo_lib.formulas.masking import whiten as whiten
    from ppo_lib.formulas.rewards import augmented_rewards as augmented_rewards
    from ppo_lib.models.actor_critic import ActorCritic as ActorCritic
    from ppo_lib.models.backbone import Backbone as Backbone
    from ppo_lib.models.reward_model import RewardModel as RewardModel
    from ppo_lib.models.tokens import decode_responses as decode_responses
    from ppo_lib.models.tokens import encode_pairs as encode_pairs
    from ppo_lib.models.tokens import encode_prompts as encode_prompts
    from ppo_lib.sampling.rollout import generate_text as generate_text
    from ppo_lib.sampling.rollout import sample as sample
    from ppo_lib.trainers.configuration import DPOConfig as DPOConfig
    from ppo_lib.trainers.configuration import GRPOConfig as GRPOConfig
    from ppo_lib.trainers.configuration import PPOConfig as PPOConfig
    from ppo_lib.trainers.configuration import RewardConfig as RewardConfig
    from ppo_lib.trainers.configuration import SFTConfig as SFTConfig
    from ppo_lib.trainers.dpo import DPOTrainer as DPOTrainer
    from ppo_lib.trainers.grpo import GRPOTrainer as GRPOTrainer
    from ppo_lib.trainers.ppo import PPOTrainer as PPOTrainer
    from ppo_lib.trainers.reward import RewardTrainer as RewardTrainer
    from ppo_lib.trainers.sft import SFTTrainer as SFTTrainer

__version__ = "0.1.0"

versions.check()

_ROOMS = {
    "ppo_lib.formulas.masking": "masked_mean whiten",
    "ppo_lib.formulas.kl": "AdaptiveKL kl_estimate kl_exact",
    "ppo_lib.formulas.losses": "bradley_terry_loss clipped_policy_loss entropy policy_gradient_loss ppo_loss sft_loss "
    "value_loss",
    "ppo_lib.formulas.rewards": "augmented_rewards",
    "ppo_lib.formulas.advantages": "discounted_returns gae td_errors",
    "ppo_lib.formulas.grpo": "group_advantages grpo_loss",
    "ppo_lib.formulas.dpo": "dpo_loss",
    "ppo_lib.models.tokens": "decode_responses encode_pairs encode_prompts",
    "ppo_lib.models.backbone": "Backbone",
    "ppo_lib.models.actor_critic": "ActorCritic",
    "ppo_lib.models.reward_model": "RewardModel",
    "ppo_lib.sampling.rollout": "generate_text sample",
    "ppo_lib.trainers.configuration": "DPOConfig GRPOConfig PPOConfig RewardConfig SFTConfig",
    "ppo_lib.trainers.sft": "SFTTrainer",
    "ppo_lib.trainers.reward": "RewardTrainer",
    "ppo_lib.trainers.ppo": "PPOTrainer",
    "ppo_lib.trainers.grpo": "GRPOTrainer",
    "ppo_lib.trainers.dpo": "DPOTrainer",
}
_HOMES = {word: module for module, words in _ROOMS.items() for word in words.split()}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found = getattr(import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
