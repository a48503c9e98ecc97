"""An adapter belongs to the weights that it was trained on: others of the same shape are refused, by whatever way."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ppo_lib.errors import BadInput
from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.backbone import Backbone
from ppo_lib.models.bases import NOTE, base_note, changed_layer
from ppo_lib.models.files import notes_in
from ppo_lib.models.reward_model import RewardModel

WEIGHTS = "adapter_model.safetensors"


def other_base(tiny_folder, tmp_path, change=1e-3):
    """A folder with the tiny model after a little training: every weight has moved."""
    model = AutoModelForCausalLM.from_pretrained(tiny_folder())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(change * torch.randn_like(parameter))
    Backbone.from_pretrained(tiny_folder()).tokenizer.save_pretrained(tmp_path / "other")
    model.save_pretrained(tmp_path / "other")
    return tmp_path / "other"


def test_an_adapter_is_loaded_on_its_own_weights_and_refused_on_others(policy_folder, tiny_folder, tmp_path):
    Backbone.from_pretrained(tiny_folder()).load_adapter("policy", policy_folder)
    other = Backbone.from_pretrained(other_base(tiny_folder, tmp_path))
    words = (
        r"the adapter in '.*policy' was trained on other weights than those of '.*other' \(they differ in model.layers"
    )
    with pytest.raises(BadInput, match=words):
        other.load_adapter("policy", policy_folder)
    assert other.adapters == []


def test_a_reward_model_whose_base_was_trained_anew_under_the_old_name_is_refused(build_tiny, tiny_folder, tmp_path):
    base = other_base(tiny_folder, tmp_path)
    reward = RewardModel(Backbone.from_pretrained(base), 2)
    reward.save_pretrained(tmp_path / "reward")
    RewardModel.from_pretrained(tmp_path / "reward")
    other_base(tiny_folder, tmp_path)  # other random numbers
    with pytest.raises(BadInput, match="was trained on other weights"):
        RewardModel.from_pretrained(tmp_path / "reward")


def test_a_folder_that_is_given_as_a_model_is_not_merged_into_other_weights(policy_folder, tiny_folder, tmp_path):
    Backbone.from_pretrained(policy_folder)
    base = other_base(tiny_folder, tmp_path)
    file = policy_folder / "adapter_config.json"
    file.write_text(file.read_text().replace(str(tiny_folder()), str(base)))
    with pytest.raises(BadInput, match="was trained on other weights"):
        Backbone.from_pretrained(policy_folder)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_another_precision_of_the_same_weights_is_the_same_base(policy_folder, tiny_folder, dtype):
    Backbone.from_pretrained(tiny_folder(), dtype=dtype).load_adapter("policy", policy_folder)


def test_weights_of_another_model_are_told_apart_in_half_precision_as_well(policy_folder, tiny_folder, tmp_path):
    other = Backbone.from_pretrained(other_base(tiny_folder, tmp_path, change=0.02), dtype="bfloat16")
    with pytest.raises(BadInput, match="was trained on other weights"):
        other.load_adapter("policy", policy_folder)


def test_an_adapter_that_plain_peft_wrote_has_no_note_and_is_taken(policy_folder, tiny_folder, tmp_path):
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_folder()), LoraConfig(r=4, target_modules="all-linear")
    )
    model.save_pretrained(str(tmp_path / "peft"))
    other = Backbone.from_pretrained(other_base(tiny_folder, tmp_path))
    other.load_adapter("policy", tmp_path / "peft")
    assert other.adapters == ["policy"]


def test_plain_peft_reads_a_folder_with_a_note(policy_folder, tiny_folder):
    assert NOTE in notes_in(policy_folder / WEIGHTS)
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_folder()), str(policy_folder))


@pytest.mark.parametrize(
    "note", [None, "", "[]", "{}", '{"dtype": "x", "weights": {}}', '{"dtype": "float32"}', "[" * 99]
)
def test_a_note_of_somebody_else_says_nothing(build_tiny, note):
    assert changed_layer(note, build_tiny().causal_lm) is None


def test_the_note_names_a_few_layers_from_first_to_last_and_the_same_weights_give_the_same(build_tiny, policy_folder):
    policy = ActorCritic(build_tiny(), 2)
    note = base_note(policy.backbone.causal_lm)
    assert note[NOTE] == notes_in(policy_folder / WEIGHTS)[NOTE]
    assert len(note[NOTE]) < 2000
    assert "layers.0." in note[NOTE]
    assert "layers.1." in note[NOTE]


def test_a_note_that_was_lost_is_not_missed(policy_folder, tiny_folder, tmp_path):
    """As in folders that older versions wrote."""
    save_file(load_file(policy_folder / WEIGHTS), policy_folder / WEIGHTS, metadata={"format": "pt"})
    Backbone.from_pretrained(other_base(tiny_folder, tmp_path)).load_adapter("policy", policy_folder)
