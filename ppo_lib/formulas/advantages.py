"""From rewards to advantages: TD errors, returns, and generalized advantage estimation (GAE).

``values[:, t]`` is the critic's forecast *before* token t. After the last counted token there is nothing left to
earn, so the value there is 0, also for a response that was cut off by the token budget. That is a choice, not a
fact: a truncated response might have earned more. All open trainers for language models make the same one.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ppo_lib.formulas.masking import check_numbers, check_right_padded, fill_padding


class Advantages(NamedTuple):
    """What :func:`gae` returns, both ``(B, T)``, in units of reward, zero in the padding, not whitened.

    Attributes:
        advantages: ``A_t``.
        returns: value targets ``A_t + V(s_t)``.
    """

    advantages: Tensor
    returns: Tensor


def _check_unit(name: str, value: float) -> None:
    check_numbers(**{name: value})
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}, but must lie in [0, 1]")


def discounted_returns(rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """Reward to go, ``G_t = r_t + gamma * G_{t+1}``.

    Args:
        rewards: ``(B, T)``, reward of each token.
        mask: ``(B, T)``, 1 where the token counts, right-padded.
        gamma: discount per token, in [0, 1].

    Returns:
        ``(B, T)``, zero in the padding.

    Raises:
        ValueError: wrong shape, empty mask, holes in the mask, non-finite counted value, ``gamma`` out of range.
    """
    _check_unit("gamma", gamma)
    return _discounted_sum(fill_padding("rewards", rewards, check_right_padded(mask)), gamma)


def td_errors(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """One-step surprise, ``delta_t = r_t + gamma * V(s_{t+1}) - V(s_t)``.

    Args:
        rewards: ``(B, T)``, augmented reward of each token.
        values: ``(B, T)``, the critic's forecast before each token.
        mask: ``(B, T)``, 1 where the token counts, right-padded.
        gamma: discount per token, in [0, 1].

    Returns:
        ``(B, T)``, zero in the padding.

    Raises:
        ValueError: wrong shape, empty mask, holes in the mask, non-finite counted value, ``gamma`` out of range.
    """
    _check_unit("gamma", gamma)
    keep = check_right_padded(mask)
    rewards, values = fill_padding("rewards", rewards, keep), fill_padding("values", values, keep)
    next_values = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    return rewards + gamma * next_values - values


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Advantages:
    """Generalized advantage estimation, ``A_t = delta_t + gamma * lambda * A_{t+1}``.

    ``lam = 0`` is the TD error (low variance, biased by the critic's mistakes); ``lam = 1`` is the discounted return
    minus the value (unbiased, high variance).

    Args:
        rewards: ``(B, T)``, augmented reward of each token.
        values: ``(B, T)``, the critic's forecast before each token, as stored at rollout.
        mask: ``(B, T)``, 1 where the token counts, right-padded.
        gamma: discount per token, in [0, 1].
        lam: mixing of long and short horizons, in [0, 1].

    Returns:
        :class:`Advantages`.

    Raises:
        ValueError: wrong shape, empty mask, holes in the mask, non-finite counted value, ``gamma`` or ``lam`` out of
            range.

    Source: Schulman et al. (2016), equation 16.
    """
    _check_unit("lam", lam)
    deltas = td_errors(rewards, values, mask, gamma)
    advantages = _discounted_sum(deltas, gamma * lam)
    return Advantages(advantages, advantages + fill_padding("values", values, mask.bool()))


def _discounted_sum(x: Tensor, discount: float) -> Tensor:
    """``S_t = x_t + discount * S_{t+1}``, computed backwards. ``x`` is zero in the padding, so ``S`` is too."""
    running = torch.zeros_like(x[:, 0])
    sums = []
    for t in reversed(range(x.shape[1])):
        running = x[:, t] + discount * running
        sums.append(running)
    return torch.stack(sums[::-1], dim=1)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """``1 - Var(returns - values) / Var(returns)`` over counted tokens: 1 a perfect critic, 0 a constant one."""
    keep = mask.bool()
    total = returns[keep].var(correction=0)
    return float(1 - (returns - values)[keep].var(correction=0) / total) if float(total) > 0 else float("nan")
