"""GAE, TD errors and returns, against formulas that share no code with them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import GARBAGE, ragged
from torch import Tensor

from ppo_lib.formulas.advantages import discounted_returns, explained_variance, gae, td_errors

UNIT = st.floats(0, 1)
SEED = st.integers(0, 10_000)


def slow_gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    """A_t = sum_l (gamma lam)^l (r_{t+l} + gamma V_{t+l+1} - V_{t+l}), term by term, in O(T^2)."""
    result = torch.zeros_like(rewards)
    for b, length in enumerate(mask.sum(dim=1).int().tolist()):
        for t in range(length):
            for k in range(t, length):
                after = float(values[b, k + 1]) if k + 1 < length else 0.0
                delta = float(rewards[b, k]) + gamma * after - float(values[b, k])
                result[b, t] += (gamma * lam) ** (k - t) * delta
    return result


def n_step(rewards: Tensor, values: Tensor, gamma: float, n: int) -> Tensor:
    """r_t + ... + gamma^{n-1} r_{t+n-1} + gamma^n V_{t+n} - V_t for one full row; nothing after the end."""
    (width,) = rewards.shape
    result = torch.zeros_like(rewards)
    for t in range(width):
        for k in range(t, min(t + n, width)):
            result[t] += gamma ** (k - t) * rewards[k]
        if t + n < width:
            result[t] += gamma**n * values[t + n]
        result[t] -= values[t]
    return result


def test_the_worked_example():
    rewards = torch.tensor([[-0.06, 0.15, 5.0]], dtype=torch.float64)
    values = torch.tensor([[3.0, 3.5, 4.0]], dtype=torch.float64)
    mask = torch.ones(1, 3)
    assert td_errors(rewards, values, mask, 0.9)[0].tolist() == pytest.approx([0.09, 0.25, 1.0], abs=1e-12)
    result = gae(rewards, values, mask, 0.9, 0.8)
    assert result.advantages[0].tolist() == pytest.approx([0.7884, 0.97, 1.0], abs=1e-12)
    assert result.returns[0].tolist() == pytest.approx([3.7884, 4.47, 5.0], abs=1e-12)


@settings(max_examples=60)
@given(seed=SEED, gamma=UNIT, lam=UNIT)
def test_equal_to_the_sum_written_out(seed, gamma, lam):
    rewards, mask = ragged(seed)
    values, _ = ragged(seed + 1)
    result = gae(rewards, values, mask, gamma, lam)
    torch.testing.assert_close(result.advantages, slow_gae(rewards, values, mask, gamma, lam))
    torch.testing.assert_close(result.returns, (result.advantages + values) * mask)


@settings(max_examples=30)
@given(seed=SEED, gamma=UNIT)
def test_lam_0_is_the_td_error_and_lam_1_the_return_less_the_value(seed, gamma):
    rewards, mask = ragged(seed)
    values, _ = ragged(seed + 1)
    torch.testing.assert_close(
        gae(rewards, values, mask, gamma, 0.0).advantages, td_errors(rewards, values, mask, gamma)
    )
    returns = discounted_returns(rewards, mask, gamma)
    torch.testing.assert_close(gae(rewards, values, mask, gamma, 1.0).returns, returns)
    torch.testing.assert_close(gae(rewards, values, mask, gamma, 1.0).advantages, (returns - values) * mask)


@settings(max_examples=30)
@given(seed=SEED, gamma=UNIT, lam=st.floats(0, 0.99))
def test_gae_is_the_mixture_of_n_step_advantages(seed, gamma, lam):
    """(1 - lam) sum_n lam^{n-1} A^(n), whose last term, the full return, takes all the weight that is left."""
    rewards, values = ragged(seed, rows=1)[0], ragged(seed + 1, rows=1)[0]
    width = rewards.shape[1]
    mixture = lam ** (width - 1) * n_step(rewards[0], values[0], gamma, width)
    for n in range(1, width):
        mixture = mixture + (1 - lam) * lam ** (n - 1) * n_step(rewards[0], values[0], gamma, n)
    torch.testing.assert_close(gae(rewards, values, torch.ones(1, width), gamma, lam).advantages[0], mixture)


@settings(max_examples=30)
@given(seed=SEED, gamma=UNIT)
def test_returns_are_the_discounted_sums_of_what_follows(seed, gamma):
    rewards, mask = ragged(seed)
    returns = discounted_returns(rewards, mask, gamma)
    for b, length in enumerate(mask.sum(dim=1).int().tolist()):
        for t in range(length):
            expected = sum(gamma ** (k - t) * float(rewards[b, k]) for k in range(t, length))
            assert returns[b, t].item() == pytest.approx(expected, abs=1e-12)


def test_a_perfect_critic_leaves_no_advantage():
    rewards, mask = ragged(0)
    values = discounted_returns(rewards, mask, 0.9)
    assert gae(rewards, values, mask, 0.9, 0.7).advantages.abs().max() < 1e-12


def test_the_value_after_the_last_token_is_0_also_when_the_budget_cut_it_off():
    """A response that fills its row and one that ends before it are treated alike."""
    rewards, values = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 1.0]])
    cut = td_errors(rewards, values, torch.ones(1, 2), 1.0)
    longer = td_errors(
        torch.tensor([[0.0, 2.0, 9.0]]), torch.tensor([[1.0, 1.0, 9.0]]), torch.tensor([[1.0, 1, 0]]), 1.0
    )
    assert cut.tolist() == [[0.0, 1.0]]
    assert longer.tolist() == [[0.0, 1.0, 0.0]]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_padding_changes_nothing_and_comes_out_as_zero(garbage):
    rewards, mask = ragged(0)
    values, _ = ragged(1)
    dirty = (rewards.masked_fill(mask == 0, garbage), values.masked_fill(mask == 0, garbage))
    for clean_result, dirty_result in (
        *zip(gae(rewards, values, mask, 0.9, 0.8), gae(*dirty, mask, 0.9, 0.8), strict=True),
        (td_errors(rewards, values, mask, 0.9), td_errors(*dirty, mask, 0.9)),
        (discounted_returns(rewards, mask, 0.9), discounted_returns(dirty[0], mask, 0.9)),
    ):
        assert torch.equal(clean_result, dirty_result)
        assert (dirty_result[mask == 0] == 0).all()


def test_batch_composition_and_width_change_nothing():
    rewards, mask = ragged(0)
    values, _ = ragged(1)
    together = gae(rewards, values, mask, 0.9, 0.8).advantages
    for b, length in enumerate(mask.sum(dim=1).int().tolist()):
        alone = gae(rewards[b : b + 1, :length], values[b : b + 1, :length], torch.ones(1, length), 0.9, 0.8)
        assert torch.equal(alone.advantages[0], together[b, :length])


def test_gradients_are_those_of_finite_differences_and_padding_gets_none():
    rewards, mask = ragged(0)
    values, _ = ragged(1)
    rewards, values = rewards.masked_fill(mask == 0, math.nan).requires_grad_(), values.requires_grad_()
    gae(rewards, values, mask, 0.9, 0.8).advantages.sum().backward()
    assert torch.isfinite(rewards.grad).all()
    assert (rewards.grad[mask == 0] == 0).all()
    clean = rewards.detach().nan_to_num().requires_grad_()
    assert torch.autograd.gradcheck(lambda r, v: gae(r, v, mask, 0.9, 0.8), (clean, values))


B23, B24, M23 = torch.zeros(2, 3), torch.zeros(2, 4), torch.ones(2, 3)
HOLE = torch.tensor([[1.0, 0, 1], [1, 1, 1]])
REFUSALS = [
    (lambda: gae(B24, B23, M23, 0.9, 0.9), ["rewards", "(2, 4)", "(2, 3)"]),
    (lambda: gae(B23, B24, M23, 0.9, 0.9), ["values", "(2, 4)", "(2, 3)"]),
    (lambda: gae(B23, B23, torch.ones(3), 0.9, 0.9), ["mask", "(3,)", "(B, T)"]),
    (lambda: gae(B23, B23, 0 * M23, 0.9, 0.9), ["mask", "empty"]),
    (lambda: gae(B23, B23, HOLE, 0.9, 0.9), ["mask row 0", "right-padded"]),
    (lambda: gae(B23, B23, M23, 1.1, 0.9), ["gamma", "1.1", "[0, 1]"]),
    (lambda: gae(B23, B23, M23, 0.9, -0.1), ["lam", "-0.1", "[0, 1]"]),
    (lambda: gae(B23, B23, M23, 0.9, math.nan), ["lam", "nan"]),
    (lambda: gae(B23 * math.nan, B23, M23, 0.9, 0.9), ["rewards", "NaN"]),
    (lambda: td_errors(B23, B23 + math.inf, M23, 0.9), ["values", "infinite"]),
    (lambda: td_errors(B23, B23, M23, -0.1), ["gamma", "-0.1"]),
    (lambda: discounted_returns(B24, M23, 0.9), ["rewards", "(2, 4)", "(2, 3)"]),
    (lambda: discounted_returns(B23, M23, 2.0), ["gamma", "2.0"]),
    (lambda: discounted_returns(B23, HOLE, 0.9), ["mask row 0"]),
]


@pytest.mark.parametrize(("call", "words"), REFUSALS)
def test_refusals_name_the_argument_and_what_is_wanted(call, words):
    with pytest.raises(ValueError, match=words[0]) as error:
        call()
    assert all(word in str(error.value) for word in words), error.value


def test_a_response_of_one_token_has_the_return_of_that_token():
    rewards, values, mask = (
        torch.tensor([[x], [y]], dtype=torch.float64) for x, y in ((2.0, -1.0), (0.5, 0.5), (1, 1))
    )
    assert gae(rewards, values, mask, 0.9, 0.9).advantages.tolist() == [[1.5], [-1.5]]
    assert discounted_returns(rewards, mask, 0.9).tolist() == [[2.0], [-1.0]]


def test_explained_variance():
    returns = torch.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]])
    mask = torch.tensor([[1.0, 1, 1], [1, 0, 0]])
    assert explained_variance(returns, returns, mask) == 1
    assert explained_variance(returns + 5, returns, mask) == pytest.approx(1)  # a constant error explains all the same
    assert explained_variance(torch.zeros(2, 3), returns, mask) == 0
    assert explained_variance(-returns, returns, mask) == pytest.approx(-3)
    dirty = returns.masked_fill(mask == 0, math.nan)
    assert explained_variance(dirty, dirty, mask) == 1
    assert math.isnan(explained_variance(returns, torch.ones(2, 3), mask))
    assert explained_variance(-returns / 100, returns / 100, mask) == pytest.approx(-3)  # of returns that vary little


@pytest.mark.parametrize(("gamma", "lam", "words"), [("1", 0.9, "gamma is '1'"), (1.0, None, "lam is None")])
def test_discounts_that_are_no_numbers_are_refused(gamma, lam, words):
    ones = torch.ones(1, 2)
    with pytest.raises(ValueError, match=f"{words}, but must be a number"):
        gae(ones, ones, ones, gamma, lam)
