"""A model divided among the processes of a run, for weights that do not fit one card.

torch's ``fully_shard`` (FSDP2) does the work. Its unit is the transformer block: each process holds a part of every
block; when a block's turn comes, forward or backward, its parts are gathered, and dropped again afterward. So a
process holds whole only the block that computes and the one that is gathered ahead of it.

What is small stays whole on every process: embeddings, output head, adapters and scalar heads. The head is then free
to score as many slices as a process needs, and adapters are trained exactly as they are without sharding. Where all
weights are trained, each process keeps gradients, moments and copies of its own parts only.

A block is gathered by all processes together, so each must run the same number of passes through the model: batches
must divide evenly (:meth:`ppo_lib.parallel.processes.Processes.check_share`), and sampling goes on until every process
has finished (:func:`ppo_lib.sampling.rollout.sample`).
"""

import os
from typing import TypeGuard

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from ppo_lib.models.device import prepare
from ppo_lib.models.recomputing import blocks_of
from ppo_lib.trainers.configuration import ConfigError
from ppo_lib.versions import older

# What accelerate may be asked for: its options, and the values that mean what is done here; None: not given.
OBEYED: dict[str, tuple[str | None, ...]] = {
    "--fsdp_version": ("2",),
    "--fsdp_reshard_after_forward": ("true", "full_shard", None),
    "--fsdp_offload_params": ("false", None),
    "--fsdp_activation_checkpointing": ("false", None),
    "--fsdp_auto_wrap_policy": ("TRANSFORMER_BASED_WRAP", None),
}
PEFT = "0.21"  # the first whose adapters have the sizes of the whole layer


def sharding_wanted() -> bool:
    """Whether accelerate was launched with FSDP; accelerate passes its options in the environment.

    Raises:
        ConfigError: it was asked for something that is not done here.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return False
    for option, values in OBEYED.items():
        value = os.environ.get(option.removeprefix("--").upper())
        if value not in values:
            remedy = f"launch with {option} {values[0]}"
            raise ConfigError(f"accelerate was asked for {option} {value}, which ppo_lib does not do; {remedy}")
    if found := older("peft", PEFT):
        raise ConfigError(
            f"peft is {found}, which gives the layers of a divided model adapters of the wrong size; "
            f"install {PEFT} or newer, or launch without --use_fsdp"
        )
    # transformers would give weights to the first process alone, and count on accelerate to send them to the others.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    return True


def divide(causal_lm: PreTrainedModel, device: str, parts: int) -> None:
    """Divide a model's blocks among the processes and move the rest to the device, whole.

    Blocks are moved one by one, so the device never holds a whole model. Adapters that are added afterward are whole
    on every process.

    Args:
        causal_lm: still in host memory, and the same on every process; changed in place.
        device: this process's own.
        parts: the number of processes.

    Raises:
        ValueError: a model whose blocks are not known.
    """
    mesh, blocks = init_device_mesh(device.partition(":")[0], (parts,)), blocks_of(causal_lm)
    half = causal_lm.dtype.itemsize < torch.float32.itemsize
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32 if half else None)
    for block in blocks:
        unit = fully_shard(block, mesh=mesh, mp_policy=policy)
        unit.set_gradient_divide_factor(1.0)  # gradients are added up, as elsewhere, and not averaged
        unit.set_force_sum_reduction_for_comms(True)  # gloo cannot divide on the way
    divided = {id(parameter) for block in blocks for parameter in block.parameters()}
    whole = {parameter for parameter in causal_lm.parameters() if id(parameter) not in divided}
    fully_shard(causal_lm.base_model, mesh=mesh, ignored_params=whole)  # lets it gather one block ahead
    prepare(torch.device(device))
    causal_lm.to(torch.device(device))  # type: ignore[arg-type]


def is_part(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether this process holds a part of the tensor only."""
    return isinstance(tensor, DTensor)


def own_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, in the same memory: a part of it, or all."""
    return tensor.to_local().detach() if is_part(tensor) else tensor.detach()


def whole(part: Tensor, like: Tensor) -> Tensor:
    """Put together what all processes hold of a tensor that is divided like another; all must ask for it."""
    if not is_part(like):
        return part
    mesh, where = like.device_mesh, like.placements
    return DTensor.from_local(part, mesh, where, shape=like.shape, stride=like.stride()).full_tensor()


def part_of(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor, divided like another."""
    if not is_part(like):
        return tensor
    placed = tensor.to(like.device)
    return distribute_tensor(placed, like.device_mesh, like.placements, src_data_rank=None).to_local()
