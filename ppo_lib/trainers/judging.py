"""Who judges a response: a reward model, or any function of texts. One finite number per response, or a refusal."""

import reprlib
from collections.abc import Callable, Iterator, Mapping, Set
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ppo_lib.errors import BadInput
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

    A reward model on the policy's own backbone, and of its form of prompts, reads the very tokens that were sampled.
    Any other reads the text, with its own tokenizer and in its own form.

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
    if isinstance(reward, RewardModel) and reward.backbone is backbone and reward.reads_as_sampled:
        own = reward.score_batch(
            batch.select(world.share(torch.arange(len(batch), device=backbone.device))), microbatch
        )
        scores = own.new_tensor(world.gather(own.tolist()))
    else:
        scores = ask(reward, prompts, texts, world, finished).to(backbone.device, backbone.head_dtype)
    if isinstance(reward, RewardModel) and not normalize:
        scores = scores * reward.std + reward.mean
    return scores


def watch(
    monitors: Mapping[str, RewardModel | RewardFunction],
    backbone: Backbone,
    prompts: list[str],
    texts: list[str],
    batch: TokenBatch,
    finished: Tensor,
    microbatch: int = 64,
    world: World = ALONE,
) -> dict[str, Tensor]:
    """Scores ``(B,)`` of judges that are measured and never trained on, by name: ``heldout``, ``gold``.

    Args:
        monitors: those judges; a reward model reads what :func:`judge` gives it, truncated responses without an EOS.
        backbone, prompts, texts, batch, finished, microbatch, world: as :func:`judge` takes them.

    Raises:
        ValueError: as :func:`judge`.
    """
    seen = {}
    for name, monitor in monitors.items():
        if isinstance(monitor, RewardModel):
            how = microbatch, True, world, finished
            seen[name] = judge(monitor, backbone, prompts, texts, batch, *how)
        else:
            seen[name] = ask(monitor, prompts, texts, world)
    return seen


def ask(
    function: RewardModel | RewardFunction,
    prompts: list[str],
    texts: list[str],
    world: World = ALONE,
    finished: Tensor | None = None,
) -> Tensor:
    """Scores ``(B,)`` in float64 of a judge that reads texts; each process asks about its share.

    Args:
        function: a plain one; or a reward model, which is told what is truncated.
        prompts, texts: what to judge.
        world: who shares the work.
        finished: ``(B,)`` boolean, which responses came to their end; all, if not given.

    Raises:
        ValueError: it does not return one finite number per response. What the function itself raises is left as it
            is, so that its traceback names its own file and line.
    """
    own = world.share(texts)
    if isinstance(function, RewardModel):
        ended = None if finished is None else world.share(finished.tolist())
        function = partial(function.scores, finished=ended, cut=True)
    try:
        given: Any = function(list(world.share(prompts)), list(own))  # its own lists: it may do with them what it likes
    except SystemExit as error:  # or the run would end here without a word, and without an error to whoever called it
        raise RuntimeError(f"the reward function {name_of(function)} called sys.exit({error.code!r})") from error
    if isinstance(given, Iterator):
        given = list(given)  # a generator runs here, outside of the `try` below: its errors are its own
    try:
        if isinstance(given, (str, bytes, Mapping, Set)):
            raise TypeError("no list of numbers")
        answer = [float(x) for x in given]
    except (TypeError, ValueError) as error:
        what = f"{reprlib.repr(given)} of type {type(given).__name__}"
        raise BadInput(
            f"the reward function {name_of(function)} returned {what}; return a list of one number per response"
        ) from error
    if len(answer) != len(own):
        raise BadInput(f"the reward function returned {len(answer)} scores for {len(own)} responses")
    scores = torch.tensor(world.gather(answer), dtype=torch.float64)
    if not bool(torch.isfinite(scores).all()):
        row = int((~torch.isfinite(scores)).nonzero()[0])
        raise BadInput(f"the reward of response {row} ({texts[row][:40]!r}) is {float(scores[row])}; it must be finite")
    return scores


def name_of(function: Any) -> str:
    """``module:function``, as a configuration names it."""
    return f"{getattr(function, '__module__', '?')}:{getattr(function, '__qualname__', type(function).__name__)}"
