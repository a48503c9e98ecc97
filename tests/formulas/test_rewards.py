"""The augmented reward: the worked example, and where the score lands."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import GARBAGE, ragged

from ppo_lib.formulas.kl import kl_estimate
from ppo_lib.formulas.rewards import augmented_rewards, last_token_index


def test_the_worked_example():
    logprobs = torch.tensor([[-0.9, -2.5, -0.5]], dtype=torch.float64)
    ref_logprobs = torch.tensor([[-1.5, -1.0, -0.5]], dtype=torch.float64)
    kl = kl_estimate(logprobs, ref_logprobs, "k1")
    rewards = augmented_rewards(torch.tensor([5.0], dtype=torch.float64), kl, torch.ones(1, 3), beta=0.1)
    assert rewards[0].tolist() == pytest.approx([-0.06, 0.15, 5.0], abs=1e-12)


def test_the_score_lands_on_the_last_counted_token_of_each_response():
    mask = torch.tensor([[1.0, 1, 1], [1, 1, 0], [1, 0, 0]])
    rewards = augmented_rewards(torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3, 3), mask, beta=0.1)
    assert rewards.tolist() == [[0, 0, 1], [0, 2, 0], [3, 0, 0]]
    assert last_token_index(mask).tolist() == [2, 1, 0]


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), beta=st.floats(0, 10))
def test_a_response_earns_its_score_less_beta_times_its_kl(seed, beta):
    kl, mask = ragged(seed)
    scores = torch.arange(3, dtype=torch.float64)
    rewards = augmented_rewards(scores, kl, mask, beta)
    torch.testing.assert_close(rewards.sum(dim=1), scores - beta * (kl * mask).sum(dim=1))
    assert (rewards[mask == 0] == 0).all()


@pytest.mark.parametrize("garbage", GARBAGE)
def test_padding_changes_nothing(garbage):
    kl, mask = ragged(0)
    scores = torch.ones(3, dtype=torch.float64)
    clean = augmented_rewards(scores, kl, mask, 0.1)
    assert torch.equal(augmented_rewards(scores, kl.masked_fill(mask == 0, garbage), mask, 0.1), clean)


def test_the_kl_in_the_reward_carries_no_gradient():
    kl, mask = ragged(0)
    scores = torch.ones(3, dtype=torch.float64)
    assert not augmented_rewards(scores, kl.requires_grad_(), mask, 0.1).requires_grad


ZEROS, ONES = torch.zeros(2, 3), torch.ones(2, 3)


@pytest.mark.parametrize(
    ("scores", "kl", "mask", "beta", "words"),
    [
        (torch.zeros(3), ZEROS, ONES, 0.1, ["scores", "(3,)", "(B,) = (2,)"]),
        (torch.zeros(2, 1), ZEROS, ONES, 0.1, ["scores", "(2, 1)", "(2,)"]),
        (torch.zeros(2), torch.zeros(2, 4), ONES, 0.1, ["kl", "(2, 4)", "(2, 3)"]),
        (torch.zeros(2), ZEROS * math.nan, ONES, 0.1, ["kl", "NaN"]),
        (torch.tensor([0.0, math.inf]), ZEROS, ONES, 0.1, ["scores", "infinite"]),
        (torch.zeros(2), ZEROS, ONES, -0.1, ["beta", "-0.1", "0 or more"]),
        (torch.zeros(2), ZEROS, ONES, math.nan, ["beta", "nan"]),
        (torch.zeros(2), ZEROS, ZEROS, 0.1, ["mask", "empty"]),
        (torch.zeros(2), ZEROS, torch.tensor([[1.0, 1, 1], [0, 0, 0]]), 0.1, ["mask row 1", "no token"]),
        (torch.zeros(3), torch.zeros(3, 2), torch.tensor([[0.0, 0], [1, 1], [0, 0]]), 0.1, ["mask row 0", "no token"]),
        (torch.zeros(2), ZEROS, torch.tensor([[1.0, 1, 1], [0, 1, 1]]), 0.1, ["mask row 1", "right-padded"]),
    ],
)
def test_refusals(scores, kl, mask, beta, words):
    with pytest.raises(ValueError, match=words[0]) as error:
        augmented_rewards(scores, kl, mask, beta)
    assert all(word in str(error.value) for word in words), error.value
