"""The rotary position embedding in four kernels forward and four backward, where transformers launches ten and twenty.

Queries and keys are turned in pairs of their numbers, by an angle that grows with the position (Su et al., 2021):
``x * cos + rotate_half(x) * sin``, where ``rotate_half`` takes the two halves of ``x`` to ``(-second, first)``. As it
is written, it makes a tensor of each step. Here queries and keys are turned together, each half is added to the other
in place, and the gradient is turned back in the same way. The same numbers but for rounding, of which there is less in
half precision.

It is done on a GPU alone, where launching these kernels costs more than running them; ``fused_blocks: false`` leaves a
model as transformers made it.
"""

from collections.abc import Callable
from types import CellType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

NAME = "apply_rotary_pos_emb"  # what transformers calls it in the file of every architecture
Rotate = Callable[..., tuple[Tensor, Tensor]]


class Turned(torch.autograd.Function):
    """``x * cos + rotate_half(x) * sin``; ``x`` ``(B, heads, S, D)``, ``cos`` and ``sin`` of a shape that fits it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        y, (first, second) = x * cos, x.chunk(2, -1)
        y.chunk(2, -1)[0].addcmul_(second, sin.chunk(2, -1)[0], value=-1)
        y.chunk(2, -1)[1].addcmul_(first, sin.chunk(2, -1)[1])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        x, (first, second) = g * cos, g.chunk(2, -1)
        x.chunk(2, -1)[0].addcmul_(second, sin.chunk(2, -1)[1])
        x.chunk(2, -1)[1].addcmul_(first, sin.chunk(2, -1)[0], value=-1)
        return x, None, None


def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    """Queries and keys turned by their positions, as transformers' function of many names does it.

    Args:
        q: queries, ``(B, heads, S, D)``, or ``(B, S, heads, D)`` with ``unsqueeze_dim`` 2.
        k: keys, of as many heads or fewer.
        cos: ``(B, S, D)``, of the angles of each position.
        sin: the same.
        unsqueeze_dim: the dimension of the heads.
    """
    both = torch.cat([q, k], unsqueeze_dim)
    turned = Turned.apply(both, cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim))
    return tuple(turned.split([q.shape[unsqueeze_dim], k.shape[unsqueeze_dim]], unsqueeze_dim))


def quicken_rotation(model: nn.Module, wanted: bool = True) -> int:
    """Let every attention that turns by this formula turn by :func:`rotate`, or as before again; how many they are.

    The class of the module is changed and no module replaced: to one of the same name and the same code, in which the
    one name means another function. Some architectures turn in another way under that name (neighbors instead of
    halves, a part of ``D`` alone), so each is tried on a few numbers before.
    """
    found = 0
    for module in model.modules():
        own = getattr(type(module), "turns_as", type(module))
        quick = quick_attention(own)
        if quick is not None:
            module.__class__ = quick if wanted else own
            found += 1
    return found


_quick: dict[type, type | None] = {}


def quick_attention(own: type[nn.Module]) -> type[nn.Module] | None:
    """The class of an attention with :func:`rotate` for its own function, or ``None`` where that would not be it."""
    if own not in _quick:
        same = rebound(own.__dict__.get("forward"))
        _quick[own] = same and type(own.__name__, (own,), {"forward": same, "turns_as": own, "__doc__": own.__doc__})
    return _quick[own]


def rebound(function: Any) -> FunctionType | None:
    """A copy of a function in which ``NAME`` means :func:`rotate`, or ``None`` where it is not found or means another.

    A function in a wrapper, such as one that takes an argument by its old name as well, is copied with the wrapper.
    """
    if not isinstance(function, FunctionType):
        return None
    names, cells = function.__globals__, function.__closure__ or ()
    if (inner := getattr(function, "__wrapped__", None)) is not None:
        places = [place for place, cell in enumerate(cells) if cell.cell_contents is inner]
        if len(places) != 1 or (copy := rebound(inner)) is None:
            return None
        cells = (*cells[: places[0]], CellType(copy), *cells[places[0] + 1 :])
    elif NAME in function.__code__.co_names and agrees(names.get(NAME)):
        names = names | {NAME: rotate}
    else:
        return None
    same = FunctionType(function.__code__, names, function.__name__, function.__defaults__, cells)
    same.__kwdefaults__ = function.__kwdefaults__
    return same


def agrees(function: Rotate | None) -> bool:
    """Whether a function turns queries and keys as :func:`rotate` does, up to rounding, and always all of them."""
    if function is None:
        return False
    random = torch.Generator().manual_seed(0)
    shapes = [(2, 4, 3, 8), (2, 2, 3, 8), (2, 3, 8), (2, 3, 8)]
    q, k, cos, sin = (torch.randn(shape, generator=random) for shape in shapes)
    try:
        own = function(q, k, cos, sin)
    except Exception:  # one that wants something else
        return False
    try:
        function(q, k, cos[..., :4], sin[..., :4])
    except Exception:  # as many angles as numbers, or nothing
        pairs = zip(own, rotate(q, k, cos, sin), strict=True)
        return all(a.shape == b.shape and bool(((a - b).abs() < 1e-5).all()) for a, b in pairs)
    return False
