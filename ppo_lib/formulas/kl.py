"""How far the policy has moved from the reference: KL(pi_theta || pi_ref), in nats.

The estimators k1, k2, k3 are Schulman's (http://joschu.net/blog/kl-approx.html). They need only the log-probs of the
tokens that were sampled *from pi_theta*; :func:`kl_exact` needs both distributions over the vocabulary.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ppo_lib.formulas.masking import check_numbers, check_tensors, shape_of

_FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {
    "k1": lambda d: d,
    "k2": lambda d: d.square() / 2,
    "k3": lambda d: torch.expm1(-d) + d,
}


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, kind: str = "k1") -> Tensor:
    """Per-token estimate of KL(pi_theta || pi_ref), with ``d = logprobs - ref_logprobs``.

    =====  ==================  =========  =================================
    kind   formula             unbiased   sign
    =====  ==================  =========  =================================
    k1     ``d``               yes        either (its mean is not negative)
    k2     ``d^2 / 2``         no         never negative
    k3     ``e^-d - 1 + d``    yes        never negative
    =====  ==================  =========  =================================

    A right value is not a right pull. At one position, on average over the policy's tokens, with ``p`` the policy and
    ``ref`` the reference:

    =====  =====================================  ==========================
    kind   as a charge in the reward              as a term of the loss
           ``E[kind grad log p]``                 ``E[grad kind]``
    =====  =====================================  ==========================
    k1     ``grad KL(p||ref)``                    0
    k2     neither                                ``grad KL(p||ref)``
    k3     ``grad KL(p||ref) - grad KL(ref||p)``  ``grad KL(ref||p)``
    exact  0: it is the same for every token      ``grad KL(p||ref)``
    =====  =====================================  ==========================

    Args:
        logprobs: ``(B, T)``, log-probs of the sampled tokens under the policy.
        ref_logprobs: ``(B, T)``, the same tokens under the reference.
        kind: ``"k1"``, ``"k2"`` or ``"k3"``.

    Returns:
        ``(B, T)`` in nats; NaN and infinity pass through, with gradient zero, which is fine in the padding.

    Raises:
        ValueError: shapes that differ, or an unknown kind.
    """
    check_tensors(logprobs=logprobs, ref_logprobs=ref_logprobs)
    if logprobs.shape != ref_logprobs.shape or logprobs.dim() != 2:
        raise ValueError(
            f"logprobs has shape {shape_of(logprobs)} and ref_logprobs {shape_of(ref_logprobs)}, "
            "but both must be (B, T)"
        )
    if kind not in _FORMULAS:
        raise ValueError(f"kind is {kind!r}, but must be 'k1', 'k2' or 'k3'")
    formula, d = _FORMULAS[kind], logprobs - ref_logprobs
    value = formula(d.detach())
    finite = torch.isfinite(value)
    return torch.where(finite, formula(torch.where(finite, d, 0.0)), value)


def kl_exact(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """KL(pi_theta || pi_ref) at each position, summed over the whole vocabulary.

    Args:
        logits: ``(B, T, V)`` of the policy.
        ref_logits: ``(B, T, V)`` of the reference.

    Returns:
        ``(B, T)`` in nats, never negative (up to rounding); infinite where the policy puts weight on a token that the
        reference forbids, NaN where the logits are no distribution. Neither has a gradient.

    Raises:
        ValueError: shapes that differ or are not ``(B, T, V)``.
    """
    check_tensors(logits=logits, ref_logits=ref_logits)
    if logits.shape != ref_logits.shape or logits.dim() != 3:
        raise ValueError(
            f"logits has shape {shape_of(logits)} and ref_logits {shape_of(ref_logits)}, but both must be (B, T, V)"
        )
    value = _kl_exact(logits.detach(), ref_logits.detach())
    finite = torch.isfinite(value)
    rows = finite.unsqueeze(-1)
    return torch.where(finite, _kl_exact(torch.where(rows, logits, 0.0), torch.where(rows, ref_logits, 0.0)), value)


def _kl_exact(logits: Tensor, ref_logits: Tensor) -> Tensor:
    logp, logq = torch.log_softmax(logits, dim=-1), torch.log_softmax(ref_logits, dim=-1)
    p = logp.exp()
    return (p * (logp - logq).masked_fill(p == 0, 0.0)).sum(dim=-1)


class FixedKL:
    """A KL coefficient that stays as it is.

    Attributes:
        beta: reward per nat.
    """

    def __init__(self, beta: float) -> None:
        check_numbers(beta=beta)
        if not beta >= 0:
            raise ValueError(f"beta is {beta}, but must be 0 or more: a negative one rewards drift")
        self.beta = float(beta)

    def update(self, kl: float, n: int) -> None:
        """Do nothing, whatever the KL was."""


class AdaptiveKL:
    """A KL coefficient that steers the measured KL toward a target.

    ``beta <- beta * (1 + clip(kl / target - 1, -0.2, 0.2) * n / horizon)``: proportional control in log space, with
    the error clipped so that one odd batch moves beta by at most ``0.2 * n / horizon``, and never by more than 20 %
    (``n / horizon`` counts as 1 beyond 1: a huge batch must not turn beta negative).

    Args:
        beta: the first coefficient, reward per nat; more than 0, since it is multiplied.
        target: KL to aim for, in nats **per response** (the sum over its tokens).
        horizon: responses over which a steady error of 20 % changes beta by 20 %.

    Raises:
        ValueError: ``beta``, ``target`` or ``horizon`` not above 0.

    Source: Ziegler et al. (2019), section 2.2.
    """

    def __init__(self, beta: float, target: float, horizon: float) -> None:
        check_numbers(beta=beta, target=target, horizon=horizon)
        if not (beta > 0 and target > 0 and horizon > 0):
            raise ValueError(f"beta is {beta}, target {target}, horizon {horizon}, but all must be above 0")
        self.beta = float(beta)
        self.target = float(target)
        self.horizon = float(horizon)

    def update(self, kl: float, n: int) -> None:
        """Move beta after a batch of ``n`` responses whose mean KL was ``kl`` nats per response.

        Raises:
            ValueError: a KL that is no finite number; clipped, it would pass for a large one.
        """
        check_numbers(kl=kl, n=n)
        if not math.isfinite(kl):
            raise ValueError(f"kl is {kl}, but must be finite; find where it comes from first")
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.beta *= 1 + error * min(n / self.horizon, 1.0)
