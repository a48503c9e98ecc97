"""Who judges a response: a reward model, or any function of texts. One finite number per response, or a refusal."""

from collections.abc import Callable

import torch
from torch import Tensor

from ppo_lib.backbone import Backbone
from ppo_lib.models import RewardModel
from ppo_lib.tokens import TokenBatch

RewardFunction = Callable[[list[str], list[str]], list[float]]  # (prompts, responses) -> one score each


def judge(
    reward: RewardModel | RewardFunction,
    backbone: Backbone,
    prompts: list[str],
    texts: list[str],
    batch: TokenBatch,
    microbatch: int = 64,
    normalize: bool = True,
) -> Tensor:
    """Scores ``(B,)`` of finished rollouts.

    A reward model on the policy's own backbone reads the very tokens that were sampled. Any other reads the text,
    with its own tokenizer.

    Args:
        reward: who judges.
        backbone: the policy's.
        prompts, texts, batch: the rollouts, as text and as tokens.
        microbatch: responses per forward pass.
        normalize: a reward model's scores in units of its calibration, not raw.

    Raises:
        ValueError: a reward function that does not return one finite number per response.
    """
    if isinstance(reward, RewardModel) and reward.backbone is backbone:
        scores = reward.score_batch(batch, microbatch)
    else:
        function = reward.scores if isinstance(reward, RewardModel) else reward
        scores = ask(function, prompts, texts).to(backbone.device, backbone.head_dtype)
    if isinstance(reward, RewardModel) and not normalize:
        scores = scores * reward.std + reward.mean
    return scores


def ask(function: RewardFunction, prompts: list[str], texts: list[str]) -> Tensor:
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
