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
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor
from transformers import PreTrainedModel

from ppo_lib.models.world import ALONE, Rows, T, World
from ppo_lib.parallel.sharding import divide, is_part, own_part, part_of, sharding_wanted, whole
from ppo_lib.trainers.configuration import ConfigError

# How long a process waits for the others, who may be writing a model or waiting for a reward, before it gives up.
PATIENCE = timedelta(minutes=30)
ENGINES = {"ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_MEGATRON_LM": "Megatron"}


class ProcessLost(RuntimeError):
    """Another process of this run has ended, or does not answer."""


@dataclass(frozen=True)
class Processes(World):
    """This process among several of its run."""

    rank: int
    size: int
    device: str | None = None
    sharded: bool = False

    @staticmethod
    def launched(device: str = "auto") -> World:
        """The world that ``accelerate launch`` or ``torchrun`` has started; connects to the other processes.

        Args:
            device: of the configuration: ``cpu``, ``cuda``, or ``auto`` for a GPU each where there are GPUs.

        Raises:
            ConfigError: more processes than GPUs on this machine, or a way of launching that is not supported.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        check_launch()
        sharded = sharding_wanted()
        if size == 1:
            return ALONE
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
        return Processes(state.process_index, state.num_processes, "cpu" if cpu else f"cuda:{local}", sharded)

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
        return rows[self.rank * len(rows) // self.size : (self.rank + 1) * len(rows) // self.size]

    def largest_share(self, rows: Rows) -> int:
        return -(-len(rows) // self.size)

    def gather(self, items: list[T]) -> list[T]:
        parts: list[Any] = [None] * self.size
        with answering():
            dist.all_gather_object(parts, items)
        return [item for part in parts for item in part]

    def add(self, *tensors: Tensor) -> None:
        with answering():
            for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
                work.wait()

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        gradients = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        self.add(*gradients)

    def total(self, *numbers: float) -> tuple[float, ...]:
        return tuple(map(sum, zip(*self.gather([numbers]), strict=True)))

    def largest(self, number: float) -> float:
        return max(self.gather([number]))

    def any(self, flag: bool) -> bool:
        return any(self.gather([flag]))

    def wait(self) -> None:
        self.gather([None])

    def place(self, causal_lm: PreTrainedModel, device: str) -> None:
        """Move a model to the device, or divide its blocks; see :func:`ppo_lib.parallel.sharding.divide`."""
        if self.sharded:
            divide(causal_lm, device, self.size)
        else:
            super().place(causal_lm, device)

    def is_part(self, tensor: Tensor) -> bool:
        return is_part(tensor)

    def own_part(self, tensor: Tensor) -> Tensor:
        return own_part(tensor)

    def whole(self, part: Tensor, like: Tensor) -> Tensor:
        return whole(part, like)

    def part_of(self, tensor: Tensor, like: Tensor) -> Tensor:
        return part_of(tensor, like)


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
    return isinstance(error, dist.DistError) or (dist.is_initialized() and "gloo" in str(error))
