"""Reductions over the counted tokens of a batch.

Responses differ in length, so every per-token tensor ``(B, T)`` comes with a ``mask`` of the same shape: 1 where
a token counts, 0 in the padding. Whatever stands in the padding, NaN and infinity included, must change no result
and no gradient. Multiplying by the mask is not enough for that (``nan * 0`` is NaN, and the gradient of a masked
infinity is NaN too), so each function first *replaces* the padding by zero; see :func:`fill_padding`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_TRUSTED = ContextVar("trusted", default=False)


@contextmanager
def trusted() -> Iterator[None]:
    """While this is open, masks and numbers are taken as they are; shapes and dtypes are still checked.

    Whether a mask holds only 0 and 1, or a tensor a NaN, is a question to the device, and on a GPU the program stands
    still until the answer has come. PPO asks once, when experience is collected, and trusts it in every microbatch of
    the update; a NaN that arises there shows in the norm of the gradient.
    """
    token = _TRUSTED.set(True)
    try:
        yield
    finally:
        _TRUSTED.reset(token)


def is_trusted() -> bool:
    """Whether :func:`trusted` is open."""
    return _TRUSTED.get()


def shape_of(x: object) -> str:
    """The shape of ``x`` as it is shown in error messages."""
    return str(tuple(x.shape)) if isinstance(x, Tensor) else type(x).__name__


def check_numbers(**values: object) -> None:
    """Refuse what is no real number: text, None, a tensor of several.

    Raises:
        ValueError: with the argument's name and what was given.
    """
    for name, value in values.items():
        plain = isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1)
        if not plain or isinstance(value, bool):
            raise ValueError(f"{name} is {value!r:.60}, but must be a number")


def check_tensors(**values: object) -> None:
    """Refuse what is no tensor of floating-point numbers: lists, integers.

    Raises:
        ValueError: with the argument's name and what was given.
    """
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} is a {type(value).__name__}, but must be a tensor; use torch.tensor(...)")
        if not value.is_floating_point():
            raise ValueError(f"{name} has dtype {value.dtype}, but must be floating point")


def check_mask(mask: Tensor) -> Tensor:
    """Check a mask and return it as a boolean tensor.

    Args:
        mask: ``(B, T)``, 1 (or True) where the response token counts.

    Raises:
        ValueError: not two-dimensional, holding anything but 0 and 1, or without a single counted token.
    """
    if not isinstance(mask, Tensor) or mask.dim() != 2:
        raise ValueError(f"mask has shape {shape_of(mask)}, but must be (B, T), one row per response")
    keep = mask.bool()
    if is_trusted():
        return keep
    if mask.dtype != torch.bool and not bool((mask == keep).all()):
        raise ValueError("mask holds values other than 0 and 1; weight the loss, not the mask")
    if not bool(keep.any()):
        raise ValueError(f"mask of shape {shape_of(mask)} is empty: no token counts, so there is no mean")
    return keep


def check_right_padded(mask: Tensor) -> Tensor:
    """Check a mask whose rows are counted tokens first and padding after, and return it as booleans.

    The recursions of the book (returns, GAE) run from a response's last counted token back to its first; a hole in
    the middle would make "the next token" ambiguous.

    Raises:
        ValueError: as :func:`check_mask`, or a row counts a token after its padding began.
    """
    keep = check_mask(mask)
    holes = (keep[:, 1:] & ~keep[:, :-1]).any(dim=1)
    if bool(holes.any()):
        row = int(holes.nonzero()[0])
        raise ValueError(
            f"mask row {row} counts a token after padding; responses must be right-padded, counted tokens first"
        )
    return keep


def fill_padding(name: str, x: Tensor, keep: Tensor, value: float = 0.0) -> Tensor:
    """``x`` with its padding replaced by ``value``, so that padding reaches neither results nor gradients.

    Args:
        name: the argument's name, for the error message.
        x: ``(B, T)`` float.
        keep: ``(B, T)`` boolean, from :func:`check_mask`.
        value: what to put where nothing counts.

    Raises:
        ValueError: another shape or dtype than the mask asks for, or NaN or infinity where a token counts.
    """
    if not isinstance(x, Tensor) or x.shape != keep.shape:
        raise ValueError(f"{name} has shape {shape_of(x)}, but must be (B, T) = {tuple(keep.shape)} like mask")
    if not x.is_floating_point():
        raise ValueError(f"{name} has dtype {x.dtype}, but must be floating point")
    filled = torch.where(keep, x, torch.full_like(x, value))
    if not is_trusted() and not bool(torch.isfinite(filled).all()):
        raise ValueError(f"{name} is NaN or infinite at a counted token; find where it comes from first")
    return filled


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over the counted tokens of the whole batch (the "token mean").

    ``sum(mask * x) / sum(mask)``: each token weighs the same, so long responses weigh more than short ones.

    Args:
        x: ``(B, T)`` float.
        mask: ``(B, T)``, 1 where the token counts.

    Returns:
        A scalar.

    Raises:
        ValueError: wrong shape, empty mask, or a non-finite counted value.
    """
    keep = check_mask(mask)
    return fill_padding("x", x, keep).sum() / keep.sum()


def masked_var(x: Tensor, mask: Tensor, unbiased: bool = True) -> Tensor:
    """Variance over the counted tokens of the whole batch.

    Args:
        x: ``(B, T)`` float.
        mask: ``(B, T)``, 1 where the token counts.
        unbiased: divide by ``n - 1`` (Bessel's correction) instead of ``n``.

    Returns:
        A scalar.

    Raises:
        ValueError: as :func:`masked_mean`, or an unbiased variance of a single token.
    """
    keep = check_mask(mask)
    count = keep.sum()
    if unbiased and int(count) < 2:
        raise ValueError("mask counts one token, whose unbiased variance is undefined; pass unbiased=False")
    centered = fill_padding("x", x, keep) - masked_mean(x, mask)
    squares = torch.where(keep, centered.square(), torch.zeros_like(centered))
    return squares.sum() / (count - 1 if unbiased else count)


def whiten(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """Scale the counted tokens to unit variance and, by default, zero mean.

    ``(x - mean) * rsqrt(var + 1e-8)`` with the unbiased variance, as TRL and veRL do (OpenRLHF divides by ``n``).

    Args:
        x: ``(B, T)`` float.
        mask: ``(B, T)``, 1 where the token counts.
        shift_mean: ``False`` puts the mean back after scaling, which is what rewards want: their sign means
            something, the sign of an advantage is relative anyway.

    Returns:
        ``(B, T)``, zero in the padding.

    Raises:
        ValueError: as :func:`masked_var`.
    """
    keep = check_mask(mask)
    mean, var = masked_mean(x, mask), masked_var(x, mask)
    whitened = (fill_padding("x", x, keep) - mean) * torch.rsqrt(var + 1e-8)
    if not shift_mean:
        whitened = whitened + mean
    return torch.where(keep, whitened, torch.zeros_like(whitened))
