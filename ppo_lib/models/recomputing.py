"""Gradient checkpointing: blocks that keep what goes into them, and compute the rest again in the backward pass.

The backward pass needs the activations of every layer. Kept, they are most of what an update holds; computed a second
time, block by block from the last to the first, they are there for one block at a time, at the price of one more
forward pass (Chen et al., 2016). torch does the work; what is special here is that the adapter that was on in the
forward pass must be on again when the block is computed again, and by then another one may be.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

from torch import nn
from torch.utils.checkpoint import checkpoint

from ppo_lib.models.adapters import switch_adapter
from ppo_lib.parallel.sharding import blocks_of

if TYPE_CHECKING:
    from ppo_lib.models.backbone import Backbone


@contextmanager
def recomputed(backbone: "Backbone", adapter: str | None) -> Iterator[None]:
    """While this is open, the blocks keep nothing but their inputs; the results are the same to the last bit.

    Args:
        backbone: the model; its blocks are changed, and changed back.
        adapter: the one that is on, and has to be when a block is computed again.
    """
    blocks = blocks_of(backbone.causal_lm)
    for block in blocks:
        again = partial(contexts, backbone, block, adapter)
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=again)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward  # the class has its own


def contexts(
    backbone: "Backbone", block: nn.Module, adapter: str | None
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """What surrounds a block's forward pass, and what surrounds its repetition."""
    return nullcontext(), in_role(backbone, block, adapter)


@contextmanager
def in_role(backbone: "Backbone", block: nn.Module, adapter: str | None) -> Iterator[None]:
    """One block with an adapter on, whatever is on in the others; cheaper than switching all of them."""
    acting = backbone.acting
    if acting != adapter:
        switch_adapter(block, adapter)
    try:
        yield
    finally:
        if acting != adapter:
            switch_adapter(block, acting)
