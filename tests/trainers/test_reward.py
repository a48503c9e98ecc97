"""Reward-model training: Bradley-Terry on pooled scores, and nothing else moves."""

import math
from itertools import chain

import pytest
import torch
from tiny import (
    EOS,
    MANY_EOS,
    check_equal_updates,
    check_goes_on,
    check_schedule,
    copies,
    only_these_move,
    plain,
    randomise,
)

from ppo_lib.formulas.losses import bradley_terry_loss
from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.reward_model import RewardModel
from ppo_lib.models.tokens import decode_prompts
from ppo_lib.run import stages
from ppo_lib.sampling.rollout import sample
from ppo_lib.trainers.configuration import ConfigError, RewardConfig
from ppo_lib.trainers.reward import RewardTrainer, pairs_from_ranking, rankings_of

GOOD, BAD = ["yes!", "yes, it is", "oh yes"], ["no", "no, never so", "not"]
PAIRS = [(f"Q{i}?", good, bad) for i in range(4) for good in GOOD for bad in BAD]


def build(backbone, **options) -> RewardTrainer:
    options = {"batch": 14, "microbatch": 14, "learning_rate": 1e-2, "lora_rank": 4, **options}
    model = RewardModel(backbone, lora_rank=options["lora_rank"])
    return RewardTrainer(RewardConfig(**options), model, PAIRS)


def test_a_ranking_gives_all_its_ordered_pairs():
    pairs = pairs_from_ranking("x", ["B", "A", "D", "C"])
    assert ["".join(pair[1:]) for pair in pairs] == ["BA", "BD", "BC", "AD", "AC", "DC"]
    assert {pair[0] for pair in pairs} == {"x"}


def test_the_pairs_of_a_ranking_stay_together():
    pairs = pairs_from_ranking("x", "BADC") + pairs_from_ranking("z", "BADC") + [("w", "a", "b")]
    assert [len(ranking) for ranking in rankings_of(pairs, 64)] == [6, 6, 1]
    assert [len(ranking) for ranking in rankings_of(pairs, 4)] == [4, 2, 4, 2, 1]
    assert list(chain.from_iterable(rankings_of(pairs, 4))) == pairs


def test_each_response_of_a_ranking_is_scored_once(build_tiny, monkeypatch):
    trainer = build(build_tiny())
    seen = []
    monkeypatch.setattr(trainer.model, "forward", lambda batch: seen.append(len(batch)) or torch.arange(len(batch)))
    chosen, rejected = trainer.score_pairs(pairs_from_ranking("x", ["B", "A", "D", "C"]))
    assert seen == [4]
    assert chosen.tolist() == [0, 0, 0, 1, 1, 2]
    assert rejected.tolist() == [1, 2, 3, 2, 3, 3]


def test_the_step_reports_the_loss_of_its_pairs_and_starts_at_log_2(build_tiny):
    trainer = build(build_tiny())
    assert trainer.evaluate(PAIRS[:5])["accuracy"] == 0.0
    metrics = trainer.step()
    assert metrics["loss"] == pytest.approx(math.log(2))
    assert metrics["accuracy"] == 0.0  # equal scores are not a right answer
    chosen, rejected = trainer.score_pairs(PAIRS[:5])
    prompts, good, bad = zip(*PAIRS[:5], strict=True)
    assert chosen.tolist() == pytest.approx(trainer.model.scores(prompts, good), abs=1e-5)
    assert rejected.tolist() == pytest.approx(trainer.model.scores(prompts, bad), abs=1e-5)
    seen = trainer.evaluate(PAIRS[:5])
    assert seen["loss"] == pytest.approx(bradley_terry_loss(chosen, rejected).item())
    assert seen["accuracy"] == pytest.approx((chosen > rejected).double().mean().item())


def test_one_two_and_seven_microbatches_give_one_update(build_tiny):
    after = []
    for microbatch in (14, 7, 2):
        trainer = build(build_tiny(dtype="float64"), microbatch=microbatch)
        randomise(trainer.model.parameters_to_train())
        after.append((plain(trainer.step()), copies(trainer.optimizer.parameters)))
    check_equal_updates(after)


def test_it_learns_and_goes_on_bit_for_bit_where_it_was_stopped(build_tiny):
    options = {"epochs": 5, "batch": 6, "microbatch": 4}
    trainer, resumed = (build(build_tiny(), **options) for _ in range(2))
    check_goes_on(trainer, resumed, 5, 15)
    for a, b in zip(trainer.optimizer.parameters, resumed.optimizer.parameters, strict=True):
        assert torch.equal(a, b)
    held_out = [("A new one?", good, bad) for good in GOOD for bad in BAD]
    assert trainer.evaluate(held_out)["accuracy"] > 0.9
    assert trainer.evaluate(held_out)["loss"] < 0.3


def test_a_part_of_a_batch_is_none(build_tiny):
    assert build(build_tiny(), epochs=2, batch=27, microbatch=27).iterations == 2  # three of four rankings at a time


def test_the_learning_rate_follows_the_schedule(build_tiny):
    check_schedule(build(build_tiny(), batch=9, microbatch=9), 4)


def test_only_its_own_adapter_and_head_move(build_tiny):
    backbone = build_tiny()
    policy = ActorCritic(backbone)
    randomise(policy.parameters_to_train())
    trainer = build(backbone, epochs=4)
    bias = trainer.model.head.bias  # cancels in pairs
    own = [p for p in trainer.model.parameters_to_train() if p is not bias]
    with only_these_move(own, policy, trainer.model, perhaps=[bias]):
        for _ in range(3):
            trainer.step()


def test_the_saved_model_scores_the_same(build_tiny, tmp_path):
    trainer = build(build_tiny())
    for _ in range(3):
        trainer.step()
    trainer.save(tmp_path)
    loaded = RewardModel.from_pretrained(tmp_path)
    assert loaded.scores(["a"] * 3, GOOD) == trainer.model.scores(["a"] * 3, GOOD)


def calibrating(backbone, pairs=PAIRS) -> stages.CalibratedRewardTrainer:
    """Reward training with a head that has learned something."""
    trainer = stages.CalibratedRewardTrainer(RewardConfig(lora_rank=4), RewardModel(backbone, lora_rank=4), pairs)
    randomise(trainer.model.parameters_to_train())
    return trainer


def test_calibration_answers_in_batches_of_bounded_size_and_ends_at_mean_0_and_deviation_1(build_tiny, monkeypatch):
    trainer, seeds, budgets, drawn = calibrating(build_tiny()), [], [], []

    def answer(backbone, prompts, budget, temperature, adapter, generator):
        seeds.append(generator.initial_seed())
        budgets.append(budget)
        drawn.append(sample(backbone, prompts, budget, temperature, adapter, generator))
        return drawn[-1]

    monkeypatch.setattr(stages, "sample", answer)
    monkeypatch.setattr(stages, "CALIBRATION_TOKENS", 1000)
    said = trainer.calibrate()
    tokenizer, batches = trainer.model.backbone.tokenizer, [sampled.batch for sampled in drawn]
    prompts = [prompt for batch in batches for prompt in decode_prompts(tokenizer, batch)]
    assert prompts == [f"Q{i % 4}?" for i in range(256)]
    assert len(set(seeds)) == len(seeds) > 1
    assert set(budgets) == {len("yes, it is")}
    assert all(len(batch) * (len("Q0?") + len("yes, it is")) <= 1000 for batch in batches)
    finished = [bool(ended) for sampled in drawn for ended in sampled.finished]
    scores = torch.cat([trainer.model.score_batch(batch) for batch in batches])
    assert abs(float(scores.mean())) < 1e-5
    assert float(scores.std()) == pytest.approx(1, abs=1e-5)
    assert f"256 answers of the SFT model, {256 - sum(finished)} of them cut off at 10 tokens" in said


def test_calibration_reads_truncated_answers_as_truncated(build_tiny, monkeypatch):
    """A reward model that sees nothing but the EOS tells the truncated answers from the others: mean and spread do."""
    trainer = calibrating(build_tiny(eos=MANY_EOS))
    ended, drawn = [], []
    monkeypatch.setattr(stages, "sample", lambda *how: drawn.append(sample(*how)) or drawn[-1])

    def last_is_eos(batch):
        last = batch.sequences.gather(1, (batch.prompt_width + batch.response_lengths - 1).unsqueeze(1)).squeeze(1)
        ended.extend((last == EOS).tolist())
        return (last == EOS).float()

    monkeypatch.setattr(trainer.model, "forward", last_is_eos)
    trainer.calibrate()
    finished = torch.cat([sampled.finished for sampled in drawn])
    assert 0 < int(finished.sum()) < 256
    assert ended == finished.tolist()
    assert float(trainer.model.mean) == pytest.approx(float(finished.double().mean()))


def test_saving_only_writes(build_tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "sample", None)
    trainer = calibrating(build_tiny())
    trainer.save(tmp_path)
    assert (float(trainer.model.mean), float(trainer.model.std)) == (0.0, 1.0)
    assert (tmp_path / "reward_head.safetensors").is_file()


def test_pairs_are_evaluated_in_batches_of_four_microbatches(build_tiny, monkeypatch):
    trainer = build(build_tiny(), microbatch=2)
    whole = RewardTrainer(RewardConfig(microbatch=64), trainer.model, PAIRS).evaluate(PAIRS)
    sizes, score_pairs = [], trainer.score_pairs
    monkeypatch.setattr(trainer, "score_pairs", lambda pairs: sizes.append(len(pairs)) or score_pairs(pairs))
    assert trainer.evaluate(PAIRS) == pytest.approx(whole)
    assert sizes == [8, 8, 8, 8, 4]


def test_refusals(build_tiny):
    with pytest.raises(ValueError, match="no example"):
        RewardTrainer(RewardConfig(), RewardModel(build_tiny()), [])
    with pytest.raises(ValueError, match=r"pair 0 .*at most 5 fit"):
        build(build_tiny(), max_length=5)
    for options in ({"epochs": 0}, {"lora_rank": 0}, {"max_grad_norm": 0.0}, {"seed": -1}):
        with pytest.raises(ConfigError, match=f"{next(iter(options))} is"):
            RewardConfig(**options)


def test_what_was_trained_is_kept_where_no_scale_can_be_fixed(build_tiny, tmp_path):
    """Comparisons that fill the context, and a model that says the same to all: a sentence, and raw scores."""
    full = "p" * 90  # of a context of 96: five tokens are left for an answer
    trainer = calibrating(build_tiny(), [(full, "y" * 5, "n"), ("Q", "an answer", "no")])
    assert "cut off at 6 tokens" in trainer.calibrate()
    silent = stages.CalibratedRewardTrainer(RewardConfig(lora_rank=2), RewardModel(build_tiny(), 2), PAIRS)
    said = silent.calibrate()  # its head has learned nothing
    assert said.startswith("not calibrated, so that scores stay raw")
    assert "scores that do not differ" in said
    silent.save(tmp_path)
    assert RewardModel.from_pretrained(tmp_path).scores(["a"], ["b"]) == [0.0]
