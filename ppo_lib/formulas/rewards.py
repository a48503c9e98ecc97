"""The augmented reward: the reward model's score on the last token, and what drifting costs on every token."""

import torch
from torch import Tensor

from ppo_lib.formulas.masking import check_numbers, check_right_padded, check_tensors, fill_padding, shape_of


def last_token_index(mask: Tensor) -> Tensor:
    """Position of each response's last counted token: its EOS, or where a truncated one was cut.

    Args:
        mask: ``(B, T)``, right-padded.

    Returns:
        ``(B,)`` integers.

    Raises:
        ValueError: a response without a single counted token, which has no place for a score.
    """
    lengths = check_right_padded(mask).sum(dim=1)
    if bool((lengths == 0).any()):
        row = int((lengths == 0).nonzero()[0])
        raise ValueError(f"mask row {row} counts no token; an empty response still has its EOS")
    return lengths - 1


def augmented_rewards(scores: Tensor, kl: Tensor, mask: Tensor, beta: float) -> Tensor:
    """``r_t = -beta * kl_t + [t is last] * score``.

    Args:
        scores: ``(B,)``, reward model's scalar for each whole response.
        kl: ``(B, T)``, per-token estimate in nats (:func:`ppo_lib.formulas.kl.kl_estimate`); carries no gradient.
        mask: ``(B, T)``, 1 where the token counts.
        beta: strength of the rubber band, reward per nat.

    Returns:
        ``(B, T)``, zero in the padding.

    Raises:
        ValueError: wrong shape, a response without tokens, non-finite counted value, or ``beta < 0``.

    Source: Ziegler et al. (2019), equation 2; Ouyang et al. (2022), equation 2.
    """
    check_numbers(beta=beta)
    check_tensors(scores=scores)
    if not beta >= 0:
        raise ValueError(f"beta is {beta}, but must be 0 or more: a negative one rewards drift")
    last = last_token_index(mask)
    if scores.shape != (len(mask),):
        raise ValueError(f"scores has shape {shape_of(scores)}, but must be (B,) = ({len(mask)},)")
    if not bool(torch.isfinite(scores).all()):
        raise ValueError("scores is NaN or infinite; find which response the reward model stumbled over")
    penalty = -beta * fill_padding("kl", kl, mask.bool()).detach()
    return penalty.scatter_add(1, last.unsqueeze(1), scores.to(penalty.dtype).unsqueeze(1))
