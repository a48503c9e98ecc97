"""Linear layers in float32 on a CPU: the same products by oneDNN, which on some AMD processors is twice as fast.

PyTorch hands float32 products to MKL, and MKL takes its path for AVX2 on any processor that Intel did not make. PyTorch
also holds oneDNN, which chooses by instruction set alone, and asks it for everything but these products. On one AMD
machine with AVX-512 it needed half of MKL's time, on another the same; what decides is likely the width of the units
that execute AVX-512 (``benchmarks/results/linear.txt``).

By hand, since PyTorch has no public way to it: the operator is the one that ``torch.compile`` puts into its own
programs for inference; the two products of the backward pass are the same operator with other arguments.
``torch.backends.mkldnn.set_flags(False)`` turns it off.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Below this many multiplications the start of oneDNN's kernel costs more than it saves.
SMALL = 2**21
AVAILABLE = hasattr(torch.ops.mkldnn, "_linear_pointwise")  # not in every build of PyTorch


def product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b.T`` of float32 tensors ``(..., M, K)`` and ``(N, K)``, without a gradient."""
    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")


class Product(torch.autograd.Function):
    """``x @ weight.T`` and its gradients, all by oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        # A product of two needs each factor only for the gradient of the other.
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight if ctx.needs_input_grad[0] else None)
        return product(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        rows = gradient.flatten(0, -2)
        of_x = None if weight is None else product(gradient, weight.t())
        of_weight = None if x is None else product(rows.t(), x.flatten(0, -2).t())
        return of_x, of_weight


class Linear(nn.Linear):
    """A linear layer like any other, by oneDNN where that is the faster way."""

    def forward(self, x: Tensor) -> Tensor:
        if not by_onednn(x, self.weight):
            return super().forward(x)
        needed = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        y = Product.apply(x, self.weight) if needed else product(x, self.weight)
        return y if self.bias is None else y + self.bias


def by_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether a product is large enough, in float32, and on a CPU whose PyTorch has oneDNN."""
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and x.dim() > 1
        and x.numel() * len(weight) >= SMALL
        and AVAILABLE
        and torch._C._get_mkldnn_enabled()
    )


def quicken(model: nn.Module) -> None:
    """Let every plain linear layer of a model be a :class:`Linear`; its weights and its name stay as they are.

    The class of the layer is changed and no layer replaced, so that names, tied weights and all who hold it stay right.
    """
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear
