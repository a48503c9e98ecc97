"""How an update is cut into minibatches and microbatches, and how their numbers become one number again.

A rollout batch is passed over a few times (epochs). Each pass cuts it into minibatches, one optimizer step each, and
each minibatch into microbatches, one forward and backward pass each, as many responses as memory holds. How it is cut
into microbatches changes the result by rounding alone: each one's loss is weighed by its share of the minibatch's
tokens, so that every token of a step counts the same, wherever it falls.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ppo_lib.models.tokens import TokenBatch
from ppo_lib.models.world import World
from ppo_lib.trainers.optimizer import Metrics


def minibatches(count: int, size: int, epochs: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Rows of each optimizer step, epoch after epoch, as tensors of at most ``size`` indices.

    The first epoch keeps the rollout's order, which is random already; later ones shuffle.

    Args:
        count: responses in the rollout batch.
        size: responses in a minibatch.
        epochs: passes over the batch.
        generator: of the shuffling; the rows are on its device.
    """
    order = torch.arange(count, device=generator.device)
    for epoch in range(epochs):
        if epoch:
            order = order[torch.randperm(count, generator=generator, device=generator.device)]
        yield from order.split(size)


def microbatches(minibatch: Tensor, batch: TokenBatch, size: int, world: World) -> list[tuple[Tensor, float]]:
    """This process's share of a minibatch in microbatches of at most ``size`` rows, each with its weight.

    Where there are several, rows of like length go together, to save padding.

    Args:
        minibatch: rows of ``batch``.
        batch: the rollout batch, as tokens.
        size: responses per forward pass.
        world: the processes that share the minibatch.

    Returns:
        Rows, and their share of the minibatch's response tokens; over all processes the shares add up to 1.
    """
    lengths, rows = batch.response_lengths, world.share(minibatch)
    if len(rows) > size:
        rows = rows[(batch.prompt_lengths + lengths)[rows].argsort(stable=True)]
    return [(part, float(lengths[part].sum() / lengths[minibatch].sum())) for part in rows.split(size)]


class Meter:
    """What an update looked like: means over its optimizer steps, and how far the ratio went.

    Args:
        world: the processes that share each minibatch; the numbers are those of all of them.

    Attributes:
        steps: optimizer steps so far.
        first_error: the largest ``|ratio - 1|`` of the first minibatch, before anything was learned.
    """

    def __init__(self, world: World) -> None:
        self.world, self.steps, self.first_error, self.grad_norm = world, 0, 0.0, 0.0
        self.totals: dict[str, Tensor] = {}  # float64, on the loss's device: nothing waits for a number until the end
        self.largest: list[Tensor] = []
        self.errors: list[Tensor] = []

    def add(self, weight: float, ratio: Tensor, parts: dict[str, Tensor]) -> None:
        """Note a microbatch: its weight in the minibatch, its ratios ``(B, T)``, and scalars by name."""
        for name, part in parts.items():
            self.totals[name] = self.totals.get(name, 0.0) + weight * part.detach().double()
        self.largest.append(ratio.max())
        if self.steps == 0:
            self.errors.append((ratio - 1).abs().max())

    def step(self, grad_norm: float) -> None:
        """Note an optimizer step; after the first one, ``first_error`` is known."""
        if self.steps == 0:
            self.first_error = self.world.largest(float(torch.stack(self.errors).max()))
        self.steps, self.grad_norm = self.steps + 1, self.grad_norm + grad_norm

    def means(self) -> Metrics:
        """Mean of every part over the steps, ``grad_norm``, ``ratio_max`` and ``ratio_first_error``."""
        means = {name: self.world.total(float(total))[0] / self.steps for name, total in self.totals.items()}
        return means | {
            "grad_norm": self.grad_norm / self.steps,
            "ratio_max": self.world.largest(float(torch.stack(self.largest).max())),
            "ratio_first_error": self.first_error,
        }
