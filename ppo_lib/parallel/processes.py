"""Several processes, one run: who works on which rows, and how their numbers come together.

Under ``accelerate launch`` every process runs the same program with the same configuration and seed. What takes the
time is shared out: each process samples, judges and scores its share of a rollout batch, and takes its share of every
minibatch forward and backward. The results are joined, so that every process holds the whole batch, and whatever is
defined on it (whitening, advantages, KL, metrics) is computed by the very code that a single process runs. Gradients
are added before the optimizer clips them and steps. So the parameters stay the same everywhere, and the same batch
gives the same steps on any number of processes, up to the order in which floats are added.

accelerate starts the processes, finds their devices and connects them; this module says what they exchange. Each holds
whole models, or with FSDP a part of each (:mod:`ppo_lib.parallel.sharding`).
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor

from ppo_lib.parallel.sharding import sharding_wanted
from ppo_lib.trainers.options import ConfigError

T = TypeVar("T")
Rows = TypeVar("Rows", Tensor, list[Any], range)

# How long a process waits for the others, who may be writing a model or waiting for a reward, before it gives up.
PATIENCE = timedelta(minutes=30)
ENGINES = {"ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_MEGATRON_LM": "Megatron"}


class ProcessLost(RuntimeError):
    """Another process of this run has ended, or does not answer."""


@dataclass(frozen=True)
class Processes:
    """This process among those of its run; by default it is alone, and every method returns what it was given.

    Attributes:
        rank: number of this process, from 0.
        size: how many there are.
        device: the device that is this process's own, or None where the configuration decides alone.
        sharded: the models are divided among the processes, instead of whole on each;
            see :mod:`ppo_lib.parallel.sharding`.
    """

    rank: int = 0
    size: int = 1
    device: str | None = None
    sharded: bool = False

    @classmethod
    def launched(cls, device: str = "auto") -> "Processes":
        """The processes that ``accelerate launch`` or ``torchrun`` has started; connects to the others.

        Args:
            device: of the configuration: ``cpu``, ``cuda``, or ``auto`` for a GPU each where there are GPUs.

        Raises:
            ConfigError: more processes than GPUs on this machine, or a way of launching that is not supported.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        check_launch()
        sharded = sharding_wanted()
        if size == 1:
            return cls()
        cpu = device == "cpu" or (device == "auto" and not torch.cuda.is_available())
        local, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if device not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"device is {device!r}, but {size} processes need one each; use auto, cpu or cuda")
        if not cpu and local >= gpus:
            raise ConfigError(
                f"process {local} of this machine has no GPU, since it has {gpus}; launch {gpus} or use cpu"
            )
        with answering():
            state = PartialState(cpu=cpu, timeout=PATIENCE)
        return cls(state.process_index, state.num_processes, "cpu" if cpu else f"cuda:{local}", sharded)

    @property
    def first(self) -> bool:
        """True for the one process that writes files and speaks."""
        return self.rank == 0

    @property
    def parts(self) -> int:
        """Into how many parts a model is divided; 1 where each process holds it whole."""
        return self.size if self.sharded else 1

    def say(self, text: str) -> None:
        """Print, once for all processes."""
        if self.first:
            print(text, flush=True)

    def check_share(self, name: str, count: int) -> None:
        """Refuse a batch that leaves a process without work, or, of a model that is sharded, with more than others.

        Raises:
            ConfigError: names the key, its value and the number of processes.
        """
        if count < self.size:
            raise ConfigError(f"{name} is {count}, but {self.size} processes share it; give each at least one")
        if self.sharded and count % self.size:
            raise ConfigError(
                f"{name} is {count}, but {self.size} processes that hold parts of one model need equal shares; "
                f"use a multiple of {self.size}"
            )

    def share(self, rows: Rows) -> Rows:
        """The part of some rows that is this process's: pieces of equal size (give or take one), in order of rank."""
        return rows[self.rank * len(rows) // self.size : (self.rank + 1) * len(rows) // self.size]

    def largest_share(self, rows: Rows) -> int:
        """How many of some rows the process has that has most of them; alone, all."""
        return -(-len(rows) // self.size)

    def gather(self, items: list[T]) -> list[T]:
        """The lists of all processes, joined in the order of the ranks: the inverse of :meth:`share`."""
        if self.size == 1:
            return items
        parts: list[Any] = [None] * self.size
        with answering():
            dist.all_gather_object(parts, items)
        return [item for part in parts for item in part]

    def add(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over all processes."""
        if self.size == 1:
            return
        with answering():
            for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
                work.wait()

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace each gradient by its sum over all processes; a process that had no row of the batch adds nothing."""
        if self.size == 1:
            return
        gradients = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        self.add(*gradients)

    def total(self, *numbers: float) -> tuple[float, ...]:
        """The sum of each number over all processes."""
        return tuple(map(sum, zip(*self.gather([numbers]), strict=True)))

    def largest(self, number: float) -> float:
        """The largest of the processes' numbers."""
        return max(self.gather([number]))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on at least one process."""
        return any(self.gather([flag]))

    def wait(self) -> None:
        """Go on only when all processes have come here."""
        self.gather([None])


ALONE = Processes()


def check_launch() -> None:
    """Refuse what a launcher asks for and this library would not do.

    Raises:
        ConfigError: names the option and what to use instead.
    """
    for variable, engine in ENGINES.items():
        if os.environ.get(variable, "false").lower() == "true":
            raise ConfigError(
                f"accelerate was asked for {engine}, which ppo_lib does not know; to divide a model among processes, "
                "launch with --use_fsdp --fsdp_version 2"
            )
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision != "no":
        raise ConfigError(
            f"accelerate was asked for mixed precision {precision!r}, but the key dtype decides here; "
            "launch with --mixed_precision no and set dtype"
        )


@contextmanager
def answering() -> Iterator[None]:
    """Tell in one sentence when the others do not answer.

    Raises:
        ProcessLost: an exchange failed or timed out.
    """
    try:
        yield
    except RuntimeError as error:  # what gloo and NCCL raise
        raise ProcessLost(missing(error)) from error


def missing(error: RuntimeError) -> str:
    """The sentence for an exchange that has failed."""
    reason = " ".join(str(error).split())[:160]
    return f"another process of this run has ended or does not answer; go on with --resume ({reason})"


def of_an_exchange(error: RuntimeError) -> bool:
    """Whether it comes from gloo or NCCL, as where torch gathers the parts of a sharded model on its own."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)
