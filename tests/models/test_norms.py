"""Norms in one kernel give the numbers and gradients of a model's own, and other norms are left alone."""

import copy

import pytest
import torch
from tiny import PAD
from torch import nn

from ppo_lib.models import norms
from ppo_lib.models.norms import RMSNorm, agrees, quicken_norms
from ppo_lib.models.tokens import pad_pairs


@pytest.mark.parametrize(
    ("architecture", "count"), [("llama", 5), ("qwen2", 5), ("gemma2", 0), ("gpt2", 0), ("phi", 0)]
)
def test_a_model_keeps_its_hidden_states(build_tiny, architecture, count):
    backbone = build_tiny(architecture)
    names = list(backbone.causal_lm.state_dict())
    for name, parameter in backbone.causal_lm.named_parameters():
        if "norm" in name:
            parameter.data.uniform_(0.5, 2)
    batch = pad_pairs([[5, 6, 7], [8]], [[9, 10], [11, 12]], PAD)
    with torch.no_grad():
        before = backbone.hidden_states(batch)
        assert quicken_norms(backbone.causal_lm) == count == sum(type(m) is RMSNorm for m in backbone.modules())
        torch.testing.assert_close(backbone.hidden_states(batch), before, atol=1e-5, rtol=1e-5)
    assert list(backbone.causal_lm.state_dict()) == names
    assert quicken_norms(backbone.causal_lm) == count  # asked twice, it changes nothing
    quicken_norms(backbone.causal_lm, wanted=False)
    assert not any(type(m) is RMSNorm for m in backbone.modules())
    with torch.no_grad():
        assert torch.equal(backbone.hidden_states(batch), before)


def test_gradients_of_input_and_weight(build_tiny):
    own = next(m for m in build_tiny(dtype="float64").modules() if type(m).__name__ == "LlamaRMSNorm")
    own.weight.data.uniform_(0.5, 2)
    own.weight.requires_grad_(True)
    ours = copy.deepcopy(own)
    assert quicken_norms(nn.ModuleList([ours])) == 1
    x = torch.randn(3, 4, len(own.weight), dtype=torch.float64)
    results = []
    for norm in (own, ours):
        part = x.clone().requires_grad_()
        norm(part).square().sum().backward()
        results.append((part.grad, norm.weight.grad))
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-5)  # transformers' own is in float32


class OtherEpsilon(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.weight, self.eps, self.kind = nn.Parameter(torch.ones(4)), 1e-5, kind

    def forward(self, x, gate=None):
        if self.kind == "wants a gate":
            return x * gate
        if self.kind == "centers":
            x = x - x.mean(-1, keepdim=True)
        if self.kind == "weight plus one":
            return nn.functional.rms_norm(x, (4,), 1 + self.weight, self.eps)
        return nn.functional.rms_norm(x, (4,), self.weight, 1.0 if self.kind == "another epsilon" else self.eps)


@pytest.mark.parametrize("kind", ["wants a gate", "centers", "weight plus one", "another epsilon"])
def test_a_norm_of_that_name_and_another_formula_is_left_alone(kind):
    assert agrees(OtherEpsilon("plain"))
    assert not agrees(OtherEpsilon(kind))


def test_half_precision_is_rounded_once(build_tiny):
    own = next(m for m in build_tiny(dtype="bfloat16").modules() if type(m).__name__ == "LlamaRMSNorm")
    own.weight.data.uniform_(0.5, 2)
    x = torch.randn(64, len(own.weight)).bfloat16()
    exact = nn.functional.rms_norm(x.double(), own.weight.shape, own.weight.double(), norms.epsilon(own))
    twice = (own(x).double() - exact).abs().mean()
    assert quicken_norms(nn.ModuleList([own])) == 1
    assert own(x).dtype == torch.bfloat16
    assert (own(x).double() - exact).abs().mean() < twice
