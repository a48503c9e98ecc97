"""Float16 weights: losses are scaled so that small gradients stay, and a step that overflows is left out."""

import math

import pytest
import torch
from tiny import PROMPTS, count_vowels, randomise
from torch import nn

from ppo_lib.errors import Diverged
from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.trainers.configuration import PPOConfig
from ppo_lib.trainers.optimizer import FIRST_SCALE, PATIENCE, Optimizer
from ppo_lib.trainers.ppo import PPOTrainer


def optimizer_of(parameter):
    return Optimizer([parameter], 0.1, 1e9, weights=torch.float16)


def test_the_step_is_that_of_unscaled_losses():
    results = []
    for weights in (torch.float16, torch.float32):
        parameter = nn.Parameter(torch.tensor([1.0, -2.0]))
        optimizer = Optimizer([parameter], 0.1, 1.0, weights=weights)
        for _ in range(3):
            optimizer.backward(parameter.square().sum())
            norm = optimizer.step()
        results.append((norm, parameter.tolist()))
    assert results[0] == results[1]  # a power of two rounds nothing


def test_gradients_too_small_for_float16_come_through():
    for scaled, survives in ((True, True), (False, False)):
        parameter = nn.Parameter(torch.ones(1))
        optimizer = Optimizer([parameter], 0.1, 1.0, weights=torch.float16 if scaled else torch.float32)
        half = parameter.half() * torch.ones(1, dtype=torch.float16)  # its gradient passes through float16
        optimizer.backward((half.float() * 1e-8).sum())
        assert (float(parameter.grad) != 0) == survives
        norm = optimizer.step()
        assert norm == pytest.approx(1e-8 if survives else 0, rel=1e-2)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_an_overflow_leaves_the_step_out_and_halves_the_scale_until_there_is_nothing_to_halve(bad):
    parameter = nn.Parameter(torch.ones(2))
    optimizer = optimizer_of(parameter)
    steps = 0
    while optimizer.loss_scale > 1:
        optimizer.backward((parameter * bad).sum())
        assert optimizer.step() == 0.0
        steps += 1
        assert optimizer.loss_scale == FIRST_SCALE / 2**steps
        assert optimizer.left_out == steps
    optimizer.backward((parameter * bad).sum())
    with pytest.raises(Diverged, match="float16"):
        optimizer.step()
    assert torch.equal(parameter, torch.ones(2))


def test_after_many_good_steps_the_scale_doubles():
    parameter = nn.Parameter(torch.ones(1))
    optimizer = optimizer_of(parameter)
    optimizer.good = PATIENCE - 1
    optimizer.backward(parameter.sum())
    optimizer.step()
    assert optimizer.loss_scale == 2 * FIRST_SCALE


def test_the_scale_is_part_of_the_state():
    parameter = nn.Parameter(torch.ones(1))
    optimizer = optimizer_of(parameter)
    optimizer.backward(parameter.sum())
    optimizer.step()
    optimizer.loss_scale, optimizer.good = 8.0, 3
    assert "loss_scale" in optimizer.state()
    other = optimizer_of(nn.Parameter(torch.zeros(1)))
    other.load_state(optimizer.state())
    assert (other.loss_scale, other.good) == (8.0, 3)
    unscaled = Optimizer([parameter], 0.1, 1.0)
    assert "loss_scale" not in unscaled.state()
    unscaled.load_state(optimizer.state())  # of a run in float16, gone on with in float32
    assert unscaled.loss_scale == 1


def test_the_first_gradient_of_ppo_in_float16_is_that_of_float32_to_a_few_percent(build_tiny):
    gradients = []
    for dtype in ("float32", "float16"):
        policy = ActorCritic(build_tiny(dtype=dtype), lora_rank=4)
        randomise(policy.parameters_to_train(), scale=0.1)
        config = PPOConfig(rollout_batch=4, minibatch=4, microbatch=2, max_new_tokens=6, dtype=dtype)
        trainer = PPOTrainer(config, policy, PROMPTS, count_vowels)
        experience = trainer.collect(range(4), torch.Generator().manual_seed(3))
        for rows in ([0, 1], [2, 3]):
            trainer.optimizer.backward(trainer.loss(experience, rows)[0])
        assert trainer.optimizer.loss_scale == (FIRST_SCALE if dtype == "float16" else 1)
        assert {p.dtype for p in policy.parameters_to_train()} == {torch.float32}
        scale = trainer.optimizer.loss_scale
        gradients.append(torch.cat([p.grad.flatten() / scale for p in policy.parameters_to_train()]))
        norm = trainer.optimizer.step()
        assert norm == pytest.approx(float(gradients[-1].norm()), rel=1e-4)
    assert float((gradients[0] - gradients[1]).norm() / gradients[0].norm()) < 0.05
