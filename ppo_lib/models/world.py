"""The world of a run: which rows are this process's, how numbers come together, where weights lie.

By default the world is one process. It has all rows and whole models, so every method gives back what it was given, and
a reader of the models, the samplers and the trainers needs to know no more than that.
:class:`ppo_lib.parallel.processes.Processes` is the world of several processes, which share the rows of a batch and may
hold a part each of one model.
"""

from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ppo_lib.models.device import prepare

T = TypeVar("T")
Rows = TypeVar("Rows", Tensor, list[Any], range)


class World:
    """A run of one process.

    Attributes:
        rank: number of this process, from 0.
        size: how many there are.
        device: the device that is this process's own, or None where the configuration decides alone.
        sharded: models are divided among the processes, instead of whole on each.
    """

    rank: int = 0
    size: int = 1
    device: str | None = None
    sharded: bool = False

    @property
    def first(self) -> bool:
        """True for the one process that writes files and prints."""
        return self.rank == 0

    @property
    def parts(self) -> int:
        """Into how many parts a model is divided; 1 where each process holds it whole."""
        return self.size if self.sharded else 1

    def say(self, text: str) -> None:
        """Print, once for all processes."""
        if self.first:
            print(text, flush=True)

    # ------------------------------------------------------------------------------------------------- rows, numbers

    def check_share(self, name: str, count: int) -> None:
        """Refuse a batch of ``count`` rows, set by the key ``name``, that leaves a process without work."""

    def share(self, rows: Rows) -> Rows:
        """The part of some rows that is this process's: parts of equal size (give or take one), in order of rank."""
        return rows

    def largest_share(self, rows: Rows) -> int:
        """How many of some rows the process has that has most of them."""
        return len(rows)

    def gather(self, items: list[T]) -> list[T]:
        """The lists of all processes, joined in the order of the ranks: the inverse of :meth:`share`."""
        return items

    def add(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over all processes."""

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace each gradient by its sum over all processes; a process that had no row of the batch adds nothing."""

    def total(self, *numbers: float) -> tuple[float, ...]:
        """The sum of each number over all processes."""
        return numbers

    def largest(self, number: float) -> float:
        """The largest of the processes' numbers."""
        return number

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on at least one process."""
        return flag

    def wait(self) -> None:
        """Go on only when all processes have come here."""

    # ------------------------------------------------------------------------------------------------------- weights

    def place(self, causal_lm: PreTrainedModel, device: str) -> None:
        """Move a model to the device, or this process's part of it; adapters that are added later are whole."""
        prepare(torch.device(device))
        causal_lm.to(torch.device(device))  # type: ignore[arg-type]

    def is_part(self, tensor: Tensor) -> bool:
        """Whether this process holds a part of the tensor only."""
        return False

    def own_part(self, tensor: Tensor) -> Tensor:
        """What this process holds of a tensor, in the same memory: a part of it, or all."""
        return tensor.detach()

    def whole(self, part: Tensor, like: Tensor) -> Tensor:
        """Put together what all processes hold of a tensor that is divided like another; all must ask for it."""
        return part

    def part_of(self, tensor: Tensor, like: Tensor) -> Tensor:
        """This process's part of a whole tensor, divided like another."""
        return tensor


ALONE = World()
