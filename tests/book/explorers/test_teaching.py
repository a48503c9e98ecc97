"""Explorers that compute a lesson of their own: what they say is true."""

import math
import re

import pytest
import torch

from ppo_lib.book import explorers
from ppo_lib.book.explorers.controllers import ITERATIONS, NEAR, drift, settled
from ppo_lib.book.explorers.distances import policies
from ppo_lib.book.explorers.estimators import exact, moments
from ppo_lib.book.explorers.groups import advantage_of_right
from ppo_lib.book.explorers.preferences import pair
from ppo_lib.formulas.kl import kl_estimate


def test_a_controller_reaches_its_target_and_a_slower_one_overshoots_more():
    peaks = []
    for batches in (1.0, 4.0, 16.0):
        drifts, betas = drift(1.0, batches)
        assert betas[-1] > betas[0]
        peaks.append(max(drifts))
    assert peaks == sorted(peaks)
    drifts, _ = drift(1.0, 4.0)
    since = settled(drifts, 1.0)
    assert all(abs(kl - 1) <= NEAR for kl in drifts[since - 1 :])
    assert abs(drifts[since - 2] - 1) > NEAR
    assert settled([1.0] * (ITERATIONS - 1) + [2.0], 1.0) is None
    assert settled([1.0] * ITERATIONS, 1.0) == 1


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_means_and_spreads_of_the_estimates_are_those_of_a_large_sample(kind):
    reference, policy = policies(1.5)
    drawn = torch.multinomial(policy.exp(), 200_000, replacement=True, generator=torch.Generator().manual_seed(0))
    sample = kl_estimate(policy[drawn].view(1, -1), reference[drawn].view(1, -1), kind)
    mean, spread = moments(1.5, kind)
    assert mean == pytest.approx(float(sample.mean()), abs=5 * spread / math.sqrt(200_000))
    assert spread == pytest.approx(float(sample.std()), rel=0.02)
    if kind != "k2":
        assert mean == pytest.approx(exact(1.5), rel=1e-12)


def test_a_group_of_one_kind_teaches_nothing_and_its_chance_is_counted():
    assert advantage_of_right(4, 4, "group") == 0
    assert advantage_of_right(1, 4, "none") == pytest.approx(0.75)
    assert advantage_of_right(1, 4, "group") == pytest.approx(1.5, abs=1e-3)
    said = explorers.group_size().frame(chance=0.5, size=4.0).sentence
    assert "Of 100 groups of 4 answers, 12 are" in said or "Of 100 groups of 4 answers, 13 are" in said


@pytest.mark.parametrize(("beta", "gap"), [(0.1, 0.0), (0.3, 8.0), (1.0, -4.0)])
def test_the_pull_of_a_pair_is_the_slope_of_its_loss(beta, gap):
    step = 1e-5
    slope = (pair(gap + step, beta)[0] - pair(gap - step, beta)[0]) / (2 * step)
    assert pair(gap, beta)[1] == pytest.approx(slope, rel=1e-6)
    enough = float(re.search(r"gained ([\d.]+) nats", explorers.dpo_beta().frame(beta=beta).sentence)[1])
    assert -pair(enough, beta)[1] == pytest.approx(beta / 10, rel=0.02)
