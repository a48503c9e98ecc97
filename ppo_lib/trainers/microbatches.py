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


def minibatches(count: int, size: int, epochs: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Rows of each optimizer step, epoch after epoch, at most ``size`` of them.

    The first epoch keeps the rollout's order, which is random already; later ones shuffle.

    Args:
        count: responses in the rollout batch.
        size: responses in a minibatch.
        epochs: passes over the batch.
        generator: of the shuffling; on the host, so that nobody waits for the device.
    """
    order = list(range(count))
    for epoch in range(epochs):
        if epoch:
            shuffled = torch.randperm(count, generator=generator, device=generator.device).tolist()
            order = [order[i] for i in shuffled]
        yield from (order[i : i + size] for i in range(0, count, size))


def microbatches(minibatch: list[int], batch: TokenBatch, size: int, world: World) -> list[tuple[list[int], float]]:
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
    rows = world.share(minibatch)
    if len(rows) > size:
        rows = sorted(rows, key=lambda row: sum(batch.lengths[row]))
    parts = [rows[i : i + size] for i in range(0, len(rows), size)]
    tokens = sum(batch.lengths[row][1] for row in minibatch)
    return [(part, sum(batch.lengths[row][1] for row in part) / tokens) for part in parts]


class Meter:
    """What an update looked like: means over its optimizer steps, and how far the ratio went.

    Args:
        world: the processes that share each minibatch; the numbers are those of all of them.

    Attributes:
        steps: optimizer steps so far.
    """

    def __init__(self, world: World) -> None:
        self.world, self.steps, self.grad_norm = world, 0, 0.0
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
        """Note an optimizer step."""
        self.steps, self.grad_norm = self.steps + 1, self.grad_norm + grad_norm

    @property
    def first_error(self) -> float:
        """The largest ``|ratio - 1|`` of the first minibatch, before anything was learned."""
        return self.world.largest(float(torch.stack(self.errors).max()))

    def means(self) -> Metrics:
        """Mean of every part over the steps, ``grad_norm``, ``ratio_max`` and ``ratio_first_error``."""
        means = {name: self.world.total(float(total))[0] / self.steps for name, total in self.totals.items()}
        return means | {
            "grad_norm": self.grad_norm / self.steps,
            "ratio_max": self.world.largest(float(torch.stack(self.largest).max())),
            "ratio_first_error": self.first_error,
        }
