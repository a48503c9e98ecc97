"""The output head and what is read from it: log-probs of given tokens, in few passes over the logits.

Logits of 50,000 to 150,000 columns are the widest tensors of an update. Autograd would keep the log-softmax, fill a
tensor of zeros with the gradients of the chosen tokens, and turn that into a third. Here the backward pass writes
``softmax - onehot`` at once, and hands it to the head's product.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from ppo_lib.models.lora import times


class Scored(torch.autograd.Function):
    """Log-prob ``(N,)`` of each token, and entropy ``(N,)`` of each distribution (0 where it is not wanted).

    Takes states ``(N, H)``, the head's weight ``(V, H)``, token ids ``(N,)``, the temperature, and whether entropies
    are wanted. They carry no gradient; the log-probs carry one to the states.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, ids: Tensor, temperature: float, entropy: bool
    ) -> tuple[Tensor, Tensor]:
        logits = times(states, weight)
        logits = logits if logits.dtype.itemsize >= 4 else logits.float()
        logits = logits if temperature == 1 else logits.div_(temperature)
        logp = torch.log_softmax(logits, dim=-1)
        del logits  # two of these wide tensors at a time
        chosen = logp.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
        spread = -logp.exp().mul_(logp).sum(-1) if entropy else torch.zeros_like(chosen)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(spread)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(logp, weight, ids)
        return chosen, spread

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        logp, weight, ids = ctx.saved_tensors
        scaled = (gradient if ctx.temperature == 1 else gradient / ctx.temperature).unsqueeze(-1)
        of_logits = logp.exp().mul_(-scaled).scatter_add_(-1, ids.unsqueeze(-1), scaled)
        return times(of_logits.to(weight.dtype), weight.t()), None, None, None, None


def plain_head(causal_lm: PreTrainedModel, precision: torch.dtype) -> bool:
    """Whether logits are one product with a frozen weight that is whole here, and nothing else."""
    head: Any = causal_lm.get_output_embeddings()
    return (
        isinstance(head, nn.Linear)
        and getattr(head, "bias", None) is None
        and not hasattr(head.weight, "device_mesh")  # a part of a weight that is sharded
        and not head.weight.requires_grad
        and head.weight.dtype.itemsize <= precision.itemsize
        and getattr(causal_lm.config.get_text_config(), "final_logit_softcapping", None) is None
    )
