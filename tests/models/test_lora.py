"""An adapted layer in few products gives PEFT's numbers and gradients."""

from types import SimpleNamespace

import pytest
import torch
from host_requests import host_requests
from peft.tuners.lora.layer import Linear as PeftLinear
from tiny import PAD, randomise
from torch.utils._python_dispatch import TorchDispatchMode

from ppo_lib.models import lora
from ppo_lib.models.lora import LoraLinear, plainly, quicken_adapters
from ppo_lib.models.scoring import Scored, plain_head
from ppo_lib.models.tokens import pad_pairs


class Products(TorchDispatchMode):
    """Counts operators that compute, by name."""

    VIEWS = ("view", "t", "transpose", "_unsafe_view", "detach", "expand", "unsqueeze", "empty", "alias")

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name not in self.VIEWS:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def layer_of(backbone):
    backbone.add_adapter("policy", rank=4, seed=1)
    randomise(backbone.adapter_parameters("policy"))
    backbone._use("policy")
    return next(m for m in backbone.modules() if isinstance(m, PeftLinear))


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "phi"])  # the latter two have biases
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_numbers_and_gradients_are_those_of_peft(build_tiny, architecture, dtype, monkeypatch):
    layer = layer_of(build_tiny(architecture, dtype=dtype))
    assert type(layer) is LoraLinear
    torch.manual_seed(0)
    x = torch.randn(3, 5, layer.in_features, dtype=layer.base_layer.weight.dtype)
    results = []
    for plain in (False, True):
        monkeypatch.setattr(lora, "plainly", lambda *_, plain=plain: plain)
        own = x.clone().requires_grad_()
        y = layer(own)
        y.square().sum().backward()
        parameters = layer.lora_A["policy"].weight, layer.lora_B["policy"].weight
        with torch.no_grad():
            results.append([y.detach(), layer(x), own.grad, *(p.grad for p in parameters)])
        layer.zero_grad()
    tolerance = {"atol": 1e-10, "rtol": 1e-9} if dtype == "float64" else {"atol": 1e-4, "rtol": 1e-4}
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, **tolerance)
        assert float(a.abs().max()) > 0


def test_three_products_forward_and_five_backward_without_a_question(build_tiny):
    layer = layer_of(build_tiny())
    x = torch.randn(2, 3, layer.in_features, requires_grad=True)
    with Products() as forward, host_requests() as asked:
        y = layer(x)
    assert forward.names == ["mm", "mm", "addmm_"]
    gradient = torch.ones_like(y)
    with Products() as backward:
        y.backward(gradient)
    assert len([n for n in backward.names if "mm" in n]) == 5
    assert not asked


def test_by_onednn_the_same_numbers(build_tiny, monkeypatch):
    layer = layer_of(build_tiny("qwen2"))
    x = torch.randn(4, 3, layer.in_features)
    before = layer(x)
    monkeypatch.setattr("ppo_lib.models.linear.SMALL", 1)
    torch.testing.assert_close(layer(x), before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("reason", ["no adapter of that name", "two adapters", "trained weights", "other precision"])
def test_what_is_not_one_plain_adapter_on_frozen_weights_is_left_to_peft(build_tiny, reason):
    layer = layer_of(build_tiny())
    x = torch.randn(2, layer.in_features)
    assert not plainly(layer, x)
    if reason == "trained weights":
        layer.base_layer.weight.requires_grad_(True)
    elif reason == "other precision":
        layer.lora_A["policy"].weight.data = layer.lora_A["policy"].weight.data.double()
    else:
        layer._active_adapter = ["policy", "critic"] if reason == "two adapters" else ["critic"]
    assert plainly(layer, x)


def test_switched_off_and_on_again_and_layers_of_other_kinds_are_left_alone(build_tiny):
    backbone = build_tiny()
    layer = layer_of(backbone)
    quicken_adapters(backbone.causal_lm, wanted=False)
    assert type(layer) is PeftLinear
    backbone.fused_lora = False
    backbone.add_adapter("critic", rank=2)
    assert type(layer) is PeftLinear
    backbone.fused_lora = True
    backbone.add_adapter("reward", rank=2)
    assert type(layer) is LoraLinear
    gpt2 = layer_of(build_tiny("gpt2"))
    x = torch.randn(1, 2, gpt2.in_features)
    assert plainly(gpt2, x)
    torch.testing.assert_close(gpt2(x), PeftLinear.forward(gpt2, x))


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "phi", "gpt2"])
def test_merged_for_sampling_the_numbers_are_the_adapters_in_one_product_a_layer(build_tiny, architecture):
    backbone = build_tiny(architecture, dtype="float64")
    layer = layer_of(backbone)
    x = torch.randn(2, 3, layer.in_features, dtype=torch.float64)
    with torch.no_grad():
        batch = pad_pairs([[5, 6, 7], [8]], [[9, 10], [11, 12]], PAD)
        before, states = layer(x), backbone.hidden_states(batch, "policy")
        backbone.merge_adapter = True
        with backbone.sampling("policy"):
            with Products() as products:
                after = layer(x)
            torch.testing.assert_close(after, before, atol=1e-12, rtol=1e-12)
            torch.testing.assert_close(backbone.hidden_states(batch, "policy"), states, atol=1e-10, rtol=1e-10)
            if architecture != "gpt2":  # whose layers of another kind keep their adapter
                assert products.names in (["mm"], ["addmm"])
                torch.testing.assert_close(backbone.hidden_states(batch), backbone.hidden_states(batch, None))
    assert all(m.whole is None for m in backbone.modules() if isinstance(m, LoraLinear))
    assert not torch.equal(before, layer.base_layer(x))


def test_the_reference_is_never_merged_and_an_error_leaves_no_copy(build_tiny):
    backbone = build_tiny()
    layer = layer_of(backbone)
    backbone.merge_adapter = True
    with backbone.sampling(None):
        assert getattr(layer, "whole", None) is None
        assert backbone.acting is None
    shapes = []

    def fail():
        with backbone.sampling("policy"):
            shapes.append(layer.whole.shape)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert shapes == [layer.base_layer.weight.shape]
    assert layer.whole is None


def test_who_merges(build_tiny):
    backbone = build_tiny()
    layer_of(backbone)
    assert not backbone.merges  # on a CPU, unless it is asked for
    backbone.merge_adapter = True
    assert backbone.merges
    assert backbone.copy().merge_adapter
    backbone.fused_lora = False
    assert not backbone.merges
    assert not backbone.copy().fused_lora
    backbone.fused_lora = True
    backbone.world = SimpleNamespace(sharded=True)
    assert not backbone.merges


def test_float16_weights_are_merged_in_float32_and_rounded_once(build_tiny):
    backbone = build_tiny()
    layer = layer_of(backbone)
    exact = lora.merged_weight(layer, "policy")
    layer.base_layer.weight.data = layer.base_layer.weight.data.half()
    near = lora.merged_weight(layer, "policy")
    assert near.dtype == torch.float16
    torch.testing.assert_close(near.float(), exact, atol=1e-3, rtol=2e-3)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("entropy", [True, False])
def test_log_probs_and_their_gradient_in_one_function_are_those_of_log_softmax(temperature, entropy):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(5, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(11, 4, dtype=torch.float64, generator=generator)
    ids = torch.tensor([0, 3, 10, 3, 7])
    logp = torch.log_softmax(states @ weight.t() / temperature, dim=-1)
    expected = logp.gather(1, ids[:, None]).squeeze(1)
    chosen, spread = Scored.apply(states, weight, ids, temperature, entropy)
    torch.testing.assert_close(chosen, expected)
    torch.testing.assert_close(spread, -(logp.exp() * logp).sum(1) if entropy else torch.zeros(5).double())
    assert not spread.requires_grad
    gradient = torch.arange(5.0, dtype=torch.float64)
    own, true = (torch.autograd.grad(x, states, gradient)[0] for x in (chosen, expected))
    torch.testing.assert_close(own, true)


@pytest.mark.parametrize(("architecture", "plain"), [("llama", True), ("phi", False), ("gemma2", False)])
def test_a_head_with_a_bias_or_a_cap_goes_the_long_way(build_tiny, architecture, plain):
    causal_lm = build_tiny(architecture).causal_lm
    assert plain_head(causal_lm, torch.float32) == plain
    causal_lm.get_output_embeddings().weight.requires_grad_(True)
    assert not plain_head(causal_lm, torch.float32)
