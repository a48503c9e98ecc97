"""Linear layers by oneDNN: PyTorch's numbers, PyTorch's gradients, and nothing kept that no gradient needs."""

from contextlib import contextmanager

import pytest
import torch
from tiny import randomise
from torch import nn

from ppo_lib.models import linear
from ppo_lib.models.linear import Linear, by_onednn, quicken

pytestmark = pytest.mark.skipif(not linear.AVAILABLE, reason="this PyTorch has no oneDNN")


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """However small a product is, oneDNN does it."""
    monkeypatch.setattr(linear, "SMALL", 0)


@pytest.fixture
def products(monkeypatch):
    """A list that grows by one with every product of oneDNN."""
    done, product = [], linear.product
    monkeypatch.setattr(linear, "product", lambda a, b: (done.append(1), product(a, b))[1])
    return done


@contextmanager
def onednn(enabled: bool):
    """PyTorch's own switch; its context manager warns of Intel GPUs."""
    before = torch.backends.mkldnn.set_flags(enabled)
    yield
    torch.backends.mkldnn.set_flags(before[0])


def twins(inputs: int, outputs: int, bias: bool = False) -> tuple[nn.Linear, nn.Linear]:
    """A layer of PyTorch's and one of ours with the same weights."""
    plain, ours = (nn.Linear(inputs, outputs, bias=bias) for _ in range(2))
    ours.load_state_dict(plain.state_dict())
    quicken(ours)
    return plain, ours


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("trained", [False, True], ids=["frozen", "trained"])
@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 5), (1, 1, 5)])
def test_numbers_and_gradients_of_pytorch(products, shape, trained, bias):
    torch.manual_seed(0)
    plain, ours = twins(5, 7, bias)
    x, gradient = torch.randn(shape), torch.randn(*shape[:-1], 7)
    results = []
    for layer in (plain, ours):
        layer.weight.requires_grad_(trained)
        own = x.clone().requires_grad_()
        y = layer(own)
        y.backward(gradient)
        results.append([y.detach(), own.grad, *(p.grad for p in layer.parameters() if p.requires_grad)])
    assert len(results[0]) == len(results[1]) == 2 + trained + bias
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)
    assert len(products) == 2 + trained, "one for the output, one for each gradient that is wanted"
    assert torch.equal(ours(x).detach(), ours(x.clone().requires_grad_()).detach()), "the same bits with a gradient"


@pytest.mark.parametrize(("trained", "moved", "kept"), [(False, True, 1), (True, False, 1), (True, True, 2)])
def test_only_what_a_gradient_needs_is_kept(trained, moved, kept):
    """A frozen weight does not keep the activations before it alive: that is where LoRA's memory is saved."""
    _, ours = twins(5, 7)
    ours.weight.requires_grad_(trained)
    x, saved = torch.randn(3, 5, requires_grad=moved), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t.shape), t)[1], lambda t: t):
        ours(x)
    assert len(saved) == kept
    assert (x.shape in saved) == trained


def test_a_gradient_that_nobody_wants_costs_nothing(products):
    _, ours = twins(5, 7)
    with torch.no_grad():
        assert not ours(torch.randn(3, 5, requires_grad=True)).requires_grad
    ours.weight.requires_grad_(False)
    assert not ours(torch.randn(3, 5)).requires_grad
    assert len(products) == 2


def test_strided_inputs_are_read_right():
    plain, ours = twins(5, 7)
    x = torch.randn(5, 6).t()  # (6, 5), by columns
    torch.testing.assert_close(ours(x), plain(x))
    torch.testing.assert_close(ours(x[::2]), plain(x[::2]))
    y = ours(x)
    (y.sum()).backward()  # a gradient without strides of its own
    torch.testing.assert_close(ours.weight.grad, x.sum(dim=0).expand(7, 5))


def test_what_else_pytorch_does_itself(products, monkeypatch):
    for dtype in (torch.float64, torch.bfloat16):
        plain, ours = (layer.to(dtype) for layer in twins(5, 7))
        x = torch.randn(3, 5, dtype=dtype)
        assert torch.equal(ours(x), plain(x))
    plain, ours = twins(5, 7)
    with monkeypatch.context() as without:
        without.setattr(linear, "AVAILABLE", False)
        ours(torch.ones(3, 5))
    with onednn(False):
        assert torch.equal(ours(torch.ones(3, 5)), plain(torch.ones(3, 5)))
    assert not by_onednn(torch.ones(3, 5, device="meta"), ours.weight)
    assert torch.equal(ours(torch.ones(5)), plain(torch.ones(5)))
    monkeypatch.setattr(linear, "SMALL", 3 * 5 * 7 + 1)
    ours(torch.ones(3, 5))
    assert products == []
    ours(torch.ones(4, 5))
    assert products == [1]


def test_layers_keep_weights_and_names_and_others_stay_what_they_are():
    class Scaled(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(4, 4), Scaled(4, 4), nn.LayerNorm(4))
    before = {key: (id(tensor), tensor.shape) for key, tensor in model.named_parameters()}
    quicken(model)
    assert [type(layer) for layer in model] == [Linear, Scaled, nn.LayerNorm]
    assert before == {key: (id(tensor), tensor.shape) for key, tensor in model.named_parameters()}


def test_a_backbone_with_adapters_gives_the_same_states_and_gradients(build_tiny, products):
    backbone = build_tiny("llama")

    def kinds() -> set[type]:
        return {type(m) for m in backbone.causal_lm.modules() if isinstance(m, nn.Linear)}

    assert kinds() == {Linear}, "of the weights and of the head"
    backbone.add_adapter("policy")
    randomise(backbone.adapter_parameters("policy"))
    assert kinds() == {Linear}, "of the adapter as well"
    prompts, responses = ["ab", "c"], ["def", "gh"]
    batch, results = backbone.encode_pairs(prompts, responses), []
    for enabled in (False, True):
        products.clear()
        with onednn(enabled):
            hidden = backbone.hidden_states(batch, "policy")
            logprobs, _ = backbone.token_logprobs(hidden[:, batch.prompt_width - 1 : -1], batch.responses, batch.mask)
            logprobs.sum().backward()
        parameters = backbone.adapter_parameters("policy")
        results.append([logprobs.detach(), *(p.grad for p in parameters)])
        for parameter in parameters:
            parameter.grad = None
        assert bool(products) == enabled
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-3)
