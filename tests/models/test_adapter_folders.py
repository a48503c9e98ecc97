"""Adapter folders from anywhere: merged by PEFT, checked key by key, found again after a move, or refused in a line."""

import json
import math
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import randomise
from transformers import AutoModelForCausalLM

from ppo_lib.errors import BadInput
from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.adapter_folders import base_name, read_settings, same_model
from ppo_lib.models.backbone import Backbone
from ppo_lib.models.reward_model import RewardModel


def plain_peft(base, folder, **options):
    """An adapter that plain PEFT made and saved."""
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        LoraConfig(**{"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **options}),
    )
    randomise([p for name, p in model.named_parameters() if "lora_" in name])
    model.save_pretrained(str(folder))
    return folder


def logits_of(model):
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        return model(input_ids=ids).logits


def change(folder, **keys):
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text()) | keys
    path.write_text(json.dumps({key: value for key, value in config.items() if value != "gone"}))


@pytest.mark.parametrize(
    "options", [{}, {"use_rslora": True}, {"rank_pattern": {"q_proj": 2}}, {"bias": "lora_only"}, {"use_dora": True}]
)
def test_an_adapter_of_any_kind_is_merged_when_it_is_given_as_a_model(tiny_folder, tmp_path, options):
    folder = plain_peft(tiny_folder(), tmp_path / "peft", **options)
    backbone = Backbone.from_pretrained(folder)
    assert backbone.adapters == []
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_folder()), str(folder)).eval()
    torch.testing.assert_close(logits_of(backbone.causal_lm), logits_of(plain), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(logits_of(plain), logits_of(AutoModelForCausalLM.from_pretrained(tiny_folder())))


def test_a_policy_is_a_model_for_the_next_stage_and_what_stands_on_it_finds_it_again(policy_folder, tmp_path):
    first = ActorCritic.from_pretrained(policy_folder)
    batch = first.backbone.encode_pairs(["Hi"], ["yes"])
    second = ActorCritic(Backbone.from_pretrained(policy_folder), 4)
    torch.testing.assert_close(second.evaluate(batch).logprobs, first.evaluate(batch).logprobs, atol=1e-5, rtol=1e-4)
    randomise(second.parameters_to_train(), seed=1, scale=0.1)
    second.save_pretrained(tmp_path / "second")
    again = ActorCritic.from_pretrained(tmp_path / "second")
    assert again.backbone.name == str(policy_folder)
    torch.testing.assert_close(again.evaluate(batch).logprobs, second.evaluate(batch).logprobs)


def test_a_base_under_a_relative_path_is_found_after_a_move(tiny_folder, tmp_path, monkeypatch):
    shutil.copytree(tiny_folder(), tmp_path / "there" / "base")
    monkeypatch.chdir(tmp_path / "there")
    RewardModel(Backbone.from_pretrained("base"), 2).save_pretrained("run/judge")
    monkeypatch.chdir("/")
    assert base_name(tmp_path / "there" / "run" / "judge") == str(tmp_path / "there" / "base")
    shutil.move(tmp_path / "there", tmp_path / "elsewhere")
    judge = RewardModel.from_pretrained(tmp_path / "elsewhere" / "run" / "judge")
    assert judge.scores(["Hi"], ["yes"]) == [0.0]
    assert same_model(judge.backbone.name, str(tmp_path / "elsewhere" / "run" / ".." / "base"))
    assert not same_model(judge.backbone.name, str(tmp_path))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3', but only LORA"),
        ({"bias": "all"}, "bias is 'all', but only plain LoRA"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern is .* but only plain LoRA"),
        ({"alpha_pattern": {"q_proj": 2}}, "alpha_pattern is .* but only plain LoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is .* but only plain LoRA"),
        ({"use_dora": True}, "use_dora is True, but only plain LoRA"),
        ({"lora_alpha": math.nan}, "lora_alpha is nan, but must be a number"),
        ({"lora_alpha": 1e9}, "lora_alpha is 1000000000.0, but must be a number from"),
        ({"lora_alpha": "gone"}, "lora_alpha is None, but must be a number"),
        ({"r": "gone"}, "r is None, but must be a number from 1 to 65536"),
        ({"r": 10_000_000}, "r is 10000000, but must be a number from 1 to 65536"),
        ({"r": "eight"}, "r is 'eight', but must be a number"),
        ({"r": True}, "r is True, but must be a number"),
        ({"r": 2.5}, "r is 2.5, but must be a whole number"),
        ({"base_model_name_or_path": "gone"}, "base_model_name_or_path is None, but must be text"),
        ({"base_model_name_or_path": ["a"]}, r"base_model_name_or_path is \['a'\], but must be text"),
        ({"revision": 3}, "revision is 3, but must be text"),
    ],
)
def test_settings_that_would_be_ignored_or_cannot_be_used_are_refused_by_file_and_key(policy_folder, keys, words):
    assert read_settings(policy_folder).rank == 4
    change(policy_folder, **keys)
    with pytest.raises(BadInput, match=f"adapter_config.json': {words}"):
        read_settings(policy_folder)
    with pytest.raises(BadInput, match=r"adapter_config\.json"):
        ActorCritic.from_pretrained(policy_folder)


def test_files_that_are_no_adapter_are_refused(policy_folder, tiny_folder):
    (policy_folder / "adapter_config.json").write_text("[1, 2]")
    with pytest.raises(BadInput, match=r"holds '\[1, 2\]' in place of keys and values"):
        read_settings(policy_folder)
    (policy_folder / "adapter_config.json").write_text("[" * 100_000)
    with pytest.raises(BadInput, match="is not JSON"):
        read_settings(policy_folder)


def test_an_adapter_that_cannot_be_merged_is_refused_with_the_reason(policy_folder, tiny_folder, tmp_path):
    change(policy_folder, base_model_name_or_path=str(tiny_folder("gpt2")))
    with pytest.raises(BadInput, match=r"cannot be merged into .*; give the model that it was made for"):
        Backbone.from_pretrained(policy_folder)
    folder = plain_peft(tiny_folder(), tmp_path / "peft")
    tensors = load_file(folder / "adapter_model.safetensors")
    key = sorted(tensors)[0]
    save_file({**tensors, key: tensors[key] * math.nan}, folder / "adapter_model.safetensors")
    with pytest.raises(BadInput, match=r"adapter_model.safetensors': .* holds NaN or infinity"):
        Backbone.from_pretrained(folder)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(BadInput, match=r"has no adapter_model\.safetensors; weights are read from safetensors alone"):
        Backbone.from_pretrained(folder)


def test_a_reward_model_is_no_language_model(build_tiny, tmp_path):
    RewardModel(build_tiny(), 2).save_pretrained(tmp_path)
    with pytest.raises(
        BadInput, match="holds a reward model, which scores texts and writes none; give it as reward_model"
    ):
        Backbone.from_pretrained(tmp_path)


def spoil(path, **tensors):
    there = load_file(path) | tensors
    save_file({key: tensor for key, tensor in there.items() if tensor is not None}, path)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"std": torch.tensor(-1.0)}, "std is -1.0, but must be above 0"),
        ({"std": torch.tensor(0.0)}, "std is 0.0, but must be above 0"),
        ({"std": torch.tensor(math.nan)}, "std holds NaN"),
        ({"mean": None}, "lacks mean; was the folder saved to the end"),
        ({"head.weight": torch.zeros(1, 7)}, r"head.weight has the shape \(1, 7\), but this model needs \(1, 16\)"),
    ],
)
def test_a_reward_head_is_checked_by_file_and_name(build_tiny, tmp_path, tensors, words):
    RewardModel(build_tiny(), 2).save_pretrained(tmp_path)
    spoil(tmp_path / "reward_head.safetensors", **tensors)
    with pytest.raises(BadInput, match=f"reward_head.safetensors'.* {words}"):
        RewardModel.from_pretrained(tmp_path)


def test_a_value_head_of_another_model_is_refused_and_leaves_the_backbone_as_it_was(policy_folder, build_tiny):
    spoil(policy_folder / "value_head.safetensors", weight=torch.zeros(1, 7))
    backbone = build_tiny()
    with pytest.raises(BadInput, match=r"value_head.safetensors': weight has the shape \(1, 7\)"):
        ActorCritic.from_pretrained(policy_folder, backbone)
    assert backbone.adapters == []


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_an_adapter_that_took_its_beginning_from_the_base_is_merged_or_refused(tiny_folder, tmp_path, start):
    folder = plain_peft(tiny_folder(), tmp_path / "peft", init_lora_weights=start)
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_folder()), str(folder)).eval()
    merged = Backbone.from_pretrained(folder).causal_lm
    torch.testing.assert_close(logits_of(merged), logits_of(plain), atol=1e-4, rtol=1e-3)
    with pytest.raises(BadInput, match=f"init_lora_weights is '{start}', but only plain LoRA"):
        read_settings(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [("alora_invocation_tokens", [5, 6]), ("use_qalora", True), ("kasa_config", {}), ("init_lora_weights", "corda")],
)
def test_other_kinds_of_lora_are_no_plain_ones(tiny_folder, tmp_path, key, value):
    folder = plain_peft(tiny_folder(), tmp_path / "peft", init_lora_weights="gaussian")
    assert read_settings(folder).rank == 4
    change(folder, **{key: value})
    with pytest.raises(BadInput, match=f"{key} is .*, but only plain LoRA"):
        read_settings(folder)
