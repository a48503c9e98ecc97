"""Who judges a response: a reward model, or any function of texts. One finite number per response, or a refusal."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ppo_lib.models.backbone import Backbone
from ppo_lib.models.reward_model import RewardModel
from ppo_lib.models.tokens import TokenBatch
from ppo_lib.models.world import ALONE, World

RewardFunction = Callable[[list[str], list[str]], list[float]]  # (prompts, responses) -> one score each


def judge(
    reward: RewardModel | RewardFunction,
    backbone: Backbone,
    prompts: list[str],
    texts: list[str],
    batch: TokenBatch,
    microbatch: int = 64,
    normalize: bool = True,
    world: World = ALONE,
    finished: Tensor | None = None,
) -> Tensor:
    """Scores ``(B,)`` of rollouts.

    A reward model on the policy's own backbone reads the very tokens that were sampled. Any other reads the text,
    with its own tokenizer.

    Args:
        reward: who judges.
        backbone: the policy's.
        prompts, texts, batch: the rollouts, as text and as tokens.
        microbatch: responses per forward pass.
        normalize: a reward model's scores in units of its calibration, not raw.
        world: each judges its share.
        finished: ``(B,)`` boolean, which responses came to their end; all, if not given. One that was cut off has no
            EOS among its tokens, and gets none in the text either.

    Raises:
        ValueError: a reward function that does not return one finite number per response.
    """
    if isinstance(reward, RewardModel) and reward.backbone is backbone:
        own = reward.score_batch(
            batch.select(world.share(torch.arange(len(batch), device=backbone.device))), microbatch
        )
        scores = own.new_tensor(world.gather(own.tolist()))
    else:
        function = reward
        if isinstance(reward, RewardModel):
            function = partial(reward.scores, finished=None if finished is None else world.share(finished.tolist()))
        scores = ask(function, prompts, texts, world).to(backbone.device, backbone.head_dtype)
    if isinstance(reward, RewardModel) and not normalize:
        scores = scores * reward.std + reward.mean
    return scores


def ask(function: RewardFunction, prompts: list[str], texts: list[str], world: World = ALONE) -> Tensor:
    """Scores ``(B,)`` in float64 of a plain function of texts; each process asks about its share.

    Raises:
        ValueError: it does not return one finite number per response.
    """
    own = world.share(texts)
    answer = [float(x) for x in function(world.share(prompts), own)]
    if len(answer) != len(own):
        raise ValueError(f"the reward function returned {len(answer)} scores for {len(own)} responses")
    scores = torch.tensor(world.gather(answer), dtype=torch.float64)
    if not bool(torch.isfinite(scores).all()):
        row = int((~torch.isfinite(scores)).nonzero()[0])
        raise ValueError(
            f"the reward of response {row} ({texts[row][:40]!r}) is {float(scores[row])}; it must be finite"
        )
    return scores
