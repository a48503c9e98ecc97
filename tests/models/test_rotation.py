"""Queries and keys turned together give a model's own numbers and gradients; other rotations are left alone."""

import copy
import functools

import pytest
import torch
from tiny import PAD
from transformers.models.llama import modeling_llama

from ppo_lib.models import rotation
from ppo_lib.models.norms import RMSNorm
from ppo_lib.models.rotation import agrees, quicken_rotation, rotate
from ppo_lib.models.tokens import pad_pairs


def turning(model):
    """The attention layers that turn by the library's function."""
    return [m for m in model.modules() if hasattr(type(m), "turns_as")]


@pytest.mark.parametrize(
    ("architecture", "count"), [("llama", 2), ("qwen2", 2), ("gemma2", 2), ("phi", 2), ("gpt2", 0)]
)
def test_a_model_keeps_its_hidden_states_and_its_name(build_tiny, architecture, count):
    backbone = build_tiny(architecture)
    batch = pad_pairs([[5, 6, 7], [8]], [[9, 10], [11, 12]], PAD)
    kinds = [type(m).__name__ for m in backbone.modules()]
    with torch.no_grad():
        before = backbone.hidden_states(batch)
        for _ in range(2):  # asked twice, it changes nothing
            assert quicken_rotation(backbone.causal_lm) == count == len(turning(backbone))
        torch.testing.assert_close(backbone.hidden_states(batch), before, atol=1e-5, rtol=1e-5)
        assert [type(m).__name__ for m in backbone.modules()] == kinds
        quicken_rotation(backbone.causal_lm, wanted=False)
        assert not turning(backbone)
        assert torch.equal(backbone.hidden_states(batch), before)


def test_only_the_model_that_was_asked_for_turns_in_this_way(build_tiny):
    one, other = build_tiny(), build_tiny()
    quicken_rotation(one.causal_lm)
    assert len(turning(one)) == 2
    assert not turning(other)
    assert modeling_llama.apply_rotary_pos_emb.__module__ != rotation.__name__


def test_blocks_are_fused_at_once_and_in_a_copy_as_in_its_model(build_tiny):
    backbone = build_tiny()
    for wanted, attentions, norms in ((True, 2, 5), (False, 0, 0)):
        backbone.fuse_blocks(wanted)
        for each in (backbone, backbone.copy()):
            assert len(turning(each)) == attentions
            assert sum(type(m) is RMSNorm for m in each.modules()) == norms


def tensors(layout, dtype=torch.float64):
    """Queries of four heads, keys of two, and angles whose halves differ, as no model's do."""
    shapes = [(2, 4, 3, 8), (2, 2, 3, 8)] if layout == 1 else [(2, 3, 4, 8), (2, 3, 2, 8)]
    return [torch.randn(shape, dtype=dtype) for shape in (*shapes, (2, 3, 8), (2, 3, 8))]


@pytest.mark.parametrize("layout", [1, 2])
def test_values_and_gradients(layout):
    q, k, cos, sin = tensors(layout)
    weights, results = [torch.randn_like(q), torch.randn_like(k)], []
    for turn in (modeling_llama.apply_rotary_pos_emb, rotate):
        leaves = [q.clone().requires_grad_(), k.clone().requires_grad_()]
        turned = turn(*leaves, cos, sin, unsqueeze_dim=layout)
        sum((w * t).sum() for w, t in zip(weights, turned, strict=True)).backward()
        results.append([*turned, *(leaf.grad for leaf in leaves)])
    torch.testing.assert_close(results[1], results[0])


def test_gradients_by_differences():
    q, k, cos, sin = tensors(1)
    assert torch.autograd.gradcheck(lambda q, k: rotate(q, k, cos, sin), (q.requires_grad_(), k.requires_grad_()))


def test_a_quarter_turn_takes_the_halves_to_minus_the_second_and_the_first():
    x = torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]])
    turned, _ = rotate(x, x, torch.zeros(1, 1, 4), torch.ones(1, 1, 4))
    assert turned.flatten().tolist() == [-3.0, -4.0, 1.0, 2.0]


def other(kind):
    def apply(q, k, cos, sin, unsqueeze_dim=1):
        if kind == "the other way":
            sin = -sin
        if kind == "a part, if there are fewer angles" and cos.shape[-1] < q.shape[-1]:
            return q, k
        if kind == "keys are left":
            return rotate(q, k, cos, sin)[0], k
        if kind == "neighbors":
            q, k = (x.view(*x.shape[:-1], -1, 2).transpose(-1, -2).flatten(-2) for x in (q, k))
        return rotate(q, k, cos, sin)

    return apply


@pytest.mark.parametrize("kind", ["the other way", "a part, if there are fewer angles", "keys are left", "neighbors"])
def test_another_rotation_of_that_name_is_left_alone(kind):
    assert agrees(other("the same"))
    assert not agrees(other(kind))
    assert not agrees(None)
    assert not agrees(lambda x, sin, cos: x)


def test_a_model_that_turns_in_another_way_is_left_alone(monkeypatch, build_tiny):
    monkeypatch.setattr(rotation, "_quick", {})
    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", other("neighbors"))
    model = build_tiny().causal_lm
    assert quicken_rotation(model) == 0 == len(turning(model))


def wrapped(function, holds_it=True):
    """What a decorator makes of a function; one that does not hold it itself cannot be copied."""
    holder = [function]

    @functools.wraps(function)
    def inner(*args, **kwargs):
        return function(*args, **kwargs) if holds_it else holder[0](*args, **kwargs)

    @functools.wraps(function)
    def outer(*args, **kwargs):
        return holder[0](*args, **kwargs)

    return inner if holds_it else outer


@pytest.mark.parametrize(("times", "holds_it", "count"), [(1, True, 2), (2, True, 2), (1, False, 0)])
def test_an_attention_whose_forward_is_wrapped_turns_so_where_the_wrapper_can_be_copied(
    monkeypatch, build_tiny, times, holds_it, count
):
    forward = modeling_llama.LlamaAttention.forward
    for _ in range(times):
        forward = wrapped(forward, holds_it)
    monkeypatch.setattr(modeling_llama.LlamaAttention, "forward", forward)
    monkeypatch.setattr(rotation, "_quick", {})
    backbone, turned = build_tiny(), []
    monkeypatch.setattr(rotation, "Turned", watched(turned))
    batch = pad_pairs([[5, 6, 7]], [[9, 10]], PAD)
    with torch.no_grad():
        before = backbone.hidden_states(batch)
        assert quicken_rotation(backbone.causal_lm) == count == len(turning(backbone))
        turned.clear()  # it was tried on a few numbers
        torch.testing.assert_close(backbone.hidden_states(batch), before, atol=1e-5, rtol=1e-5)
    assert len(turned) == count


def watched(seen):
    """The library's function, which notes each time that it is applied."""

    own = rotation.Turned.forward

    class Watched(rotation.Turned):
        @staticmethod
        def forward(ctx, x, cos, sin):
            seen.append(x.shape)
            return own(ctx, x, cos, sin)

    return Watched


def test_half_precision_is_rounded_less_often():
    q, k, cos, sin = (x.bfloat16() for x in tensors(1))
    exact = modeling_llama.apply_rotary_pos_emb(*(x.double() for x in (q, k, cos, sin)))
    own, ours = modeling_llama.apply_rotary_pos_emb(q, k, cos, sin), rotate(q, k, cos, sin)
    for a, b, right in zip(own, ours, exact, strict=True):
        assert b.dtype == torch.bfloat16
        assert (b - right).abs().mean() < (a - right).abs().mean()


def test_a_model_can_be_copied_and_moved(build_tiny):
    model = build_tiny().causal_lm
    quicken_rotation(model)
    assert len(turning(copy.deepcopy(model).to(torch.bfloat16))) == 2
    assert isinstance(turning(model)[0], modeling_llama.LlamaAttention)
