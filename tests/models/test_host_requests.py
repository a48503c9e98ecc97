"""How often a microbatch makes the host wait for the device."""

import pytest
import torch
from host_requests import ASKS, host_requests
from tiny import PROMPTS, randomise

from ppo_lib.models.actor_critic import ActorCritic


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
def test_whoever_asks_is_counted(ask):
    x = torch.arange(4)
    with host_requests() as found:
        x[torch.tensor([0, 1])].sum() + 1
    assert not found
    with host_requests() as found:
        ask(x)
    assert found.total() == 1, found


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_a_microbatch_asks_for_its_widths_and_for_its_tokens(build_tiny, critic):
    """Once each; transformers asks up to twice per pass whether the attention mask is needed at all."""
    policy = ActorCritic(build_tiny(), lora_rank=4, critic=critic)
    randomise(policy.parameters_to_train())
    batch = policy.backbone.encode_pairs(PROMPTS, PROMPTS[::-1])
    with host_requests() as found:
        seen = policy.evaluate(batch.select(torch.tensor([1, 4, 2])), entropy_grad=True)
        (seen.logprobs + seen.values + seen.entropy).sum().backward()
    assert all(p.grad is not None for p in policy.parameters_to_train())
    assert found.pop("aten._local_scalar_dense", 0) <= (4 if critic == "separate" else 2)
    assert found == {"tolist": 1, "aten.nonzero": 1}


def test_a_batch_asks_once_when_it_is_made_and_not_when_it_moves(build_tiny):
    backbone = build_tiny()
    batch = backbone.encode_pairs(PROMPTS, PROMPTS)
    with host_requests() as found:
        type(batch)(*vars(batch).values())
    assert found.total() == 1, found
    with host_requests() as found:
        batch.to("cpu")
        _ = batch.mask, batch.attention_mask, batch.position_ids, batch.labels
    assert not found
