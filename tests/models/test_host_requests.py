"""How often a microbatch makes the host wait for the device."""

from dataclasses import replace

import pytest
import torch
from host_requests import ASKS, host_requests
from tiny import PROMPTS, randomise

from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.backbone import Backbone
from ppo_lib.trainers.configuration import PPOConfig
from ppo_lib.trainers.ppo import PPOTrainer


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


def test_an_update_asks_once_per_optimizer_step_and_changes_roles_twice(build_tiny, monkeypatch):
    """The norm of the gradient; and at its end once for each mean that it reports."""
    changes = []
    use = Backbone._use
    monkeypatch.setattr(Backbone, "_use", lambda self, name: changes.append(name) or use(self, name))
    policy = ActorCritic(build_tiny(), lora_rank=4)
    config = PPOConfig(rollout_batch=6, minibatch=2, microbatch=1, epochs=3, max_new_tokens=4)
    trainer = PPOTrainer(config, policy, PROMPTS, lambda prompts, texts: [float(len(text)) for text in texts])
    experience = trainer.collect(range(6))
    changes.clear()
    monkeypatch.setattr(trainer.optimizer.adam, "step", lambda: None)  # it counts its steps on the host, on any device
    with host_requests() as found:
        metrics = trainer.update(experience)
    assert changes == ["policy", None]
    steps = 3 * 3
    shuffles = 2  # of the host's own generator
    assert found.pop("tolist") == shuffles
    assert found.total() <= steps + len(metrics)
    assert found.total() <= 2 * steps
