"""What the stages share: order, optimizer, schedule, and their exact state."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ppo_lib.trainers.optimizer import Optimizer, Order, warmup_then_decay


def test_every_example_is_drawn_once_per_pass():
    order = Order(10, seed=0)
    drawn = [i for _ in range(6) for i in order.draw(5)]
    for start in (0, 10, 20):
        assert sorted(drawn[start : start + 10]) == list(range(10))
    assert drawn[:10] != drawn[10:20]


def test_more_than_there_are_examples_may_be_drawn_at_once():
    assert sorted(Order(3, seed=0).draw(6)) == [0, 0, 1, 1, 2, 2]


def test_the_order_goes_on_where_its_state_was_taken():
    order, other = Order(10, seed=0), Order(10, seed=99)
    order.draw(7)
    state = {key: value.clone() for key, value in order.state().items()}
    expected = [order.draw(4) for _ in range(5)]
    other.load_state(state)
    assert [other.draw(4) for _ in range(5)] == expected


def test_no_example_is_refused():
    with pytest.raises(ValueError, match="no example to draw from"):
        Order(0, seed=0)


def quadratic_steps(optimizer: Optimizer, steps: int) -> None:
    for _ in range(steps):
        sum((p - 1).square().sum() for p in optimizer.parameters).backward()
        optimizer.step()


def test_the_optimizer_is_adamw_with_clipped_gradients():
    ours, theirs = (nn.Parameter(torch.tensor([3.0, -2.0])) for _ in range(2))
    optimizer = Optimizer([ours], 0.1, max_grad_norm=1.0)
    adam = torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.0)
    for _ in range(5):
        (ours**2).sum().backward()
        norm = optimizer.step()
        (theirs**2).sum().backward()
        expected = nn.utils.clip_grad_norm_([theirs], 1.0)
        adam.step()
        adam.zero_grad()
        assert norm == pytest.approx(float(expected))
        assert ours.grad is None
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_a_step_goes_as_far_as_its_share_of_the_learning_rate(scale):
    weight = nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = Optimizer([weight], 0.1, max_grad_norm=1.0)
    (weight**2).sum().backward()
    optimizer.step(scale)  # Adam's first step is as long as the rate, whatever the gradient
    torch.testing.assert_close(weight, torch.tensor([3.0 - 0.1 * scale, -2.0 + 0.1 * scale]))


def test_the_optimizer_goes_on_bit_for_bit_and_its_state_is_a_copy():
    parameters = [nn.Parameter(torch.randn(3, generator=torch.Generator().manual_seed(i))) for i in range(2)]
    optimizer = Optimizer(parameters, 0.1, 1.0)
    quadratic_steps(optimizer, 3)
    state = optimizer.state()
    frozen = {key: value.clone() for key, value in state.items()}
    quadratic_steps(optimizer, 3)
    after = [p.detach().clone() for p in parameters]
    assert all(torch.equal(state[key], frozen[key]) for key in state)
    for _ in range(2):  # loading leaves the state as it was, so that it can be loaded again
        optimizer.load_state(state)
        quadratic_steps(optimizer, 3)
        assert all(torch.equal(a, b) for a, b in zip(parameters, after, strict=True))
    fresh = Optimizer([nn.Parameter(torch.zeros(3)) for _ in range(2)], 0.1, 1.0)
    fresh.load_state(state)
    quadratic_steps(fresh, 3)
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters, after, strict=True))


def test_a_state_before_the_first_step_can_be_loaded():
    parameter = nn.Parameter(torch.ones(2))
    optimizer = Optimizer([parameter], 0.1, 1.0)
    state = optimizer.state()
    quadratic_steps(optimizer, 1)
    optimizer.load_state(state)
    assert torch.equal(parameter, torch.ones(2))


def test_the_state_of_another_model_is_refused():
    state = Optimizer([nn.Parameter(torch.ones(2))], 0.1, 1.0).state()
    for shapes in ([3], [2, 2]):
        other = Optimizer([nn.Parameter(torch.ones(n)) for n in shapes], 0.1, 1.0)
        with pytest.raises(ValueError, match="other parameters than this model"):
            other.load_state(state)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_no_number_stops_the_run_and_spares_the_parameters(bad):
    parameter = nn.Parameter(torch.ones(2))
    optimizer = Optimizer([parameter], 0.1, 1.0)
    (parameter * bad).sum().backward()
    with pytest.raises(FloatingPointError, match="gradient"):
        optimizer.step()
    assert torch.equal(parameter, torch.ones(2))


@given(iterations=st.integers(1, 500))
def test_the_schedule_rises_then_falls_and_never_exceeds_the_peak(iterations):
    factors = [warmup_then_decay(i, iterations) for i in range(iterations)]
    assert all(0 < factor <= 1 for factor in factors)
    peak = factors.index(max(factors))
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert peak <= max(1.0, 0.05 * iterations) + 1
    if iterations >= 20:
        assert max(factors) > 0.9
        assert factors[-1] < 0.1
