"""Group relative policy optimization: PPO with the mean of a group in the critic's place.

Each prompt is answered ``group_size`` times, and a response's advantage, the same for all its tokens, is its score
less the mean score of its group. Rollout, judge, ratio and clip are PPO's; there is no value head to train and no GAE.
Two choices of the original have side effects that later work removed, and both are knobs here: ``scale`` (divide by the
group's standard deviation?) and ``average`` (what does a response's loss divide by?). :mod:`ppo_lib.trainers.grpo` has
the loop.

Sources: Shao et al. (2024), section 4.1; Liu et al. (2025), "Understanding R1-Zero-like training", for the two biases.
"""

import torch
from torch import Tensor

from ppo_lib.formulas.kl import kl_estimate
from ppo_lib.formulas.losses import PolicyLoss, clipped_policy_loss
from ppo_lib.formulas.masking import check_mask, fill_padding, is_trusted, shape_of

SCALES = ("group", "none")
AVERAGES = ("response", "token", "budget")


def group_advantages(scores: Tensor, group_size: int, scale: str = "group") -> Tensor:
    """``A_i = r_i - mean(r)``, with ``scale="group"`` divided by ``std(r) + 1e-4``; mean and std of its own group.

    Args:
        scores: ``(B,)``; each prompt's ``group_size`` responses lie next to each other.
        group_size: responses per prompt, 2 or more.
        scale: ``"group"`` as in the original (unbiased std), or ``"none"``.

    Returns:
        ``(B,)``; 0 throughout a group whose scores are all equal: it teaches nothing.

    Raises:
        ValueError: scores that are no whole number of groups or not finite, a group of one, or an unknown scale.
    """
    if group_size < 2:
        raise ValueError(f"group_size is {group_size}, but must be 2 or more: one response has nothing to compare with")
    if scores.dim() != 1 or len(scores) == 0 or len(scores) % group_size:
        raise ValueError(f"scores has shape {shape_of(scores)}, but must be (B,), B a multiple of {group_size}")
    if scale not in SCALES:
        raise ValueError(f"scale is {scale!r}, but must be one of {', '.join(SCALES)}")
    if not bool(torch.isfinite(scores).all()):
        raise ValueError("scores is NaN or infinite; find which response the reward model stumbled over")
    groups = scores.view(-1, group_size)
    advantages = groups - groups.mean(dim=1, keepdim=True)
    if scale == "group":
        advantages = advantages / (groups.std(dim=1, keepdim=True) + 1e-4)
    # Equal scores whose mean rounds differ from it by rounding noise, which must not be scaled up.
    equal = (groups == groups[:, :1]).all(dim=1, keepdim=True)
    return torch.where(equal, 0.0, advantages).flatten()


def token_weights(mask: Tensor, average: str = "response", budget: int | None = None) -> Tensor:
    """What each token's loss counts in the sum over a batch of ``B`` responses.

    ==========  ==================  ====================================================================
    average     weight of a token   consequence
    ==========  ==================  ====================================================================
    response    ``1 / (B * |y|)``   the original; a token of a long response counts less (length bias)
    token       ``1 / sum |y|``     PPO's token mean; long responses count more than short ones
    budget      ``1 / (B * M)``     a constant, so the gradient of the expected score, times a constant
    ==========  ==================  ====================================================================

    Args:
        mask: ``(B, T)``, 1 where the token counts.
        average: one of the three.
        budget: ``M``, the longest response allowed, in tokens; needed with ``"budget"``.

    Returns:
        ``(B, T)``, zero in the padding.

    Raises:
        ValueError: an empty mask, a response without tokens, an unknown average, or ``"budget"`` without one.
    """
    keep = check_mask(mask)
    lengths = keep.sum(dim=1, keepdim=True)
    if average == "response":
        if int(lengths.min()) == 0:
            row = int((lengths == 0).nonzero()[0, 0])
            raise ValueError(f"mask row {row} counts no token; an empty response still has its EOS")
        divisor = len(mask) * lengths
    elif average == "token":
        divisor = lengths.sum().expand_as(lengths)
    elif average == "budget":
        if budget is None or budget < 1:
            raise ValueError(f"budget is {budget}, but must be the longest response allowed, in tokens, 1 or more")
        divisor = torch.full_like(lengths, len(mask) * budget)
    else:
        raise ValueError(f"average is {average!r}, but must be one of {', '.join(AVERAGES)}")
    return keep / divisor


def grpo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    ref_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    weights: Tensor,
    epsilon: float = 0.2,
    beta: float = 0.0,
    kl_estimator: str = "k3",
) -> PolicyLoss:
    """``sum_it w_it (-min(rho_it A_i, clip(rho_it) A_i) + beta * kl_it)``.

    A sum with weights, so that the losses of microbatches add up to that of their minibatch.

    Args:
        logprobs: ``(B, T)``, ``log pi_theta`` of the sampled tokens, with gradient.
        old_logprobs: ``(B, T)``, the same tokens under the policy that sampled them.
        ref_logprobs: ``(B, T)``, the same tokens under the reference.
        advantages: ``(B,)``, from :func:`group_advantages`; every token of a response gets the same one.
        mask: ``(B, T)``, 1 where the token counts.
        weights: ``(B, T)``, from :func:`token_weights`, 0 or more.
        epsilon: half-width of the interval in which the ratio may earn.
        beta: strength of the KL term in the loss; 0 leaves it out.
        kl_estimator: ``"k3"`` as in the original, or ``"k2"``, whose gradient is that of KL(pi || pi_ref) per token.

    Returns:
        :class:`ppo_lib.formulas.losses.PolicyLoss`; ``loss`` holds the KL term too.

    Raises:
        ValueError: wrong shapes, empty mask, non-finite counted values, a negative weight, ``epsilon`` or ``beta``.

    Source: Shao et al. (2024), equation 3.
    """
    if not beta >= 0:
        raise ValueError(f"beta is {beta}, but must be 0 or more: a negative one rewards drift")
    if advantages.shape != (len(mask),):
        raise ValueError(f"advantages has shape {shape_of(advantages)}, but must be (B,) = ({len(mask)},)")
    keep = check_mask(mask)
    weights = fill_padding("weights", weights, keep).detach()
    if not is_trusted() and bool((weights < 0).any()):
        raise ValueError("weights holds a negative number, which would turn a token's objective round")
    # min(rho A, clip(rho) A) is homogeneous in A: a weight of the loss may stand before the advantage.
    weighted = advantages.unsqueeze(1) * weights
    out = clipped_policy_loss(logprobs, old_logprobs, weighted, mask, epsilon)
    loss = out.loss * keep.sum()  # a mean over counted tokens becomes their sum
    if beta > 0:
        kl = fill_padding("kl", kl_estimate(logprobs, ref_logprobs.detach(), kl_estimator), keep)
        loss = loss + beta * (weights * kl).sum()
    return out._replace(loss=loss)
