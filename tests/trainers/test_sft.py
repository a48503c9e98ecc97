"""Supervised fine-tuning: the loss is the formula's, and only the response is learned from."""

import math

import pytest
import torch
from tiny import EOS, PAD, check_equal_updates, check_goes_on, check_schedule, copies, only_these_move, plain
from transformers import AutoModelForCausalLM

from ppo_lib.formulas.losses import sft_loss
from ppo_lib.models.backbone import Backbone
from ppo_lib.models.tokens import encode_pairs
from ppo_lib.sampling.rollout import generate_text
from ppo_lib.trainers.configuration import ConfigError, SFTConfig
from ppo_lib.trainers.sft import SFTTrainer

PAIRS = [("capital of A?", "Ab."), ("capital of B?", "Bcd"), ("C?", ""), ("and D?", "Dora, the old"), ("E", "e")] * 3


def build(backbone: Backbone, **options: object) -> SFTTrainer:
    return SFTTrainer(SFTConfig(**{"batch": 14, "microbatch": 14, "learning_rate": 1e-2, **options}), backbone, PAIRS)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("rank", [0, 4])
def test_the_loss_is_the_cross_entropy_of_the_response_tokens(build_tiny, architecture, rank):
    trainer = build(build_tiny(architecture), lora_rank=rank)
    prompts, responses = zip(*PAIRS[:5], strict=True)
    loss, tokens = trainer.loss(prompts, responses)
    batch = encode_pairs(trainer.backbone.tokenizer, prompts, responses, EOS, PAD)
    logits = trainer.backbone.logits(trainer.backbone.hidden_states(batch))
    torch.testing.assert_close(loss, sft_loss(logits, batch.labels), atol=1e-5, rtol=1e-5)
    assert tokens == sum(len(response) + 1 for response in responses)  # a byte is a token; and the EOS


@pytest.mark.parametrize("rank", [0, 4])
def test_one_two_and_seven_microbatches_give_one_update(build_tiny, rank):
    after = []
    for microbatch in (14, 7, 2):
        trainer = build(build_tiny(dtype="float64"), lora_rank=rank, microbatch=microbatch)
        metrics = plain(trainer.step())
        after.append((metrics, copies(trainer.optimizer.parameters)))
    check_equal_updates(after)


def test_the_gradient_is_that_of_the_mean_over_all_tokens(build_tiny):
    trainer = build(build_tiny(dtype="float64"), batch=len(PAIRS), microbatch=4)
    trainer.loss(*zip(*PAIRS, strict=True))[0].backward()
    gradients = [p.grad for p in trainer.optimizer.parameters if p.grad is not None]
    expected = torch.nn.utils.get_total_norm(gradients)
    trainer.optimizer.adam.zero_grad()
    assert trainer.step()["grad_norm"] == pytest.approx(float(expected))


@pytest.mark.parametrize("rank", [0, 4])
def test_it_learns_and_goes_on_bit_for_bit_where_it_was_stopped(build_tiny, rank):
    options = {"lora_rank": rank, "epochs": 12, "batch": 5, "microbatch": 3}
    trainer, resumed = (build(build_tiny(), **options) for _ in range(2))
    before = trainer.evaluate(PAIRS[:5])
    check_goes_on(trainer, resumed, 4, 4)
    for a, b in zip(trainer.optimizer.parameters, resumed.optimizer.parameters, strict=True):
        assert torch.equal(a, b)
    assert trainer.evaluate(PAIRS[:5]) < before - 0.3


def test_it_is_evaluated_in_microbatches_and_every_token_weighs_the_same(build_tiny, monkeypatch):
    trainer = build(build_tiny(dtype="float64"), microbatch=2)
    whole = trainer.loss(*zip(*PAIRS[:5], strict=True))[0].item()
    sizes, hidden_states = [], trainer.backbone.hidden_states

    def counted(batch, adapter=None):
        sizes.append(len(batch))
        return hidden_states(batch, adapter)

    monkeypatch.setattr(trainer.backbone, "hidden_states", counted)
    assert trainer.evaluate(PAIRS[:5]) == pytest.approx(whole, abs=1e-6)
    assert sizes == [2, 2, 1]
    with pytest.raises(ValueError, match="no demonstration to evaluate on"):
        trainer.evaluate([])


def test_iterations_are_epochs_times_batches(build_tiny):
    assert build(build_tiny(), epochs=3, batch=5, microbatch=5).iterations == 9
    assert build(build_tiny(), epochs=2, batch=64, microbatch=5).iterations == 2
    assert build(build_tiny(), epochs=2, batch=4, microbatch=4).iterations == 6  # of 15; a part of a batch is none


def test_the_learning_rate_follows_the_schedule(build_tiny):
    check_schedule(build(build_tiny(), epochs=2, batch=5, microbatch=5), 4)


def test_with_an_adapter_the_backbone_does_not_move(build_tiny):
    trainer = build(build_tiny(), lora_rank=4)
    with only_these_move(trainer.backbone.adapter_parameters("policy"), trainer.backbone):
        for _ in range(2):
            trainer.step()


@pytest.mark.parametrize("rank", [0, 4])
def test_the_saved_model_is_a_plain_one_that_says_the_same(build_tiny, tmp_path, rank):
    trainer = build(build_tiny(), lora_rank=rank)
    for _ in range(3):
        trainer.step()
    trainer.save(tmp_path)
    loaded = Backbone.from_pretrained(tmp_path)
    assert loaded.adapters == []
    assert loaded.eos_token_ids == trainer.backbone.eos_token_ids
    prompts = [prompt for prompt, _ in PAIRS[:3]]
    adapter = "policy" if rank else None
    assert generate_text(loaded, prompts, 8) == generate_text(trainer.backbone, prompts, 8, adapter=adapter)
    AutoModelForCausalLM.from_pretrained(tmp_path)


def test_refusals(build_tiny):
    with pytest.raises(ValueError, match="no example"):
        SFTTrainer(SFTConfig(), build_tiny(), [])
    with pytest.raises(ValueError, match=r"pair 0 \('capital of A.*at most 10 fit"):  # before training
        build(build_tiny(), max_length=10)
    with pytest.raises(ValueError, match="at most 96 fit"):
        SFTTrainer(SFTConfig(batch=1, microbatch=1), build_tiny(), [("a", "b" * 200)])
    for options in ({"epochs": 0}, {"learning_rate": -1.0}, {"lora_rank": -1}, {"dtype": "int8"}, {"batch": 1.5}):
        with pytest.raises(ConfigError, match=f"{next(iter(options))} is"):
            SFTConfig(**options)


def test_a_model_that_knows_nothing_pays_log_v(build_tiny):
    trainer = build(build_tiny())
    with torch.no_grad():
        trainer.backbone.causal_lm.get_output_embeddings().weight.zero_()
    assert trainer.evaluate(PAIRS[:2]) == pytest.approx(math.log(258), abs=1e-5)
