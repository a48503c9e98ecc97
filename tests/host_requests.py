"""Counts how often code asks the device for an answer: on a GPU, each time the host waits until all work is done."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Each asks the device once.
ASKS = {
    "a condition": lambda x: bool(x.any()),
    "a number": lambda x: x.sum().item(),
    "a copy to the host": lambda x: x.cpu(),
    "a list": lambda x: x.tolist(),
    "a choice of rows": lambda x: x[x > 0],
    "positions": lambda x: x.nonzero(),
    "different values": lambda x: x.unique(),
    "an assignment to chosen rows": lambda x: x.__setitem__(x > 0, 0),
    "repeats": lambda x: x.repeat_interleave(x),
    "whether they are equal": lambda x: torch.equal(x, x + 0),
}

# Operators that give the host a number, or whose result has a shape that depends on numbers.
ASKING = {
    *("aten._local_scalar_dense", "aten.item", "aten.is_nonzero", "aten.equal", "aten.allclose"),
    *("aten.nonzero", "aten.argwhere", "aten.masked_select", "aten.repeat_interleave.Tensor", "aten.bincount"),
    *("aten.unique", "aten._unique", "aten._unique2", "aten.unique_dim", "aten.unique_consecutive"),
}
INDEXING = {"aten.index", "aten.index_put", "aten.index_put_", "aten._index_put_impl_"}
COPIES = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu}  # on a CPU these are no operators


class _Operators(TorchDispatchMode):
    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func.overloadpacket)
        if name in INDEXING and any(index is not None and index.dtype == torch.bool for index in args[1]):
            self.found[f"{name} by a mask"] += 1
        elif name in ASKING or str(func) in ASKING:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


class _Copies(TorchFunctionMode):
    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in COPIES:
            self.found[func.__name__] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def host_requests() -> Iterator[Counter[str]]:
    """What is asked in the block, by kind; works on any device."""
    found: Counter[str] = Counter()
    with _Copies(found), _Operators(found):
        yield found
