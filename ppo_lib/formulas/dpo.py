"""Direct preference optimization: the policy learned from comparisons, with no reward model and no sampling.

The policy that maximizes ``E[r] - beta * KL(pi || pi_ref)`` is ``pi* = pi_ref * exp(r / beta) / Z``. Solved for the
reward, ``r = beta * log(pi* / pi_ref) + beta * log Z``, and ``Z`` depends on the prompt only. Two responses to one
prompt therefore differ in reward by ``beta`` times the difference of their log-ratios: put that into the
Bradley-Terry likelihood, and the reward model has become the policy itself.

Source: Rafailov et al. (2023), sections 4 and 5.
"""

from typing import NamedTuple

from torch import Tensor

from ppo_lib.formulas.losses import bradley_terry_loss
from ppo_lib.formulas.masking import check_mask, fill_padding


class DPOLoss(NamedTuple):
    """What :func:`dpo_loss` returns.

    Attributes:
        loss: scalar in nats per pair; ``log 2`` while the policy is the reference.
        chosen: ``(N,)`` implicit rewards of the preferred responses; no gradient.
        rejected: ``(N,)`` those of the others; no gradient.
    """

    loss: Tensor
    chosen: Tensor
    rejected: Tensor


def implicit_rewards(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, beta: float) -> Tensor:
    """The reward that a policy stands for, up to a constant per prompt: ``beta * sum_t(log pi - log pi_ref)``.

    Args:
        logprobs: ``(B, T)``, ``log pi_theta`` of the responses' tokens.
        ref_logprobs: ``(B, T)``, the same tokens under the reference; carry no gradient.
        mask: ``(B, T)``, 1 where the token counts.
        beta: strength of the rubber band, in units of the reward per nat.

    Returns:
        ``(B,)`` in units of the reward: a sum over tokens, not a mean, since it is the log-ratio of the response.

    Raises:
        ValueError: wrong shape, empty mask, non-finite counted value, or ``beta`` not above 0.
    """
    if not beta > 0:
        raise ValueError(f"beta is {beta}, but must be above 0: at 0 the optimum puts everything on one response")
    keep = check_mask(mask)
    logprobs = fill_padding("logprobs", logprobs, keep)
    ref_logprobs = fill_padding("ref_logprobs", ref_logprobs, keep).detach()
    return beta * (logprobs - ref_logprobs).sum(dim=1)


def dpo_loss(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, beta: float) -> DPOLoss:
    """Bradley-Terry on implicit rewards: ``-mean log sigma(beta * (log-ratio chosen - log-ratio rejected))``.

    Args:
        logprobs, ref_logprobs, mask: ``(2N, T)``: the N chosen responses, then the N rejected ones in the same order.
        beta: strength of the rubber band, in units of the reward per nat.

    Raises:
        ValueError: as :func:`implicit_rewards`, or an odd number of rows.

    Source: Rafailov et al. (2023), equation 7.
    """
    rewards = implicit_rewards(logprobs, ref_logprobs, mask, beta)
    if len(rewards) % 2:
        raise ValueError(f"there are {len(rewards)} rows, but must be 2N: N chosen responses, then N rejected ones")
    chosen, rejected = rewards.chunk(2)
    return DPOLoss(bradley_terry_loss(chosen, rejected), chosen.detach(), rejected.detach())
