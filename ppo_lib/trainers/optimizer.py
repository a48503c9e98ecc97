"""What the trainers share: the optimizer and its exact state, the order of the data, gradient steps.

Every trainer has the same small face, so that one loop (:func:`ppo_lib.run.fitting.fit`) runs, records and resumes
all of them: ``config``, ``iteration``, ``iterations``, ``step()``, ``samples()``, ``state()``, ``load_state()``,
``save()``.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ppo_lib.errors import BadInput, Diverged
from ppo_lib.models.world import ALONE, World

Metrics = dict[str, float]
State = tuple[dict[str, Tensor], dict[str, object]]


FIRST_SCALE = 2.0**14  # of losses on float16 weights; a step that overflows halves it
PATIENCE = 500  # steps without overflow after which it is doubled


class Trainer(Protocol):
    """What :func:`ppo_lib.run.fitting.fit` needs: SFT, reward model, PPO, GRPO and DPO all have it.

    Attributes:
        config: the knobs.
        iterations: iterations in all.
    """

    config: Any
    iterations: int

    @property
    def iteration(self) -> int:
        """Iterations done so far."""

    def step(self) -> Metrics:
        """Do one iteration and return its metrics."""

    def samples(self) -> list[dict[str, object]]:
        """A few rows worth reading from the last iteration."""

    def state(self) -> State:
        """All that the next iteration depends on: tensors by name, and plain values."""

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, object]) -> None:
        """Go back to a state; the iterations that follow are, on a CPU bit for bit, those that would have followed."""

    def save(self, folder: str) -> None:
        """Write the finished model."""


class Order:
    """The order in which examples are drawn: shuffled, without replacement, and shuffled anew when used up.

    Args:
        count: number of examples.
        seed: of the shuffling.
    """

    def __init__(self, count: int, seed: int) -> None:
        if count < 1:
            raise BadInput("there is no example to draw from; check the data file")
        self.count = count
        self.generator = torch.Generator().manual_seed(seed)
        self.queue = torch.empty(0, dtype=torch.long)

    def draw(self, n: int) -> list[int]:
        """The next ``n`` indices."""
        while len(self.queue) < n:
            self.queue = torch.cat([self.queue, torch.randperm(self.count, generator=self.generator)])
        drawn, self.queue = self.queue[:n], self.queue[n:]
        return drawn.tolist()

    def state(self) -> dict[str, Tensor]:
        return {"order.queue": self.queue, "order.generator": self.generator.get_state()}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        queue = tensors["order.queue"]
        if len(queue) and not 0 <= int(queue.min()) <= int(queue.max()) < self.count:
            raise BadInput(
                f"the order of the examples names others than the {self.count} there are; was the data changed?"
            )
        self.queue = queue
        self.generator.set_state(tensors["order.generator"])


class Optimizer:
    """AdamW with gradient clipping.

    Weights in bfloat16 or float16 are stepped in float32 copies of themselves: a step of 1e-6 is lost on a weight that
    has three digits, but adds up in the copy. Of weights that are sharded, each process steps the parts that it holds.

    Args:
        parameters: what to train.
        learning_rate: the peak.
        max_grad_norm: longer gradients are scaled down to this length.
        world: whose gradients are added up before each step.
        weights: precision of the frozen weights that gradients flow through. In float16 what is below 6e-8 is 0, so
            there losses are multiplied by a scale before the backward pass, and gradients divided by it afterward: as
            large a scale as no gradient overflows at (Micikevicius et al., 2018).

    Attributes:
        loss_scale: what losses are multiplied by; 1 but for float16.
        left_out: how many steps were not made, since a gradient overflowed; each halves the scale.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        learning_rate: float,
        max_grad_norm: float,
        world: World = ALONE,
        weights: torch.dtype = torch.float32,
    ) -> None:
        self.world = world
        self.loss_scale = FIRST_SCALE if weights == torch.float16 else 1.0
        self.scaling, self.good, self.left_out = weights == torch.float16, 0, 0
        self.parameters = list(parameters)
        self.learning_rate, self.max_grad_norm = learning_rate, max_grad_norm
        self.masters = [
            p if p.dtype.itemsize >= 4 and not world.is_part(p) else at_least_float32(world.own_part(p))
            for p in self.parameters
        ]
        self.adam = torch.optim.AdamW(self.masters, lr=learning_rate, eps=1e-8, weight_decay=0.0)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to those of the step that comes."""
        (loss * self.loss_scale if self.scaling else loss).backward()

    def step(self, scale: float = 1.0) -> float:
        """Clip the gradients, take one step at ``scale`` times the learning rate, and clear them.

        The gradients of several processes are added up first.

        Returns:
            The gradient norm before clipping; 0 for a step that was left out since a gradient overflowed float16.

        Raises:
            FloatingPointError: a gradient is NaN or infinite; the parameters stay as they were.
        """
        for group in self.adam.param_groups:
            group["lr"] = self.learning_rate * scale
        for parameter, master in self._halves():
            master.grad = None if parameter.grad is None else at_least_float32(self.world.own_part(parameter.grad))
            parameter.grad = None
        parts = [self.world.is_part(p) for p in self.parameters]  # their gradients have been added up already
        self.world.add_gradients(master for master, part in zip(self.masters, parts, strict=True) if not part)
        if self.scaling:
            torch._foreach_div_([master.grad for master in self.masters if master.grad is not None], self.loss_scale)
        norm = self._norm(parts)
        nn.utils.clip_grads_with_norm_(self.masters, self.max_grad_norm, norm)
        length = float(norm)  # the one wait for the device in a step
        if not math.isfinite(length):
            if self.scaling and self.loss_scale > 1:  # too large a scale, and no more than that
                self.loss_scale, self.good, self.left_out = self.loss_scale / 2, 0, self.left_out + 1
                self.adam.zero_grad()
                return 0.0
            raise Diverged(
                f"the gradient's norm is {length}, so this step would destroy the model; "
                "lower the learning rate, or use float32 instead of float16"
            )
        self.adam.step()
        self.adam.zero_grad()
        self._round()
        self.good += 1
        if self.scaling and self.good % PATIENCE == 0:
            self.loss_scale *= 2
        return length

    def _norm(self, parts: list[bool]) -> Tensor:
        """The length of the whole gradient; ``parts`` says which parameters lie divided among the processes."""
        gradients = [(m.grad, part) for m, part in zip(self.masters, parts, strict=True) if m.grad is not None]
        norm = nn.utils.get_total_norm([gradient for gradient, part in gradients if not part])
        if any(parts):
            squares = nn.utils.get_total_norm([gradient for gradient, part in gradients if part]) ** 2
            self.world.add(squares)
            norm = (norm**2 + squares).sqrt()
        return norm

    def _halves(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        return ((p, master) for p, master in zip(self.parameters, self.masters, strict=True) if p is not master)

    @torch.no_grad()
    def _round(self) -> None:
        for parameter, master in self._halves():
            self.world.own_part(parameter).copy_(master)

    def state(self) -> dict[str, Tensor]:
        """Copies of the parameters and of Adam's moments, as tensors by name (nothing is pickled)."""
        tensors = {f"parameter.{i}": self._saved(i, master) for i, master in enumerate(self.masters)}
        if self.scaling:
            tensors["loss_scale"] = torch.tensor([self.loss_scale, self.good], dtype=torch.float64)
        adam = self.adam.state_dict()["state"]
        tensors["stepped"] = torch.tensor(bool(adam))  # so that moments that got lost are told from none yet
        for i, moments in adam.items():
            tensors.update({f"adam.{i}.{key}": self._saved(i, torch.as_tensor(x)) for key, x in moments.items()})
        return tensors

    def _saved(self, i: int, tensor: Tensor) -> Tensor:
        """A copy of parameter ``i`` or of one of its moments, with what other processes hold of it."""
        together = tensor.detach()
        if tensor.ndim:  # not a count of steps
            together = self.world.whole(together, self.parameters[i])
        return together.to("cpu", copy=True)  # later steps must not change it

    def _part(self, i: int, tensor: Tensor) -> Tensor:
        """What this process holds of such a copy."""
        return self.world.part_of(tensor, self.parameters[i]) if tensor.ndim else tensor

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Put back what :meth:`state` gave.

        Raises:
            ValueError: the state of another model.
        """
        saved = [tensors[f"parameter.{i}"] for i in range(sum(key.startswith("parameter.") for key in tensors))]
        if [p.shape for p in saved] != [p.shape for p in self.parameters]:
            raise BadInput("the checkpoint holds other parameters than this model trains; was the config changed?")
        for number, value in enumerate(saved):
            self.masters[number].copy_(self._part(number, value))
        self._round()
        if self.scaling and "loss_scale" in tensors:
            self.loss_scale, good = tensors["loss_scale"].tolist()
            self.good = int(good)
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("adam."):
                _, i, name = key.split(".")
                moments.setdefault(int(i), {})[name] = self._part(int(i), value).clone()  # Adam changes them in place
        lost = not moments and bool(tensors.get("stepped", True))
        if lost or any({"step", "exp_avg", "exp_avg_sq"} - set(found) for found in moments.values()):
            raise BadInput("the checkpoint lacks moments of the optimizer; start again from an earlier one")
        if any(moment.shape not in ((), self.masters[i].shape) for i in moments for moment in moments[i].values()):
            raise BadInput("the checkpoint holds moments of other parameters than this model trains")
        self.adam.load_state_dict({"state": moments, "param_groups": self.adam.state_dict()["param_groups"]})


class Resumable(Protocol):
    """A trainer whose next step depends on its parameters, its optimizer and the order of its examples alone."""

    order: Order
    iteration: int

    @property
    def optimizer(self) -> Optimizer: ...


def state_of(trainer: Resumable) -> State:
    """The state of a trainer that draws no other random numbers; see :class:`Trainer`."""
    return {**trainer.optimizer.state(), **trainer.order.state()}, {"iteration": trainer.iteration}


def restore(trainer: Resumable, tensors: dict[str, Tensor], values: dict[str, object]) -> None:
    """Put back what :func:`state_of` gave."""
    trainer.optimizer.load_state(tensors)
    trainer.order.load_state(tensors)
    trainer.iteration = int(values["iteration"])  # type: ignore[call-overload]


def set_generator(generator: torch.Generator, state: Tensor) -> None:
    """Put a generator back where a checkpoint says.

    Raises:
        ValueError: the state of another kind of generator, such as older checkpoints hold that were made on a GPU.
    """
    if state.shape != generator.get_state().shape:
        raise BadInput(
            f"the checkpoint holds a random generator of {state.numel()} bytes, of another kind of device; go on with "
            "the version of ppo_lib that made it, on that device"
        )
    generator.set_state(state.cpu())


class WithoutSamples:
    """The face of a trainer that shows no samples and draws no other random numbers: SFT, reward model, DPO."""

    def samples(self) -> list[dict[str, object]]:
        """None: nothing is sampled on the way."""
        return []

    def state(self: Resumable) -> State:
        """All that the next iteration depends on; see :class:`Trainer`."""
        return state_of(self)

    def load_state(self: Resumable, tensors: dict[str, Tensor], values: dict[str, object]) -> None:
        """Go back to a state; what follows is, on a CPU bit for bit, what would have followed."""
        restore(self, tensors, values)


def at_least_float32(tensor: Tensor) -> Tensor:
    """The same tensor, or a float32 copy of one in half precision."""
    return tensor if tensor.dtype.itemsize >= 4 else tensor.float()


def warmup_then_decay(iteration: int, iterations: int, warmup: float = 0.05) -> float:
    """Learning-rate factor that rises over the first 5 % of the iterations and then falls to zero in a line."""
    rise = max(1.0, warmup * iterations)
    return min(1.0, (iteration + 1) / rise, (iterations - iteration) / max(1.0, iterations - rise))
