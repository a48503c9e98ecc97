"""A linear layer with a LoRA adapter in three products, and its gradients in five.

PEFT computes ``x W' + s (x A') B'`` as it is written (``'`` for the transpose): product, product, product, scaling,
sum, each a kernel of its own, and as many and more again backwards. Here the last product is added where it belongs
while it is computed, and the scaling with it. The same numbers but for rounding; on a GPU, where launching a kernel
costs more than these small products, half of the launches; on a CPU fewer passes over memory.

By hand, since autograd would split the sums again: the backward pass has to add ``A``'s part to the gradient of ``x``
in place. :func:`plainly` says where PEFT's own way is taken instead; ``fused_lora: false`` takes it everywhere.
"""

from typing import Any

import torch
from peft.tuners.lora.layer import Linear as PeftLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ppo_lib.models import linear
from ppo_lib.models.linear import by_onednn


def times(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b.T`` of ``(M, K)`` and ``(N, K)``, by the faster way."""
    return linear.product(a, b) if by_onednn(a, b) else a @ b.t()


class Adapted(torch.autograd.Function):
    """``x @ W.T + bias + s (x @ A.T) @ B.T`` for a frozen ``W``; shapes as :class:`LoraLinear`, of ``x`` ``(M, K)``.

    What it returns is no view of anything: some models add to the output of a layer in place.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        y, low = by_weight(rows, weight, bias), rows @ a.t()  # (M, N), (M, r)
        ctx.scale = scale
        ctx.save_for_backward(rows, low, weight, a, b)
        return y.addmm_(low, b.t(), alpha=scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        rows, low, weight, a, b = ctx.saved_tensors
        scale = ctx.scale
        of_low, of_x = g @ b, None  # still to be scaled
        if ctx.needs_input_grad[0]:
            of_x = times(g, weight.t()).addmm_(of_low, a, alpha=scale)
        # With beta=0 what is added to is not read: the scaling happens within the product.
        of_a = torch.addmm(a, of_low.t(), rows, beta=0, alpha=scale)
        of_b = torch.addmm(b, g.t(), low, beta=0, alpha=scale)
        return of_x, None, None, of_a, of_b, None


def by_weight(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``rows @ weight.T + bias``, a new tensor ``(M, N)``."""
    if bias is not None and not by_onednn(rows, weight):
        return torch.addmm(bias, rows, weight.t())
    y = times(rows, weight)
    return y if bias is None else y.add_(bias)


class LoraLinear(PeftLinear):
    """PEFT's linear layer with adapters, and its forward pass in fewer kernels.

    Shapes: ``x`` is ``(..., K)``, the frozen ``W`` ``(N, K)``, ``A`` ``(r, K)`` and ``B`` ``(N, r)``.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        base: Any = self.base_layer
        if self._disable_adapters and not self.merged_adapters:
            return base(x, *args, **kwargs)
        if args or kwargs or plainly(self, x):
            return super().forward(x, *args, **kwargs)
        name = self._active_adapter[0]
        a: Any = self.lora_A[name].weight
        b: Any = self.lora_B[name].weight
        rows = x.flatten(0, -2)
        if torch.is_grad_enabled() and (x.requires_grad or a.requires_grad or b.requires_grad):
            y = Adapted.apply(rows, base.weight, base.bias, a, b, self.scaling[name])
            return y.view(*x.shape[:-1], -1)
        y = by_weight(rows, base.weight, base.bias).addmm_(rows @ a.t(), b.t(), alpha=self.scaling[name])
        return y.view(*x.shape[:-1], -1)


def plainly(layer: LoraLinear, x: Tensor) -> bool:
    """Whether a layer is left to PEFT: anything but one plain adapter on frozen, whole weights of its own precision."""
    base, names = layer.base_layer, layer._active_adapter
    if len(names) != 1 or names[0] not in layer.lora_A or layer.merged_adapters or names[0] in layer.lora_variant:
        return True
    a = layer.lora_A[names[0]].weight
    return (
        not isinstance(base, nn.Linear)  # GPT-2 has a linear layer of its own kind
        or base.weight.requires_grad
        or type(base.weight) is not nn.Parameter  # a part of a weight that is sharded
        or not x.dtype == a.dtype == base.weight.dtype
        or x.dim() < 2
    )


def quicken_adapters(model: nn.Module, wanted: bool = True) -> None:
    """Let every linear layer that PEFT has given adapters be a :class:`LoraLinear`, or PEFT's again.

    The class of the layer is changed and no layer replaced, as :func:`ppo_lib.models.linear.quicken` does.
    """
    for module in model.modules():
        if type(module) in (PeftLinear, LoraLinear):
            module.__class__ = LoraLinear if wanted else PeftLinear
