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
from ppo_lib.book.explorers.optima import optimum
from ppo_lib.book.explorers.preferences import pair
from ppo_lib.formulas.grpo import group_advantages
from ppo_lib.formulas.kl import AdaptiveKL, kl_estimate


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


def rows_of(one, **setting):
    return {row[0]: row[1:] for row in one.frame(**setting).rows}


@pytest.mark.parametrize("tokens", [1.0, 100.0])
def test_the_mean_over_more_tokens_strays_less(tokens):
    strays = float(rows_of(explorers.kl_noise(), distance=1.0, tokens=tokens)["k1"][1])
    assert strays == pytest.approx(moments(1.0, "k1")[1] / math.sqrt(tokens), rel=1e-3)


@pytest.mark.parametrize("chance", [0.1, 0.7])
def test_what_a_right_answer_is_worth_on_average_is_that_of_many_groups(chance):
    scores = torch.bernoulli(torch.full((40_000, 4), chance), generator=torch.Generator().manual_seed(0)).double()
    advantages = group_advantages(scores.flatten(), 4).view(-1, 4)
    met = float(rows_of(explorers.group_size(), chance=chance, size=4.0)["advantage of a right answer, on average"][0])
    assert met == pytest.approx(float(advantages[scores == 1].mean()), abs=0.02)


def test_the_drift_goes_its_part_of_the_way_that_a_fixed_beta_asks_for(monkeypatch):
    seen = []
    update = AdaptiveKL.update
    monkeypatch.setattr(
        AdaptiveKL, "update", lambda self, kl, n: seen.append((self.beta, kl, n)) or update(self, kl, n)
    )
    drifts, betas = drift(0.5, 4.0)
    assert [(beta, kl, 1) for beta, kl in zip(betas, drifts, strict=True)] == seen
    assert drifts[0] == pytest.approx(0.15 * optimum(0.1)[2])
    assert drifts[1] == pytest.approx(drifts[0] + 0.15 * (optimum(betas[1])[2] - drifts[0]))


def test_the_probability_of_a_pair_is_that_of_its_loss():
    rows = rows_of(explorers.dpo_beta(), beta=0.2, gap=4.0)
    assert float(rows["probability that it gives the chosen answer"][0]) == pytest.approx(
        math.exp(-pair(4.0, 0.2)[0]), rel=1e-3
    )


@pytest.mark.parametrize(("beta", "gap"), [(0.1, 0.0), (0.3, 8.0), (1.0, -4.0)])
def test_the_pull_of_a_pair_is_the_slope_of_its_loss(beta, gap):
    step = 1e-5
    slope = (pair(gap + step, beta)[0] - pair(gap - step, beta)[0]) / (2 * step)
    assert pair(gap, beta)[1] == pytest.approx(slope, rel=1e-6)
    (pull,) = (one for one in explorers.dpo_beta().frame(beta=beta).curves if one.name == "pull on the gap")
    assert 0 <= min(pull.y) < beta / 2 < max(pull.y) <= beta
    enough = float(re.search(r"gained ([\d.]+) nats", explorers.dpo_beta().frame(beta=beta).sentence)[1])
    assert -pair(enough, beta)[1] == pytest.approx(beta / 10, rel=0.02)


def test_what_fits_a_card_is_said_to_fit_and_remedies_are_of_what_is_too_large():
    explorer, said = explorers.memory_plan(), set()
    for setting in explorer.settings():
        frame = explorer.frame(**setting)
        rows = {name: float(text.split()[0]) for name, text in frame.rows if name != "precision"}
        room = float(str(setting["card"]).split()[1])
        resident = rows["weights"] + rows["adapters"] + rows["optimizer"]
        rollout = resident + rows["cache"] + rows["sampling"] + rows["merged"]
        update = resident + rows["gradients"] + rows["activations"] + rows["logits"]
        assert rows["at most"] == pytest.approx(max(rollout, update), abs=0.05)
        verdict = frame.sentence.split(":")[0]
        said.add(verdict)
        if abs(rows["at most"] - room) > 0.05:  # beyond the rounding of the table
            assert verdict == ("It fits" if rows["at most"] < room else "It does not fit"), setting
        if verdict == "It does not fit" and resident < room:
            assert ("the update holds" in frame.sentence) == (update > rollout)
        largest = frame.sentence.rpartition("then is ")[2].split(",")[0]
        held = {name: rows[name] for name in rows if name not in ("at most", largest)}
        apart = ("cache", "sampling", "merged") if update > rollout else ("gradients", "activations", "logits")
        assert all(rows[largest] >= value - 0.01 for name, value in held.items() if name not in apart)
    assert said == {"It fits", "It does not fit"}
