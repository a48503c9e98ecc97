"""How often a microbatch makes the host wait for the device."""

from dataclasses import replace

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
def test_a_microbatch_asks_for_nothing(build_tiny, critic):
    policy = ActorCritic(build_tiny(), lora_rank=4, critic=critic)
    randomise(policy.parameters_to_train())
    batch = policy.backbone.encode_pairs(PROMPTS, PROMPTS[::-1])
    with host_requests() as found:
        seen = policy.evaluate(batch.select([1, 4, 2]), entropy_grad=True)
        (seen.logprobs + seen.values + seen.entropy).sum().backward()
    assert all(p.grad is not None for p in policy.parameters_to_train())
    assert not found


def test_a_batch_asks_once_when_it_is_made_and_not_when_it_moves(build_tiny):
    backbone = build_tiny()
    batch = backbone.encode_pairs(PROMPTS, PROMPTS)
    with host_requests() as found:
        replace(batch)
    assert found.total() == 1, found
    with host_requests() as found:
        batch.to("cpu")
        _ = batch.mask, batch.attention_mask, batch.position_ids, batch.labels
    assert not found
