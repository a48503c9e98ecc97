"""A linear layer with a LoRA adapter in three products, and its gradients in five.

PEFT computes ``x W' + s (x A') B'`` as it is written (``'`` for the transpose): product, product, product, scaling,
sum, each a kernel of its own, and as many and more again backwards. Here the last product is added where it belongs
while it is computed, and the scaling with it. The same numbers but for rounding; on a GPU, where launching a kernel
costs more than these small products, half of the launches; on a CPU fewer passes over memory.

While tokens are sampled nothing is learned, and not even those products are needed: :func:`merged` adds the adapter to
a copy of the weights, and a layer is one product.

By hand, since autograd would split the sums again: the backward pass has to add ``A``'s part to the gradient of ``x``
in place. :func:`plainly` says where PEFT's own way is taken instead; ``fused_lora: false`` takes it everywhere.
"""

from collections.abc import Iterator
from contextlib import contextmanager
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

    whole: Tensor | None = None  # (N, K), the weight with the acting adapter in it, while :func:`merged` is open

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        base: Any = self.base_layer
        if self._disable_adapters and not self.merged_adapters:
            return base(x, *args, **kwargs)
        if self.whole is not None:
            return by_weight(x.flatten(0, -2), self.whole, base.bias).view(*x.shape[:-1], -1)
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


@contextmanager
def merged(model: nn.Module, adapter: str) -> Iterator[None]:
    """Sample with one adapter added to the weights, ``W + s B A``, in a copy that is given up at the end.

    In float32 the log-probs change by rounding. In half precision an adapter's small numbers are partly lost in the
    weights' rounding, and the sampler's distribution is not quite the scorer's: what PPO learns from are the scorer's
    log-probs, so the first ratio stays 1, and the difference is reported (``sampling_gap_mean``).

    Layers that are no plain linear ones, or parts of a sharded model, keep their adapters.

    Args:
        model: no gradient is taken while this is open, and no other adapter acts.
        adapter: its name.
    """
    layers = [m for m in model.modules() if isinstance(m, LoraLinear) and mergeable(m, adapter)]
    try:
        for layer in layers:
            layer.whole = merged_weight(layer, adapter)
        yield
    finally:
        for layer in layers:
            layer.whole = None


def mergeable(layer: LoraLinear, adapter: str) -> bool:
    """Whether a copy of a layer's weight can hold this adapter: a whole weight of its own, and a plain adapter."""
    base = layer.base_layer
    plain = adapter in layer.lora_A and adapter not in layer.lora_variant and not layer.merged_adapters
    return plain and isinstance(base, nn.Linear) and type(base.weight) is nn.Parameter


@torch.no_grad()
def merged_weight(layer: LoraLinear, adapter: str) -> Tensor:
    """``W + s B A``, ``(N, K)``, in the precision of ``W``."""
    base: Any = layer.base_layer
    a: Any = layer.lora_A[adapter].weight
    b: Any = layer.lora_B[adapter].weight
    return torch.addmm(base.weight.to(a.dtype), b, a, alpha=layer.scaling[adapter]).to(base.weight.dtype)


def quicken_adapters(model: nn.Module, wanted: bool = True) -> None:
    """Let every linear layer that PEFT has given adapters be a :class:`LoraLinear`, or PEFT's again.

    The class of the layer is changed and no layer replaced, as :func:`ppo_lib.models.linear.quicken` does.
    """
    for module in model.modules():
        if type(module) in (PeftLinear, LoraLinear):
            module.__class__ = LoraLinear if wanted else PeftLinear
