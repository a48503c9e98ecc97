"""Gradient checkpointing: blocks that keep what goes into them, and compute the rest again in the backward pass.

The backward pass needs the activations of every layer. Kept, they are most of what an update holds; computed a second
time, block by block from the last to the first, they are there for one block at a time, at the price of one more
forward pass (Chen et al., 2016). torch does the work; what is special here is that the adapter that was on in the
forward pass must be on again when the block is computed again, and by then another one may be.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from ppo_lib.errors import BadInput
from ppo_lib.models.adapters import switch_adapter


def blocks_of(causal_lm: PreTrainedModel) -> list[nn.Module]:
    """The transformer blocks of a model, by the names that transformers keeps of what must not be split.

    Raises:
        ValueError: it has none.
    """
    names = set(causal_lm._no_split_modules or ())

    def inside(module: nn.Module) -> Iterator[nn.Module]:
        for child in module.children():
            # Once sharded, a block's class is a new one, derived from its own.
            if names & {kind.__name__ for kind in type(child).__mro__}:
                yield child  # and no look at its many parts
            else:
                yield from inside(child)

    blocks = list(inside(causal_lm.base_model))
    if not blocks:
        kind = causal_lm.config.model_type
        raise BadInput(
            f"transformers does not say what the blocks of a {kind!r} model are; leave out FSDP and "
            "gradient_checkpointing"
        )
    return blocks


@contextmanager
def recomputed(causal_lm: PreTrainedModel, adapter: str | None, current: Callable[[], str | None]) -> Iterator[None]:
    """While this is open, the blocks keep nothing but their inputs; the results are the same to the last bit.

    Args:
        causal_lm: the model; its blocks are changed, and changed back.
        adapter: the one that is on, and has to be when a block is computed again.
        current: tells which one is on by then.
    """
    blocks = blocks_of(causal_lm)
    for block in blocks:
        again = partial(contexts, block, adapter, current)
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=again)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward  # the class has its own


def contexts(
    block: nn.Module, adapter: str | None, current: Callable[[], str | None]
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """What surrounds a block's forward pass, and what surrounds its repetition."""
    return nullcontext(), in_role(block, adapter, current)


@contextmanager
def in_role(block: nn.Module, adapter: str | None, current: Callable[[], str | None]) -> Iterator[None]:
    """One block with an adapter on, whatever is on in the others; cheaper than switching all of them."""
    acting = current()
    if acting != adapter:
        switch_adapter(block, adapter)
    try:
        yield
    finally:
        if acting != adapter:
            switch_adapter(block, acting)
