"""GRPO: advantages and weights by hand, the gradient by enumerating every group, and a trainer that has no critic."""

import itertools
import math
import warnings

import pytest
import torch
from tiny import (
    GARBAGE,
    MANY_EOS,
    PROMPTS,
    check_equal_updates,
    check_goes_on,
    copies,
    count_vowels,
    length,
    only_these_move,
    plain,
    ragged,
    randomise,
)

from ppo_lib.formulas.grpo import group_advantages, grpo_loss, token_weights
from ppo_lib.formulas.kl import kl_estimate
from ppo_lib.formulas.losses import clipped_policy_loss
from ppo_lib.formulas.masking import masked_mean
from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.trainers.configuration import ConfigError, GRPOConfig
from ppo_lib.trainers.grpo import GRPOTrainer


def vector(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


# ------------------------------------------------------------------------------------------------ group advantages


def test_advantages_by_hand_and_of_their_own_group_only():
    scores = vector(1, 2, 3, 6, 10, 10, 10, 30)  # means 3 and 15, unbiased variances 14/3 and 100
    plain = group_advantages(scores, 4, "none")
    assert plain.tolist() == pytest.approx([-2, -1, 0, 3, -5, -5, -5, 15])
    scaled = group_advantages(scores, 4, "group")
    std = math.sqrt(14 / 3) + 1e-4
    assert scaled.tolist() == pytest.approx([-2 / std, -1 / std, 0, 3 / std, *([-5 / 10.0001] * 3), 15 / 10.0001])
    other = scores.clone()
    other[4:] *= 7
    assert torch.equal(group_advantages(other, 4, "none")[:4], plain[:4])


@pytest.mark.parametrize("scale", ["group", "none"])
def test_a_group_without_spread_teaches_nothing_also_where_the_mean_rounds(scale):
    scores = torch.tensor([0.1] * 7 + [0.3] * 6 + [0.7])  # float32: the mean of seven times 0.1 is not 0.1
    advantages = group_advantages(scores, 7, scale)
    assert advantages[:7].tolist() == [0.0] * 7
    assert advantages[13] > 0


def test_the_group_mean_is_the_leave_one_out_baseline_up_to_a_constant():
    scores = vector(0.3, -1.2, 2.0, 0.4, 0.9)
    others = [(scores.sum() - scores[i]) / 4 for i in range(5)]
    expected = (scores - torch.stack(others)) * 4 / 5
    torch.testing.assert_close(group_advantages(scores, 5, "none"), expected)


# ---------------------------------------------------------------------------------------------------------- weights


def test_weights_by_hand():
    mask = torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 0]])
    assert token_weights(mask, "response").tolist() == [
        pytest.approx([1 / 2, 0, 0, 0]),
        pytest.approx([1 / 6, 1 / 6, 1 / 6, 0]),
    ]
    assert token_weights(mask, "token").sum(1).tolist() == pytest.approx([1 / 4, 3 / 4])
    assert token_weights(mask, "budget", 5).sum(1).tolist() == pytest.approx([1 / 10, 3 / 10])
    assert token_weights(mask, "budget", 1).sum(1).tolist() == pytest.approx([1 / 2, 3 / 2])


# --------------------------------------------------------------------------------------------------------- the loss


def test_the_loss_by_hand():
    """Ratios 1.5 and 0.5 against a clip of 0.2, one good response of one token and a bad one of two."""
    old = torch.full((2, 2), -1.0, dtype=torch.float64)
    logprobs = (old + torch.tensor([[1.5, 1.0], [0.5, 0.9]], dtype=torch.float64).log()).requires_grad_()
    reference = old - torch.tensor([[0.2, 0.0], [0.0, 0.0]], dtype=torch.float64)
    mask, advantages = torch.tensor([[1.0, 0], [1, 1]]), vector(2, -1)
    weights = token_weights(mask, "response")
    out = grpo_loss(logprobs, old, reference, advantages, mask, weights, 0.2, beta=0.5)

    def k3(ratio, shift):
        d = math.log(ratio) + shift
        return math.exp(-d) - 1 + d

    first = -1.2 * 2 + 0.5 * k3(1.5, 0.2)  # clipped
    second = 0.8 + 0.5 * k3(0.5, 0)  # clipped: the bad token has fallen far enough
    third = 0.9 + 0.5 * k3(0.9, 0)
    assert out.loss.item() == pytest.approx(first / 2 + (second + third) / 4)
    out.loss.backward()
    slope = 0.9 / 4 + 0.5 / 4 * (1 - 1 / 0.9)  # of the third, the only one that the clip leaves alone
    assert logprobs.grad[1, 1].item() == pytest.approx(slope)
    assert logprobs.grad[0, 1] == 0
    assert out.clip_fraction.item() == pytest.approx(2 / 3)


def test_with_token_weights_it_is_ppos_loss_plus_the_mean_kl():
    (logprobs, mask), (old, _), (reference, _) = (ragged(seed, rows=5) for seed in (1, 2, 3))
    advantages = vector(0.5, -1, 2, 0.1, -0.3)
    out = grpo_loss(
        logprobs, old, reference, advantages, mask, token_weights(mask, "token"), 0.2, beta=0.3, kl_estimator="k2"
    )
    ppo = clipped_policy_loss(logprobs, old, advantages.unsqueeze(1).expand_as(mask), mask, 0.2)
    kl = masked_mean(kl_estimate(logprobs, reference, "k2"), mask)
    torch.testing.assert_close(out.loss, ppo.loss + 0.3 * kl)
    torch.testing.assert_close(out.clip_fraction, ppo.clip_fraction)


def test_by_default_the_clip_is_two_tenths_and_the_reference_is_not_looked_at():
    (logprobs, mask), (old, _) = (ragged(seed, rows=5) for seed in (1, 2))
    given = vector(0.5, -1, 2, 0.1, -0.3), mask, token_weights(mask)
    nothing = torch.full_like(old, math.nan)
    default = grpo_loss(logprobs, old, nothing, *given)
    torch.testing.assert_close(default.loss, grpo_loss(logprobs, old, old, *given, epsilon=0.2, beta=0.0).loss)
    assert default.loss != grpo_loss(logprobs, old, old, *given, epsilon=0.5).loss


def test_losses_of_microbatches_add_up_to_the_loss_of_the_whole():
    (logprobs, mask), (old, _), (reference, _) = (ragged(seed, rows=6) for seed in (1, 2, 3))
    advantages, weights = torch.randn(6, dtype=torch.float64), token_weights(mask)
    tensors = (logprobs, old, reference, advantages, mask, weights)
    whole = grpo_loss(*tensors, beta=0.2).loss
    parts = [grpo_loss(*(x[i : i + 2] for x in tensors), beta=0.2).loss for i in (0, 2, 4)]
    torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize("garbage", GARBAGE)
def test_padding_changes_neither_loss_nor_gradient(garbage):
    (logprobs, mask), (old, _), (reference, _) = (ragged(seed, rows=4) for seed in (1, 2, 3))
    results = []
    for filler in (0.0, garbage):
        x, *others = (torch.where(mask.bool(), each, filler) for each in (logprobs, old, reference))
        x.requires_grad_()
        out = grpo_loss(x, *others, vector(1, -1, 2, 0), mask, token_weights(mask), beta=0.3)
        results.append((out.loss.detach(), torch.autograd.grad(out.loss, x)[0]))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


# ----------------------------------------------------------------------------- what it climbs, by enumerating groups

# Tokens a, b and the end; at most three of them. A policy has one row of logits for each of the seven prefixes.
PREFIXES = ["", "a", "b", "aa", "ab", "ba", "bb"]
RESPONSES = ["e", "ae", "be", *(x + y + z for x, y, z in itertools.product("ab", "ab", "abe"))]
SCORES = vector(*(2.0 * ("b" in y) - 0.4 * len(y) + (y == "e") for y in RESPONSES))


def tables(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs of every response's tokens ``(15, 3)``, and their mask."""
    logp = torch.log_softmax(logits, dim=-1)
    rows = []
    for y in RESPONSES:
        tokens = [logp[PREFIXES.index(y[:t]), "abe".index(y[t])] for t in range(len(y))]
        rows.append(torch.stack(tokens + [torch.zeros((), dtype=torch.float64)] * (3 - len(y))))
    return torch.stack(rows), torch.tensor([[float(t < len(y)) for t in range(3)] for y in RESPONSES])


def expected_gradient(scale: str, average: str) -> tuple[torch.Tensor, torch.Tensor]:
    """GRPO's gradient, averaged over all 225 groups of two with their probabilities, and that of the mean score."""
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64, requires_grad=True)
    logprobs, mask = tables(logits)
    chance = logprobs.sum(dim=1).exp()
    assert float(chance.detach().sum()) == pytest.approx(1)
    total = torch.zeros((), dtype=torch.float64)
    for i, j in itertools.product(range(15), repeat=2):
        pair = [i, j]
        advantages = group_advantages(SCORES[pair], 2, scale)
        old = logprobs[pair].detach()
        weights = token_weights(mask[pair], average, budget=3).double()
        loss = grpo_loss(logprobs[pair], old, old, advantages, mask[pair], weights).loss
        total = total + float(chance[i] * chance[j]) * loss
    (climbed,) = torch.autograd.grad(-total, logits, retain_graph=True)
    (true,) = torch.autograd.grad(chance @ SCORES, logits)
    return climbed.flatten(), true.flatten()


def test_without_its_two_biases_it_climbs_the_mean_score_by_half_with_groups_of_two():
    """E[sum_i (r_i - mean) grad log pi(y_i)] / G = (1 - 1/G) grad E[r]; the rest is the constant 1 / budget."""
    climbed, true = expected_gradient("none", "budget")
    torch.testing.assert_close(climbed, true * (1 - 1 / 2) / 3)


@pytest.mark.parametrize(("scale", "average"), [("none", "response"), ("none", "token"), ("group", "budget")])
def test_each_bias_turns_the_gradient_away(scale, average):
    climbed, true = expected_gradient(scale, average)
    cosine = float(torch.cosine_similarity(climbed, true, dim=0))
    assert 0.3 < cosine < 0.995


def test_dividing_by_the_deviation_weighs_a_prompt_that_is_nearly_solved_more():
    """One token, right with probability p: the expected gradient with respect to its logit, over all groups of 16.

    Without the division it is (1 - 1/16) p (1 - p); with it, in the limit of large groups, the root of p (1 - p).
    """

    def gradient(p: float, scale: str) -> float:
        total = 0.0
        for k in range(17):
            hits = vector(*[1.0] * k, *[0.0] * (16 - k))
            chance = math.comb(16, k) * p**k * (1 - p) ** (16 - k)
            total += chance * float((group_advantages(hits, 16, scale) * (hits - p)).mean())
        return total

    even, easy = gradient(0.5, "none"), gradient(0.95, "none")
    assert (even, easy) == (pytest.approx(15 / 16 * 0.25), pytest.approx(15 / 16 * 0.0475))
    assert gradient(0.95, "group") / gradient(0.5, "group") > 1.5 * easy / even


# ------------------------------------------------------------------------------------------------------ the trainer

SMALL = {
    "rollout_batch": 12,
    "minibatch": 6,
    "microbatch": 6,
    "group_size": 4,
    "epochs": 2,
    "max_new_tokens": 9,
    "learning_rate": 1e-2,
    "lora_rank": 4,
    "iterations": 8,
}


@pytest.fixture
def build(build_tiny):
    def make(dtype="float32", reward=length, fresh=False, **options) -> GRPOTrainer:
        policy = ActorCritic(build_tiny(dtype=dtype, eos=MANY_EOS), lora_rank=4)
        if not fresh:
            randomise(policy.backbone.adapter_parameters("policy"), scale=0.2)
        return GRPOTrainer(GRPOConfig(**{**SMALL, **options}), policy, PROMPTS, reward)

    return make


def test_a_step_answers_each_prompt_as_often_as_the_group_is_large_and_learns_from_the_differences(build):
    seen = []

    def reward(prompts, responses):
        seen.append((prompts, responses))
        return length(prompts, responses)

    trainer = build(reward=reward, missing_eos_penalty=0.7)
    spied = []
    update = trainer.update
    trainer.update = lambda experience, advantages: (
        spied.append((experience, advantages)) or update(experience, advantages)
    )
    metrics = trainer.step()
    prompts, responses = seen[0]
    assert [prompts[i] for i in (0, 4, 8)] == [p for p, _ in itertools.groupby(prompts)]
    assert len(set(responses)) > 6
    experience, advantages = spied[0]
    scores = torch.tensor(length(prompts, responses)) - 0.7 * ~experience.finished
    torch.testing.assert_close(advantages, group_advantages(scores, 4))
    assert metrics["score_mean"] == pytest.approx(sum(length(prompts, responses)) / 12)  # as judged, not as charged
    assert "explained_variance" not in metrics
    assert metrics["ratio_first_error"] == 0.0


@pytest.mark.parametrize("average", ["response", "token", "budget"])
def test_microbatches_of_like_length_give_the_same_update_and_no_false_alarm(build, average):
    after = []
    for microbatch in (6, 2):
        trainer = build("float64", microbatch=microbatch, average=average)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # "the ratio of the first minibatch is off"
            metrics = trainer.step()
        assert metrics["ratio_first_error"] == 0.0
        after.append((plain(metrics), copies(trainer.ppo.optimizer.parameters)))
    check_equal_updates(after)


def test_the_kl_stands_in_the_loss_or_in_the_reward(build):
    inside = build(beta=0.3, kl_in="reward", kl_estimator="k1")
    experience = inside.ppo.collect(range(7))
    kl = ((experience.logprobs - experience.ref_logprobs) * experience.batch.mask).sum(dim=1)
    torch.testing.assert_close(experience.rewards.sum(dim=1), experience.scores - 0.3 * kl)
    for kl_in, strength in (("reward", 0.0), ("loss", 0.3)):
        trainer = build(beta=0.3, kl_in=kl_in, kl_estimator="k2")
        e = trainer.ppo.collect(range(6))
        weights = token_weights(e.batch.mask, "response")
        out = trainer.loss(e, torch.zeros(6), torch.arange(6), weights)
        expected = strength * (weights * kl_estimate(e.logprobs, e.ref_logprobs, "k2")).sum()
        torch.testing.assert_close(out.loss, expected)


def test_the_loss_is_that_of_the_policy_at_the_temperature_and_of_these_rows(build):
    trainer = build(temperature=0.7, dtype="float64")
    e = trainer.ppo.collect(range(7))
    randomise(trainer.policy.backbone.adapter_parameters("policy"), seed=1, scale=0.2)
    rows, advantages = torch.tensor([5, 1, 2]), torch.linspace(-1, 1, 7, dtype=torch.float64)
    weights = token_weights(e.batch.mask[rows], "response")
    out = trainer.loss(e, advantages, rows, weights)
    with torch.no_grad():
        logp = torch.log_softmax(trainer.policy(e.batch, 0.7).logits, -1)
    logprobs = logp.gather(-1, e.batch.responses.unsqueeze(-1)).squeeze(-1)[rows]
    expected = grpo_loss(
        logprobs, e.logprobs[rows], e.ref_logprobs[rows], advantages[rows], e.batch.mask[rows], weights, 0.2, 0.1
    )
    torch.testing.assert_close(out.loss, expected.loss)


@pytest.mark.parametrize("average", ["response", "token", "budget"])
def test_one_two_and_six_microbatches_give_one_update(build, average):
    after = []
    for microbatch in (6, 3, 1):
        trainer = build(dtype="float64", microbatch=microbatch, average=average)
        after.append((plain(trainer.step()), copies(trainer.ppo.optimizer.parameters)))
    check_equal_updates(after)


def test_equal_scores_move_nothing_and_are_counted(build):
    trainer = build(reward=lambda prompts, responses: [1.0] * len(prompts), beta=0.0)
    before = copies(trainer.ppo.optimizer.parameters)
    metrics = trainer.step()
    assert metrics["silent_groups"] == 1.0
    assert all(torch.equal(a, b) for a, b in zip(trainer.ppo.optimizer.parameters, before, strict=True))


def test_it_learns_with_neither_critic_nor_backbone_moving(build):
    options = {"rollout_batch": 32, "minibatch": 16, "microbatch": 16, "epochs": 2, "beta": 0.0, "fresh": True}
    trainer = build(reward=count_vowels, **options)
    with only_these_move(trainer.policy.backbone.adapter_parameters("policy"), trainer.policy):
        scores = [trainer.step()["score_mean"] for _ in range(12)]
    assert sum(scores[-3:]) > sum(scores[:3]) + 1.5


def test_it_goes_on_bit_for_bit_where_it_was_stopped(build):
    check_goes_on(build(), build(fresh=True), 2, 2)


# -------------------------------------------------------------------------------------------------------- refusals


def test_refusals_of_the_functions():
    with pytest.raises(ValueError, match="group_size is 1, but must be 2 or more"):
        group_advantages(vector(1, 2), 1)
    with pytest.raises(ValueError, match=r"scores has shape \(3,\), but must be \(B,\), B a multiple of 2"):
        group_advantages(vector(1, 2, 3), 2)
    for scores in (vector(), vector(1, 2).view(2, 1)):
        with pytest.raises(ValueError, match=r"scores has shape .* but must be \(B,\), B a multiple of 2"):
            group_advantages(scores, 2)
    with pytest.raises(ValueError, match="scale is 'batch', but must be one of group, none"):
        group_advantages(vector(1, 2), 2, "batch")
    with pytest.raises(ValueError, match="scores is NaN or infinite"):
        group_advantages(vector(1, math.nan), 2)
    mask = torch.ones(2, 3)
    with pytest.raises(ValueError, match="average is 'mean', but must be one of response, token, budget"):
        token_weights(mask, "mean")
    with pytest.raises(ValueError, match="budget is None, but must be the longest response"):
        token_weights(mask, "budget")
    with pytest.raises(ValueError, match="budget is 0, but must be the longest response"):
        token_weights(mask, "budget", 0)
    with pytest.raises(ValueError, match="mask row 1 counts no token"):
        token_weights(torch.tensor([[1.0, 1], [0, 0], [0, 0]]))
    x = torch.zeros(2, 3, dtype=torch.float64)
    good = {"advantages": vector(1, -1), "mask": mask, "weights": token_weights(mask).double()}
    for change, words in (
        ({"advantages": x}, r"advantages has shape \(2, 3\), but must be \(B,\) = \(2,\)"),
        ({"weights": -good["weights"]}, "weights holds a negative number"),
        ({"beta": -0.1}, "beta is -0.1, but must be 0 or more"),
        ({"epsilon": -0.1}, "epsilon is -0.1"),
        ({"beta": 0.1, "kl_estimator": "k4"}, "kind is 'k4'"),
    ):
        with pytest.raises(ValueError, match=words):
            grpo_loss(x, x, x, **{**good, **change})


def test_refusals_of_the_configuration():
    for options, words in (
        ({"group_size": 1}, "group_size is 1"),
        ({"group_size": 7}, "group_size is 7, but must divide rollout_batch, which is 64"),
        ({"minibatch": 24}, "minibatch is 24, but must divide rollout_batch"),
        ({"microbatch": 64}, "microbatch is 64, but must be at most minibatch"),
        ({"kl_estimator": "k1"}, "kl_estimator is k1, whose gradient is zero on average"),
        ({"scale": "batch"}, "scale is"),
        ({"average": "mean"}, "average is"),
    ):
        with pytest.raises(ConfigError, match=words):
            GRPOConfig(**options)
