"""Judges by their name: which there are, and that a published reward model is read as its authors meant it."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import byte_tokenizer, save_classifier
from transformers import AutoModelForSequenceClassification

from ppo_lib.run.judge_names import ExactAnswer, PublishedRewardModel, check_judge, load_judge
from ppo_lib.trainers.configuration import PPOConfig

CPU = torch.device("cpu")


@pytest.fixture
def published(tmp_path):
    """A tiny random reward model in the form in which people publish them."""
    return save_classifier(tmp_path / "judge", labels=1)


def test_a_published_reward_model_scores_the_conversation_whatever_else_is_in_the_batch(published):
    judge = PublishedRewardModel(str(published), CPU, microbatch=2)
    prompts, responses = ["hi", "how are you?", "hi"], ["yes", "fine, thank you very much", "no"]
    together = judge(prompts, responses)
    model = AutoModelForSequenceClassification.from_pretrained(published).eval()
    for prompt, response, score in zip(prompts, responses, together, strict=True):
        ids = byte_tokenizer()(f"<user>{prompt}<assistant>{response}", return_tensors="pt").input_ids
        with torch.no_grad():
            assert score == pytest.approx(float(model(ids).logits[0, 0]), abs=1e-5)
    assert len(set(together)) == 3


def test_it_serves_as_reward_and_as_heldout_judge(published, build_tiny):
    judge = load_judge(str(published), PPOConfig(), build_tiny())
    assert isinstance(judge, PublishedRewardModel)


@pytest.mark.parametrize(
    ("labels", "template", "words"), [(3, "{{ messages }}", "one output"), (1, None, "no chat template")]
)
def test_what_is_no_reward_model_is_refused(tmp_path, labels, template, words):
    folder = save_classifier(tmp_path / "judge", labels, template)
    with pytest.raises(ValueError, match=words):
        PublishedRewardModel(str(folder), CPU)


def test_a_language_model_is_no_reward_model(tiny_folder):
    with pytest.raises(ValueError, match="is no reward model"):  # its head would be random numbers
        PublishedRewardModel(str(tiny_folder()), CPU)


def test_a_judge_is_checked_without_its_weights(published, tmp_path):
    (published / "model.safetensors").unlink()
    check_judge(str(published), PPOConfig(), "heldout_judge")
    check_judge("pocket", PPOConfig(), "heldout_judge")
    check_judge("os.path:join", PPOConfig(), "heldout_judge")
    bad = {
        str(save_classifier(tmp_path / "three", labels=3)): "one output",
        str(save_classifier(tmp_path / "mute", labels=1, template=None)): "no chat template",
        "owner/model@" + "0" * 40: "cannot be loaded: the hub cannot be reached",
        "nobody": "heldout_judge is 'nobody', but must be",
        "os.path:nothing": "cannot be imported",
        "last_number": "'pocket' has no exact answers",
    }
    for name, words in bad.items():
        with pytest.raises(ValueError, match=words):
            check_judge(name, PPOConfig(), "heldout_judge")


def test_a_reward_model_without_its_head_is_refused(published):
    weights = load_file(published / "model.safetensors")
    del weights["score.weight"]  # transformers would go on with random numbers in its place
    save_file(weights, published / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="is no reward model"):
        PublishedRewardModel(str(published), CPU)


def test_a_damaged_one_is_refused(published, tmp_path):
    folder = shutil.copytree(published, tmp_path / "copy")
    (folder / "model.safetensors").write_bytes(b"half a file")
    with pytest.raises(ValueError, match=r"judge .* cannot be loaded"):
        PublishedRewardModel(str(folder), CPU)


def test_the_verifiable_rewards_read_the_answers_beside_the_prompts(tmp_path, build_tiny):
    file = tmp_path / "problems.jsonl"
    file.write_text('{"question": "2 + 2?", "answer": "#### 4"}\n')
    config = PPOConfig(prompts=str(file), prompt_suffix=" Think.")
    strict, lenient = (load_judge(name, config, build_tiny()) for name in ("exact_answer", "last_number"))
    assert isinstance(strict, ExactAnswer)
    asked = ["2 + 2? Think."] * 2
    assert strict(asked, ["#### 4", "4"]) == [1, 0]
    assert lenient(asked, ["#### 4", "4"]) == [1, 1]


def test_an_unknown_name_is_refused_naming_the_key_and_what_it_may_be(build_tiny):
    with pytest.raises(ValueError, match="heldout_judge is 'nobody', but must be 'pocket', a folder") as error:
        load_judge("nobody", PPOConfig(), build_tiny(), key="heldout_judge")
    assert "OWNER/NAME@COMMIT" in str(error.value)
