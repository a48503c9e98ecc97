"""On a decision process small enough to be solved exactly, PPO made of the library's functions finds the optimum.

Responses of two tokens out of three; the reward is minus beta times the KL on every token, plus a score at the end.
Dynamic programming gives the best value: with ``V(s) = beta log sum_a ref(a) exp(Q(s, a) / beta)``, from the end on.
"""

import math

import pytest
import torch
from torch import Tensor

from ppo_lib.formulas.advantages import gae
from ppo_lib.formulas.kl import kl_estimate
from ppo_lib.formulas.losses import clipped_policy_loss, ppo_loss, value_loss
from ppo_lib.formulas.masking import whiten
from ppo_lib.formulas.rewards import augmented_rewards

TOKENS, BETA, BATCH, ITERATIONS, EPOCHS = 3, 0.5, 512, 50, 4
ROOT = torch.tensor([math.log(0.6), math.log(0.3), math.log(0.1)], dtype=torch.float64)  # the reference, in any state
STATES = 1 + TOKENS  # before the first token, and after each of them


def scores_of(seed: int) -> Tensor:
    """A score ``(3, 3)`` for each response."""
    return torch.randn(TOKENS, TOKENS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def best_value(scores: Tensor) -> float:
    """By dynamic programming, from the end on."""
    second = BETA * torch.logsumexp(ROOT + scores / BETA, dim=1)
    return float(BETA * torch.logsumexp(ROOT + second / BETA, dim=0))


def value_of(logits: Tensor, scores: Tensor) -> float:
    """The expected reward of a policy ``(4, 3)``, over all nine responses."""
    logp = logits.log_softmax(dim=1)
    both = logp[0][:, None] + logp[1:]  # (3, 3)
    drift = (logp[0] - ROOT)[:, None] + (logp[1:] - ROOT)
    return float((both.exp() * (scores - BETA * drift)).sum())


def train(scores: Tensor, seed: int) -> Tensor:
    """PPO on tables of logits and values; returns the logits."""
    generator = torch.Generator().manual_seed(seed)
    logits, values = ROOT.repeat(STATES, 1).requires_grad_(), torch.zeros(STATES, dtype=torch.float64).requires_grad_()
    adam = torch.optim.Adam([logits, values], lr=0.05)
    mask = torch.ones(BATCH, 2, dtype=torch.float64)
    for _ in range(ITERATIONS):
        with torch.no_grad():
            first = torch.multinomial(logits[0].softmax(0), BATCH, replacement=True, generator=generator)
            second = torch.multinomial(logits[1 + first].softmax(1), 1, generator=generator).squeeze(1)
            states, actions = torch.stack([0 * first, 1 + first], 1), torch.stack([first, second], 1)
            old, old_values = logits.log_softmax(1)[states, actions], values[states]
            kl = kl_estimate(old, ROOT[actions], "k1")
            rewards = augmented_rewards(scores[first, second], kl, mask, BETA)
            raw, returns = gae(rewards, old_values, mask, 1.0, 0.95)
            advantages = whiten(raw, mask)
        for _ in range(EPOCHS):
            new = logits.log_softmax(1)[states, actions]
            policy = clipped_policy_loss(new, old, advantages, mask, 0.2).loss
            value = value_loss(values[states], returns, mask, old_values, None)
            adam.zero_grad()
            ppo_loss(policy, value, torch.zeros(()), 0.5, 0.0).backward()
            adam.step()
    return logits.detach()


@pytest.mark.parametrize("seed", range(10))
def test_ppo_finds_the_optimum_of_dynamic_programming(seed):
    """What the reference leaves on the table is closed by nine tenths or more; ten seeds, ten tasks."""
    scores = scores_of(seed)
    best, start = best_value(scores), value_of(ROOT.repeat(STATES, 1), scores)
    found = value_of(train(scores, seed), scores)
    assert start < best
    assert found <= best + 1e-9  # no policy is better than the best
    assert best - found < 0.1 * (best - start)


def test_the_optimum_itself_has_the_value_that_dynamic_programming_says():
    scores = scores_of(0)
    second = BETA * torch.logsumexp(ROOT + scores / BETA, dim=1)
    logits = torch.cat([(ROOT + second / BETA)[None], ROOT + scores / BETA])
    assert value_of(logits, scores) == pytest.approx(best_value(scores), abs=1e-12)
