"""KL: the estimators against the truth by enumeration, the exact sum, the controllers of beta."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import GARBAGE, ragged
from torch import Tensor

from ppo_lib.formulas.kl import AdaptiveKL, FixedKL, kl_estimate, kl_exact
from ppo_lib.formulas.masking import masked_mean

KINDS = ("k1", "k2", "k3")


def two_policies(seed: int, size: int = 5, apart: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, dtype=torch.float64, generator=generator)
    return logits, logits + apart * torch.randn(size, dtype=torch.float64, generator=generator)


def expectation(kind: str, logits: Tensor, ref_logits: Tensor) -> Tensor:
    """E over actions of the policy, by enumeration: no sampling error."""
    logp, logq = torch.log_softmax(logits, dim=0), torch.log_softmax(ref_logits, dim=0)
    return (logp.exp() * kl_estimate(logp.unsqueeze(0), logq.unsqueeze(0), kind)[0]).sum()


def test_the_worked_example():
    logprobs = torch.tensor([[-0.9, -2.5, -0.5]], dtype=torch.float64)
    ref_logprobs = torch.tensor([[-1.5, -1.0, -0.5]], dtype=torch.float64)
    assert kl_estimate(logprobs, ref_logprobs, "k1")[0].tolist() == pytest.approx([0.6, -1.5, 0.0])
    assert kl_estimate(logprobs, ref_logprobs, "k2")[0].tolist() == pytest.approx([0.18, 1.125, 0.0])
    k3 = [math.exp(-0.6) - 1 + 0.6, math.exp(1.5) - 1 - 1.5, 0.0]
    assert kl_estimate(logprobs, ref_logprobs, "k3")[0].tolist() == pytest.approx(k3)


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000))
def test_k1_and_k3_are_unbiased_and_k2_is_not(seed):
    logits, ref_logits = two_policies(seed)
    exact = kl_exact(logits.view(1, 1, -1), ref_logits.view(1, 1, -1))[0, 0]
    torch.testing.assert_close(expectation("k1", logits, ref_logits), exact)
    torch.testing.assert_close(expectation("k3", logits, ref_logits), exact)


def test_k2_is_biased_but_little_near_the_reference():
    logits, ref_logits = two_policies(0)
    exact = kl_exact(logits.view(1, 1, -1), ref_logits.view(1, 1, -1))[0, 0]
    assert abs(expectation("k2", logits, ref_logits) / exact - 1) > 0.05
    near = two_policies(0, apart=0.01)
    exact = kl_exact(near[0].view(1, 1, -1), near[1].view(1, 1, -1))[0, 0]
    assert abs(expectation("k2", *near) / exact - 1) < 0.01  # they agree to second order


@given(st.floats(-15, 15), st.floats(-15, 15))
def test_k2_and_k3_are_never_negative_and_k1_is(logprob, ref_logprob):
    a, b = torch.tensor([[logprob]], dtype=torch.float64), torch.tensor([[ref_logprob]], dtype=torch.float64)
    assert kl_estimate(a, b, "k2") >= 0
    assert kl_estimate(a, b, "k3") >= 0
    assert torch.equal(kl_estimate(a, b, "k1"), a - b)


def test_k3_keeps_its_digits_near_zero():
    """exp(-d) - 1 + d loses all digits in float32; expm1 does not."""
    k3 = kl_estimate(torch.tensor([[1e-3]]), torch.zeros(1, 1), "k3")
    assert k3.item() == pytest.approx(5e-7, rel=1e-3)


def test_as_a_loss_k2_has_the_gradient_of_the_kl_k1_has_none_and_k3_another():
    """Over actions of the policy held constant: E[grad k1] = 0, E[grad k2] = grad KL(pi || ref)."""
    logits, ref_logits = two_policies(1)
    leaf = logits.clone().requires_grad_()
    (exact,) = torch.autograd.grad(kl_exact(leaf.view(1, 1, -1), ref_logits.view(1, 1, -1)).sum(), leaf)
    grads = {}
    for kind in KINDS:
        leaf = logits.clone().requires_grad_()
        logp, logq = torch.log_softmax(leaf, dim=0), torch.log_softmax(ref_logits, dim=0)
        loss = (logp.exp().detach() * kl_estimate(logp.unsqueeze(0), logq.unsqueeze(0), kind)[0]).sum()
        (grads[kind],) = torch.autograd.grad(loss, leaf)
    torch.testing.assert_close(grads["k1"], torch.zeros_like(leaf))
    torch.testing.assert_close(grads["k2"], exact)
    # k3's is the gradient of the forward KL(ref || pi): softmax(logits) - softmax(ref_logits)
    torch.testing.assert_close(grads["k3"], torch.softmax(logits, 0) - torch.softmax(ref_logits, 0))


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000))
def test_as_a_charge_in_the_reward_only_k1_has_the_gradient_of_the_kl(seed):
    """E[k1 grad log pi] = grad KL(pi || ref); k3 has grad KL(ref || pi) taken off; a constant charge has none."""
    logits, ref_logits = two_policies(seed)
    leaf = logits.clone().requires_grad_()
    logp, logq = torch.log_softmax(leaf, dim=0), torch.log_softmax(ref_logits, dim=0)
    exact = kl_exact(leaf.view(1, 1, -1), ref_logits.view(1, 1, -1))
    (right,) = torch.autograd.grad(exact.sum(), leaf, retain_graph=True)
    other = torch.softmax(logits, 0) - torch.softmax(ref_logits, 0)  # grad KL(ref || pi)
    charges = {kind: kl_estimate(logp.unsqueeze(0), logq.unsqueeze(0), kind)[0].detach() for kind in KINDS}
    charges["exact"] = exact[0, 0].detach().expand(len(logits))
    pull = {}
    for kind, charge in charges.items():
        (pull[kind],) = torch.autograd.grad((logp.exp().detach() * charge * logp).sum(), leaf, retain_graph=True)
    torch.testing.assert_close(pull["k1"], right)
    torch.testing.assert_close(pull["k3"], right - other)
    torch.testing.assert_close(pull["exact"], torch.zeros_like(right))
    assert not torch.allclose(pull["k2"], right, rtol=1e-3)


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000))
def test_exact_kl_is_that_of_torch_never_negative_and_zero_for_equals(seed):
    generator = torch.Generator().manual_seed(seed)
    logits, ref_logits = (torch.randn(2, 3, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    p, q = (torch.distributions.Categorical(logits=x) for x in (logits, ref_logits))
    kl = kl_exact(logits, ref_logits)
    torch.testing.assert_close(kl, torch.distributions.kl_divergence(p, q))
    assert (kl >= -1e-15).all()
    assert kl_exact(logits, logits).abs().max() == 0
    assert not torch.allclose(kl, kl_exact(ref_logits, logits))  # the direction matters


def test_exact_kl_with_forbidden_tokens():
    logits = torch.tensor([[[0.0, 0.0, -math.inf]]], dtype=torch.float64, requires_grad=True)
    kl = kl_exact(logits, torch.zeros(1, 1, 3, dtype=torch.float64))
    kl.sum().backward()
    assert kl.item() == pytest.approx(math.log(3 / 2))
    assert torch.isfinite(logits.grad).all()
    assert kl_exact(torch.zeros(1, 1, 3), logits.detach().float()).item() == math.inf


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("garbage", GARBAGE)
def test_padding_reaches_no_result_and_no_gradient_of_the_mean(kind, garbage):
    mask = ragged(0)[1]
    results = []
    for filling in (0.0, garbage):
        leaf, ref = (ragged(seed)[0].masked_fill(mask == 0, filling) for seed in (1, 2))
        mean = masked_mean(kl_estimate(leaf.requires_grad_(), 2 * ref, kind), mask)
        mean.backward()
        results.append((mean.detach(), leaf.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("garbage", GARBAGE)
def test_padding_reaches_no_gradient_of_the_exact_kl(garbage):
    mask = ragged(0)[1]
    logits, ref = (torch.randn(*mask.shape, 4, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    results = []
    for filling in (0.0, garbage):
        leaf = logits.masked_fill(mask.unsqueeze(-1) == 0, 0.0)
        leaf[..., 1] = leaf[..., 1].masked_fill(mask == 0, filling)
        mean = masked_mean(kl_exact(leaf.requires_grad_(), ref), mask)
        mean.backward()
        results.append((mean.detach(), leaf.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind):
    x, y = ragged(0)[0], ragged(1)[0]
    assert torch.autograd.gradcheck(lambda v: kl_estimate(v, y, kind), x.requires_grad_())
    a, b = torch.randn(2, 1, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind()
    assert torch.autograd.gradcheck(kl_exact, (a.requires_grad_(), b.requires_grad_()))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: kl_estimate(torch.zeros(2, 3), torch.zeros(2, 4)), ["logprobs", "(2, 3)", "(2, 4)", "(B, T)"]),
        (lambda: kl_estimate(torch.zeros(3), torch.zeros(3)), ["logprobs", "(3,)", "(B, T)"]),
        (lambda: kl_estimate(torch.zeros(2, 3), torch.zeros(2, 3), "k4"), ["kind", "'k4'", "'k1', 'k2' or 'k3'"]),
        (lambda: kl_exact(torch.zeros(2, 3, 4), torch.zeros(2, 3, 5)), ["logits", "(2, 3, 5)", "(B, T, V)"]),
        (lambda: kl_exact(torch.zeros(2, 3), torch.zeros(2, 3)), ["logits", "(2, 3)", "(B, T, V)"]),
        (lambda: FixedKL(-0.1), ["beta", "-0.1", "0 or more"]),
        (lambda: FixedKL(math.nan), ["beta", "nan"]),
        (lambda: AdaptiveKL(0.0, 6.0, 100.0), ["beta is 0.0", "above 0"]),
        (lambda: AdaptiveKL(0.1, 0.0, 100.0), ["target 0.0"]),
        (lambda: AdaptiveKL(0.1, 6.0, -1.0), ["horizon -1.0"]),
        (lambda: AdaptiveKL(0.1, 6.0, 0.0), ["horizon 0.0"]),
        (lambda: AdaptiveKL(0.1, 6.0, -0.5), ["horizon -0.5"]),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words[0]) as error:
        call()
    assert all(word in str(error.value) for word in words), error.value


def test_a_fixed_beta_may_be_0_and_a_horizon_below_1():
    assert FixedKL(0).beta == 0
    controller = AdaptiveKL(0.1, target=6.0, horizon=0.5)
    controller.update(60.0, 1)
    assert controller.beta == pytest.approx(0.12)


def test_fixed_beta_stays():
    controller = FixedKL(0.1)
    controller.update(1000.0, 64)
    assert controller.beta == 0.1


@pytest.mark.parametrize(
    ("kl", "factor"), [(6.0, 1.0), (6.6, 1 + 0.1 * 0.1), (60.0, 1 + 0.2 * 0.1), (0.0, 1 - 0.2 * 0.1), (-3.0, 1 - 0.02)]
)
def test_adaptive_beta_moves_in_proportion_to_the_clipped_error(kl, factor):
    controller = AdaptiveKL(0.1, target=6.0, horizon=640.0)
    controller.update(kl, 64)
    assert controller.beta == pytest.approx(0.1 * factor)


@given(kl=st.floats(-1e6, 1e6), n=st.integers(1, 10**6))
def test_beta_stays_above_0_whatever_happens(kl, n):
    controller = AdaptiveKL(0.1, target=1.0, horizon=100.0)
    controller.update(kl, n)
    assert 0.08 - 1e-12 <= controller.beta <= 0.12 + 1e-12


def test_adaptive_beta_settles_where_the_kl_is_on_target():
    """With a drift that beta holds back, KL = 1 / beta, the loop ends at KL = target."""
    controller = AdaptiveKL(1.0, target=5.0, horizon=100.0)
    for _ in range(200):
        controller.update(1 / controller.beta, 50)
    assert controller.beta == pytest.approx(0.2, rel=1e-6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: FixedKL("0.1"), "beta is '0.1', but must be a number"),
        (lambda: FixedKL(None), "beta is None, but must be a number"),
        (lambda: AdaptiveKL(0.1, "6", 100), "target is '6', but must be a number"),
        (lambda: AdaptiveKL(0.1, 6.0, 100).update(float("nan"), 8), "kl is nan, but must be finite"),
        (lambda: AdaptiveKL(0.1, 6.0, 100).update(float("inf"), 8), "kl is inf, but must be finite"),
        (lambda: kl_estimate([[1.0]], [[1.0]]), "logprobs is a list, but must be a tensor"),
    ],
)
def test_what_is_no_number_is_refused_and_a_kl_that_is_nan_moves_no_beta(call, words):
    with pytest.raises(ValueError, match=words):
        call()
