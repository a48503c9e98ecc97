"""The losses of the book, one function each.

Objectives are maximized and written J, losses are minimized and written L; this file holds only losses. All means
are over counted tokens of the batch (:func:`ppo_lib.formulas.masking.masked_mean`).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ppo_lib.formulas.masking import (
    check_mask,
    check_numbers,
    check_tensors,
    fill_padding,
    is_trusted,
    masked_mean,
    shape_of,
)

# exp(20) is 4.9e8: a ratio beyond it says only "far away", and exp overflows float32 from 88.8 on, where the unused
# branch of a minimum would turn the gradient into NaN (0 * inf). OpenRLHF and veRL clamp at the same place.
MAX_LOG_RATIO = 20.0


class PolicyLoss(NamedTuple):
    """What :func:`clipped_policy_loss` returns.

    Attributes:
        loss: scalar, ``-E[min(rho A, clip(rho) A)]``.
        ratio: ``(B, T)``, ``rho = pi_theta / pi_old``, 1 in the padding; carries no gradient.
        clip_fraction: scalar, share of counted tokens whose gradient the clip, or ``dual_clip``, has cut off.
        approx_kl: scalar in nats per token, ``E[(rho - 1) - log rho]``, an estimate of KL(pi_old || pi_theta).
    """

    loss: Tensor
    ratio: Tensor
    clip_fraction: Tensor
    approx_kl: Tensor


def sft_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Next-token cross-entropy on the response: ``-mean log pi(y_t | x, y_<t)``.

    Args:
        logits: ``(B, S, V)``, the model's output for the whole sequence, prompt and response.
        labels: ``(B, S)`` integers: the sequence's token ids, and -100 everywhere outside the response.
            ``labels[:, t]`` is scored by ``logits[:, t - 1]``: the shift happens in here.

    Returns:
        A scalar in nats per counted token.

    Raises:
        ValueError: shapes that do not fit, no label that counts, one that is no token, or logits that are NaN.
    """
    check_tensors(logits=logits)
    if not isinstance(labels, Tensor) or labels.is_floating_point():
        raise ValueError("labels must be a tensor of integers: token ids, and -100 where none counts")
    if logits.dim() != 3 or labels.shape != logits.shape[:2]:
        raise ValueError(
            f"labels has shape {shape_of(labels)} and logits {shape_of(logits)}, but must be (B, S) and (B, S, V)"
        )
    targets = labels[:, 1:]
    counted = targets != -100
    if not bool(counted.any()):
        raise ValueError("labels are all -100 after the first position: there is no response token to learn from")
    # Picked out, not ignored: with ignore_index a NaN in the padding would still reach the gradient.
    scored, wanted = logits[:, :-1][counted], targets[counted]
    if not is_trusted():
        if int(wanted.min()) < 0 or int(wanted.max()) >= logits.shape[-1]:
            raise ValueError(f"labels hold ids outside of [0, {logits.shape[-1]}), other than -100")
        if bool(scored.isnan().any()):
            raise ValueError("logits are NaN where a token counts; find where it comes from first")
    return F.cross_entropy(scored, wanted)


def bradley_terry_loss(chosen: Tensor, rejected: Tensor, margin: Tensor | None = None) -> Tensor:
    """Negative log-likelihood of the labelers' choices: ``-mean log sigma(r_chosen - r_rejected - margin)``.

    ``logsigmoid`` instead of ``log(sigmoid(...))``: the latter is -inf at a difference of -1000 in float32.

    Args:
        chosen: ``(N,)`` scores of the preferred responses.
        rejected: ``(N,)`` scores of the others, pair by pair.
        margin: ``(N,)`` by how much the first should win, or ``None`` for none.

    Returns:
        A scalar in nats per pair; ``log 2`` when the scores say nothing.

    Raises:
        ValueError: shapes that differ, no pair at all, or non-finite scores.

    Source: Bradley and Terry (1952); Ouyang et al. (2022), section 3.5.
    """
    check_tensors(chosen=chosen, rejected=rejected, **({} if margin is None else {"margin": margin}))
    if chosen.dim() != 1 or chosen.shape != rejected.shape or len(chosen) == 0:
        raise ValueError(
            f"chosen has shape {shape_of(chosen)} and rejected {shape_of(rejected)}, but both must be (N,), N > 0"
        )
    difference = chosen - rejected
    if margin is not None:
        if margin.shape != chosen.shape:
            raise ValueError(f"margin has shape {shape_of(margin)}, but must be {shape_of(chosen)} like chosen")
        difference = difference - margin
    if not bool(torch.isfinite(difference).all()):
        raise ValueError("chosen, rejected or margin is NaN or infinite; find where it comes from first")
    return -F.logsigmoid(difference).mean()


def policy_gradient_loss(logprobs: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """REINFORCE: ``-mean(log pi(a_t | s_t) * A_t)``, with the advantage held constant.

    Args:
        logprobs: ``(B, T)``, ``log pi_theta`` of the sampled tokens, with gradient.
        advantages: ``(B, T)``; no gradient flows through them.
        mask: ``(B, T)``, 1 where the token counts.

    Returns:
        A scalar. Its value means little (its gradient does the work): it may rise while the policy improves.

    Raises:
        ValueError: wrong shape, empty mask, or a non-finite counted value.

    Source: Williams (1992).
    """
    keep = check_mask(mask)
    logprobs = fill_padding("logprobs", logprobs, keep)
    advantages = fill_padding("advantages", advantages, keep).detach()
    return -masked_mean(logprobs * advantages, mask)


def clipped_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    epsilon: float = 0.2,
    dual_clip: float | None = None,
) -> PolicyLoss:
    """PPO's policy loss: ``-mean min(rho A, clip(rho, 1 - epsilon, 1 + epsilon) A)``.

    Args:
        logprobs: ``(B, T)``, ``log pi_theta`` of the sampled tokens, with gradient.
        old_logprobs: ``(B, T)``, the same tokens under the policy that sampled them, stored at rollout.
        advantages: ``(B, T)``; no gradient flows through them.
        mask: ``(B, T)``, 1 where the token counts.
        epsilon: half-width of the interval in which the ratio may earn; ``inf`` switches the clip off.
        dual_clip: for ``A < 0`` the objective is kept above ``dual_clip * A`` (> 1; Ye et al. 2020 use 3), so that
            one bad token whose probability rose cannot dominate a batch. ``None`` leaves it out, as PPO did.

    Returns:
        :class:`PolicyLoss`.

    Raises:
        ValueError: wrong shape, empty mask, non-finite counted value, ``epsilon < 0`` or ``dual_clip <= 1``.

    Source: Schulman et al. (2017), equation 7.
    """
    check_numbers(epsilon=epsilon, **({} if dual_clip is None else {"dual_clip": dual_clip}))
    if not epsilon >= 0:
        raise ValueError(f"epsilon is {epsilon}, but must be 0 or more (0.2 is usual)")
    if dual_clip is not None and not dual_clip > 1:
        raise ValueError(f"dual_clip is {dual_clip}, but must be more than 1 (3 is usual), or None")
    keep = check_mask(mask)
    logprobs = fill_padding("logprobs", logprobs, keep)
    old_logprobs = fill_padding("old_logprobs", old_logprobs, keep).detach()
    advantages = fill_padding("advantages", advantages, keep).detach()

    log_ratio = (logprobs - old_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio = log_ratio.exp()
    unclipped = ratio * advantages
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon) * advantages
    objective = torch.minimum(unclipped, clipped)
    cut = clipped < unclipped
    if dual_clip is not None:
        floor = torch.where(advantages < 0, dual_clip * advantages, -torch.inf)
        cut = cut | (floor > objective)
        objective = torch.maximum(objective, floor)

    with torch.no_grad():
        clip_fraction = masked_mean(cut.to(ratio.dtype), mask)
        approx_kl = masked_mean((ratio - 1) - log_ratio, mask)
    return PolicyLoss(-masked_mean(objective, mask), ratio.detach(), clip_fraction, approx_kl)


def value_loss(
    values: Tensor,
    returns: Tensor,
    mask: Tensor,
    old_values: Tensor | None = None,
    clip: float | None = None,
) -> Tensor:
    """The critic's squared error ``mean (V - R)^2``, without a factor of one half.

    With ``clip`` the prediction may move from its rollout value by at most ``clip``, and the worse of the two errors
    counts: ``max((V - R)^2, (clip(V, V_old - clip, V_old + clip) - R)^2)``.

    Args:
        values: ``(B, T)``, ``V_psi(s_t)`` before each token, with gradient.
        returns: ``(B, T)``, targets ``A_t + V_old(s_t)``; no gradient flows through them.
        mask: ``(B, T)``, 1 where the token counts.
        old_values: ``(B, T)``, values at rollout; needed with ``clip``.
        clip: in units of reward, or ``None`` for no clipping.

    Returns:
        A scalar in squared units of reward.

    Raises:
        ValueError: wrong shape, empty mask, non-finite counted value, ``clip`` without ``old_values``, ``clip < 0``.

    Source: Schulman et al. (2017), equation 9, for the error; its clip is in no paper but in the code of OpenAI
    Baselines' ``ppo2``, which trainers of language models took over.
    """
    keep = check_mask(mask)
    values = fill_padding("values", values, keep)
    returns = fill_padding("returns", returns, keep).detach()
    error = (values - returns).square()
    if clip is not None:
        check_numbers(clip=clip)
        if not clip >= 0:
            raise ValueError(f"clip is {clip}, but must be 0 or more, or None for no value clipping")
        if old_values is None:
            raise ValueError("clip is set but old_values is None; pass the values stored at rollout")
        old_values = fill_padding("old_values", old_values, keep).detach()
        near = old_values + (values - old_values).clamp(-clip, clip)
        error = torch.maximum(error, (near - returns).square())
    return masked_mean(error, mask)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the whole next-token distribution, ``-sum_v p_v log p_v``.

    Args:
        logits: ``(B, T, V)``; -inf marks a token that cannot be sampled.

    Returns:
        ``(B, T)`` in nats, between 0 and ``log V``; NaN, with gradient zero, where the logits are no distribution,
        which is fine in the padding.

    Raises:
        ValueError: not three-dimensional.

    Source: Shannon (1948) for the quantity; Mnih et al. (2016), section 4, for a bonus of it in a policy's loss.
    """
    check_tensors(logits=logits)
    if logits.dim() != 3:
        raise ValueError(f"logits has shape {shape_of(logits)}, but must be (B, T, V)")
    sound = torch.isfinite(logits.detach().logsumexp(dim=-1))
    logp = torch.log_softmax(torch.where(sound.unsqueeze(-1), logits, 0.0), dim=-1)
    p = logp.exp()
    total = -(p * logp.masked_fill(p == 0, 0.0)).sum(dim=-1)  # 0 log 0 = 0, also in the gradient
    return torch.where(sound, total, torch.nan)


def ppo_loss(
    policy_loss: Tensor, value_loss: Tensor, entropy: Tensor, value_coef: float, entropy_coef: float
) -> Tensor:
    """The total: ``L = L_policy + c1 * L_value - c2 * S``.

    The value error is to be made small, so it is added; entropy is to be kept large, so it is subtracted.

    Args:
        policy_loss: scalar from :func:`clipped_policy_loss`.
        value_loss: scalar from :func:`value_loss`.
        entropy: scalar, mean entropy over counted tokens, in nats.
        value_coef: ``c1``, 0 or more.
        entropy_coef: ``c2``, 0 or more.

    Raises:
        ValueError: a negative coefficient, which would train the critic away from its target or destroy entropy.

    Source: Schulman et al. (2017), equation 9, where it is an objective, with the signs turned round.
    """
    check_numbers(value_coef=value_coef, entropy_coef=entropy_coef)
    if not (value_coef >= 0 and entropy_coef >= 0):
        raise ValueError(
            f"value_coef is {value_coef} and entropy_coef is {entropy_coef}, but both must be 0 or more: "
            "the signs are in the formula"
        )
    return policy_loss + value_coef * value_loss - entropy_coef * entropy
