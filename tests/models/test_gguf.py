"""Models in GGUF files: as good as those in folders, and refused in one sentence where they cannot be read."""

import logging

import gguf as package
import pytest
import torch
from gguf_files import write_gguf
from transformers import AutoModelForCausalLM

from ppo_lib.models import gguf
from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.backbone import Backbone
from ppo_lib.models.loading import load_causal_lm, load_shape

PROMPT = "What is the capital of France?"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "pocket.gguf")


def logits(model, tokenizer=None):
    tokenizer = tokenizer or load_shape("pocket:sft")[1]
    with torch.no_grad():
        return model(**tokenizer(PROMPT, return_tensors="pt")).logits


def test_it_is_the_same_model_as_in_a_folder(file):
    (here, words), (there, others) = load_causal_lm(file), load_causal_lm("pocket:sft")
    torch.testing.assert_close(logits(here), logits(there), atol=1e-4, rtol=1e-4)
    assert words(f" {PROMPT}").input_ids == others(PROMPT).input_ids  # the format has no word for its leading space


def test_rounded_weights_are_near_and_not_equal(tmp_path):
    rounded = write_gguf(tmp_path / "q8.gguf", bits=package.GGMLQuantizationType.Q8_0)
    here, there = logits(load_causal_lm(rounded)[0]), logits(load_causal_lm("pocket:sft")[0])
    assert 0 < float((here - there).abs().max()) < 0.1 * float(there.abs().max())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_half_precision_its_weights_are_plain_and_nothing_is_warned_of(tmp_path, monkeypatch, caplog, dtype):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    rounded = write_gguf(tmp_path / "q8.gguf", bits=package.GGMLQuantizationType.Q8_0)
    with caplog.at_level("WARNING", "transformers"):
        model, _ = load_causal_lm(rounded, dtype)
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}
    assert not caplog.messages


def test_weights_are_not_left_rounded_where_transformers_can(file, monkeypatch):
    asked = {}
    load = AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(gguf.AutoModelForCausalLM, "from_pretrained", lambda *a, **k: asked.update(k) or load(*a, **k))
    load_causal_lm(file)
    assert asked["quantization_config"].dequantize


def test_its_shape_is_read_once_and_nobody_can_change_it_for_others(file, monkeypatch):
    config, tokenizer = load_shape(file)
    config.hidden_size, tokenizer.pad_token = 3, "x"
    monkeypatch.setattr(gguf.AutoConfig, "from_pretrained", lambda *a, **k: pytest.fail("read again"))
    again, other = load_shape(file)
    assert again.hidden_size != 3
    assert other.pad_token != "x"


def test_a_policy_on_it_loads_again_and_its_merged_model_is_an_ordinary_one(file, tmp_path):
    policy = ActorCritic(Backbone.from_pretrained(file))
    with torch.no_grad():
        for weight in policy.backbone.adapter_parameters("policy"):
            weight.add_(0.02)
    policy.save_pretrained(tmp_path / "policy", merged=True)
    again = ActorCritic.from_pretrained(tmp_path / "policy")
    assert again.backbone.name == str(file)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "policy" / "merged")
    assert getattr(merged.config, "quantization_config", None) is None
    with policy.backbone.adapter("policy"), again.backbone.adapter("policy"):
        ours, loaded = logits(policy.backbone.causal_lm), logits(again.backbone.causal_lm)
    torch.testing.assert_close(ours, loaded)
    torch.testing.assert_close(logits(merged), ours, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(ours, logits(load_causal_lm(file)[0]), atol=1e-2)


def test_the_readers_are_put_back_even_when_a_file_is_refused(tmp_path):
    before = package.GGUFReader, package.get_tensor_name_map
    torn = tmp_path / "torn.gguf"
    torn.write_bytes(b"GGUF")
    with pytest.raises(ValueError, match="cannot be read to its end"):
        load_shape(torn)
    assert (package.GGUFReader, package.get_tensor_name_map) == before


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_torn_file_is_refused(file, tmp_path, share):
    torn, whole = tmp_path / "torn.gguf", file.read_bytes()
    torn.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"torn.gguf' cannot be read to its end .* was it downloaded whole\?"):
        load_causal_lm(torn)


def test_what_only_has_the_name_is_refused(tmp_path):
    (tmp_path / "page.gguf").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match="is no GGUF file: it does not begin with GGUF"):
        load_causal_lm(tmp_path / "page.gguf")
    with pytest.raises(ValueError, match="there is no such folder"):
        load_causal_lm(tmp_path / "absent.gguf")


def test_an_unknown_architecture_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"cannot be used: .*architecture rwkv9.* give a model of the Llama type"):
        load_causal_lm(write_gguf(tmp_path / "odd.gguf", architecture="rwkv9"))


def test_the_missing_package_is_named(file, monkeypatch):
    monkeypatch.setattr(gguf, "is_gguf_available", lambda: False)
    gguf._shape.cache_clear()
    with pytest.raises(ValueError, match="the package gguf is missing; pip install gguf"):
        load_shape(file)
