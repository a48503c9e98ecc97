"""What the benchmarks of sampling are measured against: transformers' own ``generate``."""

import torch

from ppo_lib.models.backbone import Backbone
from ppo_lib.models.tokens import TokenBatch


@torch.no_grad()
def generate(backbone: Backbone, prompts: TokenBatch, new_tokens: int) -> None:
    """Sample exactly ``new_tokens`` for each prompt with eager ``generate``: temperature 1, and no EOS ends a response.

    Args:
        backbone: the model, with the adapter on that is to sample.
        prompts: padded on the left, with empty responses.
        new_tokens: tokens per response.
    """
    backbone.causal_lm.generate(  # type: ignore[operator]
        prompts.sequences,
        attention_mask=prompts.attention_mask,
        max_new_tokens=new_tokens,
        do_sample=True,
        top_k=0,
        eos_token_id=-1,
        pad_token_id=backbone.pad_token_id,
    )
