"""The stored weights: their size, their format, and that they behave as the book says.

Greedy answers of the stored weights do not depend on the machine as long as no two tokens are within rounding of
each other; bands leave room for a few that are.
"""

import statistics
from importlib import resources
from itertools import islice
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ppo_lib import pocket
from ppo_lib.models.backbone import Backbone
from ppo_lib.models.reward_model import RewardModel
from ppo_lib.pocket.comparisons import sample_answers
from ppo_lib.pocket.gold import verdict
from ppo_lib.pocket.pretrain import pretrain, rows
from ppo_lib.pocket.questions import find_question
from ppo_lib.pocket.tokenizer import train_tokenizer
from ppo_lib.sampling.rollout import generate_text
from ppo_lib.trainers.configuration import RewardConfig
from ppo_lib.trainers.reward import RewardTrainer

WEIGHTS = Path(str(resources.files("ppo_lib.pocket"))) / "weights"
HELDOUT = pocket.prompts("heldout")


@pytest.fixture(scope="module")
def sft() -> Backbone:
    return pocket.load_backbone("sft")


@pytest.fixture(scope="module")
def sft_answers(sft: Backbone) -> list[str]:
    return generate_text(sft, HELDOUT, 48)


@pytest.fixture(scope="module")
def reward_model() -> RewardModel:
    return pocket.load_reward_model()


def test_the_package_data_is_small_and_safe():
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 6_000_000
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".gz", ".md"}


def test_the_models_are_hub_folders():
    for which in ("base", "sft"):
        model = AutoModelForCausalLM.from_pretrained(WEIGHTS / which, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(WEIGHTS / which)
        assert model.config.model_type == "llama"
        assert 0.8e6 < model.num_parameters() < 1.1e6
        assert model.config.tie_word_embeddings
        assert tokenizer.pad_token_id != tokenizer.eos_token_id
        assert model.config.eos_token_id == tokenizer.eos_token_id


def test_no_file_names_this_machine():
    for path in WEIGHTS.rglob("*.json"):
        assert "/tmp" not in path.read_text()
        assert "/work" not in path.read_text()


def test_the_tokenizer_round_trips_the_world(sft: Backbone):
    for text in [*islice(pocket.documents(8), 100), *HELDOUT, "Zürich ☃"]:
        assert sft.tokenizer.decode(sft.tokenizer(text)["input_ids"]) == text


def test_prompt_and_response_join_as_one_text(sft: Backbone):
    prompt, response = "What is the capital of France?", "The capital of France is Paris."
    ids = [sft.tokenizer(text)["input_ids"] for text in (prompt, response, f"{prompt} {response}")]
    assert ids[0] + ids[1] == ids[2]


def test_the_base_model_goes_on_with_a_quiz():
    answers = generate_text(pocket.load_backbone("base"), HELDOUT, 48)
    assert statistics.fmean(map(pocket.is_quiz, answers)) >= 0.9


def test_sft_answers(sft_answers: list[str]):
    assert not any(map(pocket.is_quiz, sft_answers))
    verdicts = [verdict(find_question(p), a) for p, a in zip(HELDOUT, sft_answers, strict=True)]
    assert verdicts.count("right") / len(verdicts) > 0.7


def test_sampled_sft_answers_are_mixed_and_imperfect(sft: Backbone):
    answers = generate_text(sft, HELDOUT, 48, temperature=1.0, seed=1)
    verdicts = [verdict(find_question(p), a) for p, a in zip(HELDOUT, answers, strict=True)]
    assert 0.1 < verdicts.count("wrong") / len(verdicts) < 0.5
    assert statistics.stdev(len(a.split()) for a in answers) > 3


@pytest.mark.slow
def test_stored_comparisons():
    train, heldout = pocket.rankings("train"), pocket.rankings("heldout")
    assert {r.prompt for r in train} <= set(pocket.prompts("train"))
    assert {r.prompt for r in heldout} <= set(HELDOUT)
    assert all(len(set(r.responses)) == 4 for r in train + heldout)
    assert len(pocket.preference_pairs("train")) == 6 * len(train) > 10_000
    assert pocket.preference_pairs("heldout") == pocket.preference_pairs("heldout")
    assert pocket.preference_pairs("heldout") != pocket.preference_pairs("heldout", seed=1)
    with pytest.raises(ValueError, match="'all'"):
        pocket.rankings("all")


@pytest.mark.slow
def test_the_reward_model_is_within_three_points_of_the_best(reward_model: RewardModel):
    pairs = pocket.preference_pairs("heldout")
    accuracy = RewardTrainer(RewardConfig(), reward_model, pairs).evaluate(pairs)["accuracy"]
    assert accuracy > pocket.best_accuracy(pairs) - 0.03


def test_the_reward_model_is_calibrated_on_sft_answers(sft: Backbone, reward_model: RewardModel):
    answers = generate_text(sft, HELDOUT, 48, temperature=1.0, seed=2)
    scores = torch.tensor(reward_model.scores(HELDOUT, answers))
    assert abs(float(scores.mean())) < 0.3
    assert 0.7 < float(scores.std()) < 1.3


def test_another_name_is_refused():
    with pytest.raises(ValueError, match="'reward'"):
        pocket.load_backbone("reward")


def test_answers_are_sampled_anew_the_same(sft: Backbone, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ppo_lib.pocket.comparisons.prompts", lambda split: HELDOUT[:8])
    first = sample_answers(sft, "heldout", rounds=1)
    assert first == sample_answers(sft, "heldout", rounds=1)
    assert first != sample_answers(sft, "heldout", rounds=1, seed=1)


def test_tokenizer_and_pretraining_are_reproducible():
    """Two short builds give the same bits, and the loss falls: the full build is the same code with more steps."""
    tokenizer, again = train_tokenizer(n_documents=500), train_tokenizer(n_documents=500)
    assert tokenizer.get_vocab() == again.get_vocab()
    models = [pretrain(t, steps=3, batch=4, width=32) for t in (tokenizer, again)]
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)
    row = next(rows(tokenizer, seed=0, width=64))
    assert len(row) == 64
