"""The losses: worked examples to the digit, gradients by hand, by autograd and by finite differences."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import GARBAGE, ragged
from torch import Tensor

from ppo_lib.formulas.losses import (
    MAX_LOG_RATIO,
    bradley_terry_loss,
    clipped_policy_loss,
    entropy,
    policy_gradient_loss,
    ppo_loss,
    sft_loss,
    value_loss,
)
from ppo_lib.formulas.masking import masked_mean

ONE = torch.ones(1, 1)


def one(x: float) -> Tensor:
    return torch.tensor([[x]], dtype=torch.float64)


# --------------------------------------------------------------------------------------------- supervised fine-tuning


def test_sft_loss_scores_each_response_token_with_the_logits_before_it():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 7, dtype=torch.float64, generator=generator)
    labels = torch.tensor([[-100, -100, 3, 6, -100], [-100, 1, 2, 0, 4]])
    logp = torch.log_softmax(logits, dim=-1)
    by_hand = [logp[b, t - 1, labels[b, t]] for b in range(2) for t in range(1, 5) if labels[b, t] != -100]
    torch.testing.assert_close(sft_loss(logits, labels), -torch.stack(by_hand).mean())


def test_sft_loss_of_a_model_that_knows_nothing_is_log_v():
    assert sft_loss(torch.zeros(1, 3, 8), torch.tensor([[-100, 1, 2]])).item() == pytest.approx(math.log(8))


@pytest.mark.parametrize("garbage", GARBAGE)
def test_sft_loss_does_not_read_logits_that_score_no_response_token(garbage):
    labels = torch.tensor([[-100, -100, 3, 1, -100], [-100, 1, 2, -100, -100]])
    logits = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    unread = torch.ones(2, 5, 1, dtype=torch.bool)
    unread[0, 1:3] = unread[1, 0:2] = False
    results = []
    for filling in (0.0, garbage):
        leaf = logits.masked_fill(unread, filling).requires_grad_()
        loss = sft_loss(leaf, labels)
        loss.backward()
        results.append((loss.detach(), leaf.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize(
    ("logits", "labels", "words"),
    [
        (torch.zeros(2, 3, 4), torch.zeros(2, 4, dtype=torch.long), ["labels", "(2, 4)", "(2, 3, 4)", "(B, S)"]),
        (torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.long), ["logits", "(2, 3)", "(B, S, V)"]),
        (torch.zeros(2, 3, 4), torch.full((2, 3), -100), ["labels", "-100"]),
        (torch.zeros(1, 3, 4), torch.tensor([[2, -100, -100]]), ["labels", "after the first position"]),
    ],
)
def test_sft_loss_refuses(logits, labels, words):
    with pytest.raises(ValueError, match="labels") as error:
        sft_loss(logits, labels)
    assert all(word in str(error.value) for word in words), error.value


# ------------------------------------------------------------------------------------------------------ Bradley-Terry


def test_bradley_terry_gradient_by_hand():
    """dL/d chosen = -sigma(rejected - chosen) / N: the surprise; and its opposite for the rejected."""
    chosen = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64, requires_grad=True)
    loss = bradley_terry_loss(chosen, rejected)
    loss.backward()
    surprise = 1 / (1 + torch.exp((chosen - rejected).detach()))
    torch.testing.assert_close(chosen.grad, -surprise / 3)
    torch.testing.assert_close(rejected.grad, surprise / 3)
    torch.testing.assert_close(loss.detach(), torch.log1p(torch.exp((rejected - chosen).detach())).mean())


def test_bradley_terry_knows_nothing_at_first_and_stays_finite_at_the_end():
    assert bradley_terry_loss(torch.zeros(4), torch.zeros(4)).item() == pytest.approx(math.log(2))
    worst = bradley_terry_loss(torch.tensor([-1000.0]), torch.tensor([0.0]))
    assert worst == 1000.0
    assert torch.log(torch.sigmoid(torch.tensor(-1000.0))) == -math.inf  # what the documents' formula gives


@given(shift=st.floats(-100, 100))
def test_bradley_terry_sees_only_differences(shift):
    a, b = torch.tensor([0.3, 2.0], dtype=torch.float64), torch.tensor([1.0, -1.0], dtype=torch.float64)
    torch.testing.assert_close(bradley_terry_loss(a + shift, b + shift), bradley_terry_loss(a, b))


def test_a_margin_asks_for_more():
    a, b, m = torch.tensor([2.0]), torch.tensor([1.0]), torch.tensor([0.5])
    assert bradley_terry_loss(a, b, m) == bradley_terry_loss(a - m, b) > bradley_terry_loss(a, b)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((torch.zeros(2), torch.zeros(3)), ["chosen", "(2,)", "rejected", "(3,)", "(N,)"]),
        ((torch.zeros(2, 1), torch.zeros(2, 1)), ["(2, 1)", "(N,)"]),
        ((torch.zeros(0), torch.zeros(0)), ["(0,)", "N > 0"]),
        ((torch.zeros(2), torch.zeros(2), torch.zeros(1)), ["margin", "(1,)", "(2,)"]),
        ((torch.tensor([math.nan]), torch.zeros(1)), ["NaN"]),
    ],
)
def test_bradley_terry_refuses(arguments, words):
    with pytest.raises(ValueError, match=r"chosen|margin") as error:
        bradley_terry_loss(*arguments)
    assert all(word in str(error.value) for word in words), error.value


# ----------------------------------------------------------------------------------------------------- policy gradient


def test_policy_gradient_is_the_gradient_of_the_expected_reward():
    """Enumerated over all actions, E[-A grad log pi] equals finite differences of -E[A], to float64's accuracy."""
    rewards = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    theta = torch.tensor([0.1, -0.3, 0.7, 0.0], dtype=torch.float64, requires_grad=True)

    def expected(logits: Tensor) -> Tensor:
        return (torch.softmax(logits, dim=0) * rewards).sum()

    logp = torch.log_softmax(theta, dim=0)
    losses = [policy_gradient_loss(logp[a].view(1, 1), rewards[a].view(1, 1), ONE) for a in range(4)]
    sum(p * loss for p, loss in zip(logp.detach().exp(), losses, strict=True)).backward()
    step = 1e-6
    differences = [
        (expected(theta.detach() + e) - expected(theta.detach() - e)) / (2 * step)
        for e in step * torch.eye(4, dtype=torch.float64)
    ]
    torch.testing.assert_close(-theta.grad, torch.stack(differences), atol=1e-9, rtol=1e-7)


def test_policy_gradient_and_the_ratio_have_one_gradient_at_the_old_policy_and_the_probability_another():
    advantages, mask = ragged(0)
    old = ragged(1)[0] - 2
    grads = {}
    for name in ("log", "ratio", "probability"):
        logprobs = old.clone().requires_grad_()
        loss = {
            "log": lambda x: policy_gradient_loss(x, advantages, mask),
            "ratio": lambda x: clipped_policy_loss(x, old, advantages, mask).loss,
            "probability": lambda x: -masked_mean(x.exp() * advantages, mask),
        }[name](logprobs)
        loss.backward()
        grads[name] = logprobs.grad
    torch.testing.assert_close(grads["log"], grads["ratio"])
    assert not torch.allclose(grads["log"], grads["probability"])


# ------------------------------------------------------------------------------------------------------ clipped policy


@pytest.mark.parametrize("loss", ["policy_gradient", "clipped"])
def test_advantages_are_numbers_no_gradient_flows_through_them(loss):
    logprobs, advantages = one(-0.3).requires_grad_(), one(2.0).requires_grad_()
    if loss == "policy_gradient":
        policy_gradient_loss(logprobs, advantages, ONE).backward()
    else:
        clipped_policy_loss(logprobs, one(-0.4), advantages, ONE).loss.backward()
    assert logprobs.grad is not None
    assert advantages.grad is None


@pytest.mark.parametrize(
    ("advantage", "ratio", "loss", "flows"),
    [
        pytest.param(2.0, 1.1, -2.2, True, id="A"),
        pytest.param(2.0, 1.5, -2.4, False, id="B"),
        pytest.param(-2.0, 0.9, 1.8, True, id="C"),
        pytest.param(-2.0, 0.5, 1.6, False, id="D"),
        pytest.param(2.0, 0.5, -1.0, True, id="E"),
        pytest.param(-2.0, 1.5, 3.0, True, id="F"),
    ],
)
def test_the_six_cases_of_clipping(advantage, ratio, loss, flows):
    """Where the gradient flows, d loss / d log pi = -rho A; where it does not, exactly 0."""
    logprobs = one(math.log(ratio)).requires_grad_()
    result = clipped_policy_loss(logprobs, one(0.0), one(advantage), ONE, epsilon=0.2)
    result.loss.backward()
    assert result.loss.item() == pytest.approx(loss, abs=1e-12)
    assert logprobs.grad.item() == pytest.approx(-ratio * advantage if flows else 0.0, abs=1e-12)
    assert result.ratio.item() == pytest.approx(ratio)
    assert result.clip_fraction.item() == (0.0 if flows else 1.0)
    assert not result.ratio.requires_grad


def test_clipped_loss_of_a_batch_is_the_mean_over_its_tokens():
    ratios, advantages = torch.tensor([[1.1, 1.5, 0.9]] * 2), torch.tensor([[2.0, 2.0, -2.0]] * 2)
    mask = torch.tensor([[1.0, 1, 1], [1, 0, 0]])
    result = clipped_policy_loss(ratios.log(), torch.zeros(2, 3), advantages, mask)
    assert result.loss.item() == pytest.approx((-2.2 - 2.4 + 1.8 - 2.2) / 4)
    assert result.clip_fraction.item() == pytest.approx(1 / 4)


def test_approx_kl_is_the_expectation_of_rho_minus_1_minus_log_rho():
    x, mask = ragged(4)
    old, _ = ragged(5)
    expected = masked_mean((x - old).exp() - 1 - (x - old), mask)
    torch.testing.assert_close(clipped_policy_loss(x, old, x, mask).approx_kl, expected)
    assert clipped_policy_loss(x, x, x, mask).approx_kl == 0


def test_nothing_is_clipped_at_the_old_policy_or_with_an_infinite_epsilon():
    x, mask = ragged(6)
    advantages, _ = ragged(7)
    same = clipped_policy_loss(x, x, advantages, mask, epsilon=0.0)
    assert torch.equal(same.ratio, torch.ones_like(x))
    torch.testing.assert_close(same.loss, -masked_mean(advantages, mask))
    far = clipped_policy_loss(3 * x, x, advantages, mask, epsilon=math.inf)
    torch.testing.assert_close(far.loss, -masked_mean((2 * x).exp() * advantages, mask))
    assert far.clip_fraction == 0


@settings(max_examples=60)
@given(log_ratio=st.floats(-4, 4), advantage=st.floats(-5, 5), epsilon=st.floats(0, 0.9))
def test_the_clipped_objective_never_exceeds_the_unclipped_one(log_ratio, advantage, epsilon):
    clipped = clipped_policy_loss(one(log_ratio), one(0.0), one(advantage), ONE, epsilon)
    unclipped = clipped_policy_loss(one(log_ratio), one(0.0), one(advantage), ONE, math.inf)
    assert clipped.loss >= unclipped.loss  # objective = -loss
    assert -clipped.loss <= max(1 + epsilon, 0) * abs(advantage) + 1e-9


@pytest.mark.parametrize(
    ("advantage", "ratio", "loss", "flows"),
    [(-2.0, 5.0, 6.0, False), (-2.0, 2.0, 4.0, True), (2.0, 5.0, -2.4, False), (-2.0, 0.5, 1.6, False)],
)
def test_dual_clip_bounds_only_bad_tokens_that_got_likelier(advantage, ratio, loss, flows):
    logprobs = one(math.log(ratio)).requires_grad_()
    result = clipped_policy_loss(logprobs, one(0.0), one(advantage), ONE, 0.2, dual_clip=3.0)
    result.loss.backward()
    assert result.loss.item() == pytest.approx(loss)
    assert (logprobs.grad.item() != 0) == flows
    assert result.clip_fraction == (0 if flows else 1)  # it counts what either clip has cut off


@pytest.mark.parametrize("log_ratio", [-1000.0, -100.0, 100.0, 1000.0])
@pytest.mark.parametrize("advantage", [-1.0, 1.0])
def test_far_away_ratios_stay_finite_with_finite_gradients(log_ratio, advantage):
    logprobs = torch.tensor([[log_ratio]], requires_grad=True)  # float32, whose exp overflows from 88.8 on
    result = clipped_policy_loss(logprobs, torch.zeros(1, 1), torch.tensor([[advantage]]), ONE)
    result.loss.backward()
    assert torch.isfinite(result.loss)
    assert torch.isfinite(logprobs.grad).all()
    assert result.ratio <= math.exp(MAX_LOG_RATIO) * 1.001


# --------------------------------------------------------------------------------------------------------------- value


@pytest.mark.parametrize(("advantage", "objective"), [(0.5, 0.6), (-0.5, -1.5), (2.0, 2.4), (-2.0, -6.0)])
def test_dual_clip_bounds_what_a_bad_token_costs_and_no_good_one(advantage, objective):
    """Ratio 5, clip 0.2, dual clip 3."""
    result = clipped_policy_loss(one(math.log(5)), one(0.0), one(advantage), ONE, epsilon=0.2, dual_clip=3.0)
    assert -result.loss.item() == pytest.approx(objective)


def test_a_log_ratio_counts_as_20_at_most():
    result = clipped_policy_loss(one(25.0), one(0.0), one(-1.0), ONE)
    assert result.ratio.item() == pytest.approx(math.exp(20))
    assert clipped_policy_loss(one(0.0), one(25.0), one(1.0), ONE).ratio.item() == pytest.approx(math.exp(-20))


def test_the_value_clip_holds_a_prediction_near_that_of_the_rollout_on_either_side():
    """Five tokens, old value 1 and clip 0.2: far above, far below, within, and two worse unclipped."""
    values = torch.tensor([[3.0, -1.0, 1.1, 0.5, 2.0]], dtype=torch.float64, requires_grad=True)
    returns = torch.tensor([[3.0, -2.0, 2.0, 2.0, 0.0]], dtype=torch.float64)
    worse = [(1.2 - 3) ** 2, (0.8 + 2) ** 2, (1.1 - 2) ** 2, (0.5 - 2) ** 2, 2.0**2]
    loss = value_loss(values, returns, torch.ones(1, 5), torch.ones(1, 5, dtype=torch.float64), clip=0.2)
    assert loss.item() == pytest.approx(sum(worse) / 5)
    (grad,) = torch.autograd.grad(loss, values)
    assert grad[0].tolist() == pytest.approx([0, 0, 2 * (1.1 - 2) / 5, 2 * (0.5 - 2) / 5, 2 * 2 / 5])


def test_zero_is_a_value_clip_and_a_coefficient():
    still = value_loss(one(2.0), one(1.0), ONE, old_values=one(0.0), clip=0.0)
    assert still.item() == 1
    assert value_loss(one(0.5), one(1.0), ONE, old_values=one(0.0), clip=0.0).item() == 1
    assert ppo_loss(one(1.0), one(2.0), one(3.0), 0.0, 0.0).item() == 1


def test_value_loss_is_the_squared_error_without_one_half():
    values = torch.tensor([[1.0, 3.0]], requires_grad=True)
    loss = value_loss(values, torch.tensor([[0.0, 1.0]]), torch.ones(1, 2))
    loss.backward()
    assert loss.item() == 2.5  # (1 + 4) / 2
    assert values.grad.tolist() == [[1.0, 2.0]]  # 2 (V - R) / n


@pytest.mark.parametrize(
    ("value", "target", "loss", "gradient"),
    [
        (1.1, 2.0, 0.81, -1.8),  # within the clip: the plain error
        (1.5, 2.0, 0.64, 0.0),  # moved too far towards the target: the clipped error (1.2 - 2)^2, no gradient
        (0.5, 2.0, 2.25, -3.0),  # moved away from it: the plain error is the worse one and pulls back
        (2.5, 2.0, 0.64, 0.0),  # overshot: the clipped error is the worse one
        (3.5, 2.0, 2.25, 3.0),  # overshot so far that the plain error is the worse one
    ],
)
def test_value_clipping_takes_the_worse_of_two_errors(value, target, loss, gradient):
    values = one(value).requires_grad_()
    result = value_loss(values, one(target), ONE, old_values=one(1.0), clip=0.2)
    result.backward()
    assert result.item() == pytest.approx(loss)
    assert values.grad.item() == pytest.approx(gradient, abs=1e-12)


# ------------------------------------------------------------------------------------------------------------- entropy


def test_entropy_of_known_distributions():
    logits = torch.tensor([[[0.0] * 8, [0.0, *[-math.inf] * 7], [math.log(3), 0.0, *[-math.inf] * 6]]])
    expected = [math.log(8), 0.0, -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))]
    assert entropy(logits)[0].tolist() == pytest.approx(expected, abs=1e-6)


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), shift=st.floats(-50, 50))
def test_entropy_lies_between_0_and_log_v_and_ignores_shifts(seed, shift):
    logits = 3 * torch.randn(2, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    result = entropy(logits)
    assert (result >= 0).all()
    assert (result <= math.log(6) + 1e-12).all()
    torch.testing.assert_close(result, torch.distributions.Categorical(logits=logits).entropy())
    torch.testing.assert_close(result, entropy(logits + shift))


def test_forbidden_tokens_leave_the_gradient_of_entropy_finite():
    logits = torch.tensor([[[1.0, 2.0, -math.inf]]], dtype=torch.float64, requires_grad=True)
    entropy(logits).sum().backward()
    pair = torch.tensor([[[1.0, 2.0]]], dtype=torch.float64, requires_grad=True)
    entropy(pair).sum().backward()
    torch.testing.assert_close(logits.grad[..., :2], pair.grad)
    assert logits.grad[0, 0, 2] == 0


def test_entropy_needs_the_whole_distribution():
    """-sum p log p over the sampled tokens alone (the documents' formula) is another number."""
    logits = torch.log(torch.tensor([[[0.5, 0.25, 0.25]]]))
    sampled = torch.log_softmax(logits, dim=-1)[..., 0]
    assert -(sampled.exp() * sampled).item() == pytest.approx(0.3466, abs=1e-4)
    assert entropy(logits).item() == pytest.approx(1.0397, abs=1e-4)


# ----------------------------------------------------------------------------------------------------------- the total


def test_the_total_adds_the_critic_and_subtracts_entropy():
    p, v, s = (torch.tensor(x, requires_grad=True) for x in (1.0, 2.0, 3.0))
    total = ppo_loss(p, v, s, value_coef=0.5, entropy_coef=0.01)
    total.backward()
    assert total.item() == pytest.approx(1.0 + 0.5 * 2.0 - 0.01 * 3.0)
    assert (p.grad.item(), v.grad.item(), s.grad.item()) == pytest.approx((1.0, 0.5, -0.01))


def test_the_documents_signs_drive_the_critic_away():
    """Minimising policy_loss - c1 value_loss makes the error grow without bound; + c1 makes it vanish."""
    errors = {}
    for sign in (1, -1):
        value = torch.tensor([[0.5]], requires_grad=True)
        for _ in range(30):
            loss = sign * value_loss(value, torch.ones(1, 1), ONE)
            (gradient,) = torch.autograd.grad(loss, value)
            value = (value - 0.1 * gradient).detach().requires_grad_()
        errors[sign] = float((value - 1).detach().square())
    assert errors[1] < 1e-5
    assert errors[-1] > 1e3


# --------------------------------------------------------------------------------- what holds for all masked functions

MASKED = {
    "policy_gradient": lambda x, y, z, mask: policy_gradient_loss(x, y, mask),
    "clipped": lambda x, y, z, mask: clipped_policy_loss(x, y, z, mask).loss,
    "dual_clip": lambda x, y, z, mask: clipped_policy_loss(x, y, z, mask, dual_clip=2.0).loss,
    "value": lambda x, y, z, mask: value_loss(x, y, mask),
    "value_clip": lambda x, y, z, mask: value_loss(x, y, mask, old_values=z, clip=0.2),
}


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize("garbage", GARBAGE)
def test_padding_changes_no_result_and_no_gradient(name, garbage):
    mask = ragged(0)[1]
    results = []
    for filling in (0.0, garbage):
        leaf, *others = (ragged(seed)[0].masked_fill(mask == 0, filling) for seed in range(3))
        leaf.requires_grad_()
        loss = MASKED[name](leaf, *others, mask)
        loss.backward()
        results.append((loss.detach(), leaf.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert (results[1][1][mask == 0] == 0).all()


@pytest.mark.parametrize("garbage", GARBAGE)
def test_padding_reaches_no_gradient_of_the_mean_entropy(garbage):
    mask = ragged(0)[1]
    logits = torch.randn(*mask.shape, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    results = []
    for filling in (0.0, garbage):
        leaf = logits.masked_fill(mask.unsqueeze(-1) == 0, 0.0)
        leaf[..., 0] = leaf[..., 0].masked_fill(mask == 0, filling)  # one odd logit is enough to spoil a row
        leaf.requires_grad_()
        mean = masked_mean(entropy(leaf), mask)
        mean.backward()
        results.append((mean.detach(), leaf.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("name", ["policy_gradient", "clipped", "dual_clip", "value", "value_clip"])
def test_gradients_are_those_of_finite_differences(name):
    mask = ragged(0)[1]
    x, y, z = (0.3 * ragged(seed)[0] for seed in range(3))
    assert torch.autograd.gradcheck(lambda v: MASKED[name](v, y, z, mask), x.requires_grad_())


def test_entropy_gradcheck():
    logits = torch.randn(2, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(entropy, logits)


def test_no_gradient_flows_through_constants():
    x, mask = ragged(0)
    y, z = (ragged(seed)[0].requires_grad_() for seed in (1, 2))
    loss = clipped_policy_loss(x.requires_grad_(), y, z, mask).loss + value_loss(x, y, mask, old_values=z, clip=0.2)
    loss.backward()
    assert y.grad is None
    assert z.grad is None


B23, B24, M23 = torch.zeros(2, 3), torch.zeros(2, 4), torch.ones(2, 3)
NAN23 = torch.full((2, 3), math.nan)
REFUSALS = [
    (policy_gradient_loss, (B24, B23, M23), {}, ["logprobs", "(2, 4)", "(2, 3)"]),
    (policy_gradient_loss, (B23, B24, M23), {}, ["advantages", "(2, 4)", "(2, 3)"]),
    (policy_gradient_loss, (B23, B23, 0 * M23), {}, ["mask", "empty"]),
    (policy_gradient_loss, (NAN23, B23, M23), {}, ["logprobs", "NaN"]),
    (clipped_policy_loss, (B24, B23, B23, M23), {}, ["logprobs", "(2, 4)", "(2, 3)"]),
    (clipped_policy_loss, (B23, B24, B23, M23), {}, ["old_logprobs", "(2, 4)", "(2, 3)"]),
    (clipped_policy_loss, (B23, B23, B24, M23), {}, ["advantages", "(2, 4)", "(2, 3)"]),
    (clipped_policy_loss, (B23, NAN23, B23, M23), {}, ["old_logprobs", "NaN"]),
    (clipped_policy_loss, (B23, B23, B23, 0 * M23), {}, ["mask", "empty"]),
    (clipped_policy_loss, (B23, B23, B23, M23), {"epsilon": -0.1}, ["epsilon", "-0.1", "0 or more"]),
    (clipped_policy_loss, (B23, B23, B23, M23), {"epsilon": math.nan}, ["epsilon", "nan"]),
    (clipped_policy_loss, (B23, B23, B23, M23), {"dual_clip": 1.0}, ["dual_clip", "1.0", "more than 1"]),
    (value_loss, (B24, B23, M23), {}, ["values", "(2, 4)", "(2, 3)"]),
    (value_loss, (B23, B24, M23), {}, ["returns", "(2, 4)", "(2, 3)"]),
    (value_loss, (B23, NAN23, M23), {}, ["returns", "NaN"]),
    (value_loss, (B23, B23, M23), {"clip": 0.2}, ["old_values", "None"]),
    (value_loss, (B23, B23, M23), {"clip": -0.2, "old_values": B23}, ["clip", "-0.2"]),
    (value_loss, (B23, B23, M23), {"clip": 0.2, "old_values": B24}, ["old_values", "(2, 4)", "(2, 3)"]),
    (entropy, (B23,), {}, ["logits", "(2, 3)", "(B, T, V)"]),
    (ppo_loss, (ONE, ONE, ONE, -0.1, 0.0), {}, ["value_coef", "-0.1"]),
    (ppo_loss, (ONE, ONE, ONE, 0.1, -1.0), {}, ["entropy_coef", "-1.0"]),
]


@pytest.mark.parametrize(("function", "arguments", "options", "words"), REFUSALS)
def test_refusals_name_the_argument_and_what_is_wanted(function, arguments, options, words):
    with pytest.raises(ValueError, match=words[0]) as error:
        function(*arguments, **options)
    assert all(word in str(error.value) for word in words), error.value


# ------------------------------------------------------------------------------ what is no number and what is no tensor

ONES = torch.ones(2, 3)
IDS = torch.tensor([[1, 2, 3], [1, 2, -100]])
WRONG = {
    "epsilon as text": (
        lambda: clipped_policy_loss(ONES, ONES, ONES, ONES, epsilon="0.2"),
        "epsilon is '0.2', but",
    ),
    "epsilon none": (lambda: clipped_policy_loss(ONES, ONES, ONES, ONES, epsilon=None), "epsilon is None, but must"),
    "dual clip as text": (lambda: clipped_policy_loss(ONES, ONES, ONES, ONES, dual_clip="3"), "dual_clip is '3'"),
    "clip as text": (lambda: value_loss(ONES, ONES, ONES, ONES, clip="1"), "clip is '1', but must be a number"),
    "coefficient none": (
        lambda: ppo_loss(ONES[0, 0], ONES[0, 0], ONES[0, 0], None, 0.0),
        "value_coef is None, but",
    ),
    "lists": (lambda: bradley_terry_loss([1.0], [0.0]), r"chosen is a list, but must be a tensor; use torch.tensor"),
    "integer scores": (
        lambda: bradley_terry_loss(torch.tensor([1]), torch.tensor([0])),
        "chosen has dtype",
    ),
    "margin list": (lambda: bradley_terry_loss(ONES[0], ONES[1], [1.0]), "margin is a list"),
    "logits list": (lambda: sft_loss([[1.0]], IDS), "logits is a list"),
    "labels float": (lambda: sft_loss(torch.zeros(2, 3, 5), IDS.float()), "labels must be a tensor of integers"),
    "labels large": (lambda: sft_loss(torch.zeros(2, 3, 3), IDS), r"labels hold ids outside of \[0, 3\)"),
    "labels negative": (
        lambda: sft_loss(torch.zeros(2, 3, 5), IDS.clamp(max=-1)),
        r"outside of \[0, 5\)",
    ),
    "logits nan": (lambda: sft_loss(torch.full((2, 3, 5), torch.nan), IDS), "logits are NaN where a token counts"),
    "entropy of a list": (lambda: entropy([[1.0]]), "logits is a list"),
}


@pytest.mark.parametrize(("call", "words"), WRONG.values(), ids=WRONG)
def test_what_is_no_number_or_no_tensor_is_refused_by_its_name(call, words):
    with pytest.raises(ValueError, match=words):
        call()
