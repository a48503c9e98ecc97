"""The norms of Llama's kin in one kernel on a GPU, where transformers launches six to eight.

``x / sqrt(mean(x^2) + eps) * weight`` is what ``torch.nn.functional.rms_norm`` computes; on a GPU it is a single kernel
forward, and a small number backward. A model of thirty layers has sixty-one of them, and at each token that it decodes
their launches are a third of all. In half precision the numbers are rounded once instead of twice.

On a CPU PyTorch takes the same steps as transformers, so nothing is changed there. ``fused_blocks: false`` changes
nothing anywhere.
"""

from typing import Any

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension, ``(..., H)``; in place of a model's own, with its weight."""

    weight: nn.Parameter
    own: type[nn.Module]  # what it was before

    def forward(self, hidden_states: Tensor) -> Tensor:
        return nn.functional.rms_norm(hidden_states, self.weight.shape, self.weight, epsilon(self))


def epsilon(norm: nn.Module) -> float | None:
    """What a norm adds under its root, by either of the names that transformers has for it."""
    found = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    return found if isinstance(found, float) else None


def quicken_norms(model: nn.Module, wanted: bool = True) -> int:
    """Let every norm that computes this formula be a :class:`RMSNorm`, or the model's own again; how many they are.

    The class of the module is changed and no module replaced, so that names and weights stay as they are. What a norm
    is called says little (Gemma's adds 1 to its weight), so each is tried on a few numbers before.
    """
    norms: list[Any] = [m for m in model.modules() if type(m).__name__.endswith("RMSNorm") and agrees(m)]
    for norm in norms:
        own = norm.own if isinstance(norm, RMSNorm) else type(norm)
        norm.own = own
        norm.__class__ = RMSNorm if wanted else own
    return len(norms)


@torch.no_grad()
def agrees(norm: nn.Module) -> bool:
    """Whether a norm gives this formula's numbers, up to rounding in its own precision."""
    weight, eps = getattr(norm, "weight", None), epsilon(norm)
    if type(weight) is not nn.Parameter or weight.dim() != 1 or eps is None:
        return False
    x = torch.linspace(-2, 3, 3 * len(weight), device=weight.device).view(3, -1).to(weight.dtype)
    try:
        own = norm(x)
    except Exception:  # a norm that wants more than its input, such as a gate
        return False
    ours = nn.functional.rms_norm(x, weight.shape, weight, eps)
    unit = max(torch.finfo(weight.dtype).eps, torch.finfo(torch.float32).eps)  # transformers' never use more
    near = 8 * unit * float(ours.abs().max())
    return own.shape == ours.shape and own.dtype == ours.dtype and bool(((own - ours).abs() <= near).all())
