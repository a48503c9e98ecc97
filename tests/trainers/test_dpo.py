"""DPO: its loss by hand, its optimum by enumeration, and a trainer that moves the actor's adapter and nothing else."""

import math

import pytest
import torch
from tiny import (
    GARBAGE,
    check_equal_updates,
    check_goes_on,
    check_schedule,
    copies,
    only_these_move,
    plain,
    ragged,
    randomise,
)

from ppo_lib.formulas.dpo import dpo_loss, implicit_rewards
from ppo_lib.formulas.losses import bradley_terry_loss
from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.sampling.rollout import generate_text
from ppo_lib.trainers.configuration import ConfigError, DPOConfig
from ppo_lib.trainers.dpo import DPOTrainer

GOOD, BAD = ["yes!", "yes, it is", "oh yes"], ["no", "no, never so", "not"]
PAIRS = [(f"Q{i}?", good, bad) for i in range(4) for good in GOOD for bad in BAD]

# Five responses to one prompt: reference and reward, as in the explorer of the closed form.
REFERENCE = torch.tensor([0.45, 0.25, 0.15, 0.14, 0.01], dtype=torch.float64)
REWARD = torch.tensor([0.6, -1.0, 0.4, 1.0, 2.0], dtype=torch.float64)
FIRST, SECOND = (index.flatten() for index in torch.meshgrid(torch.arange(5), torch.arange(5), indexing="ij"))


def preferences(logits: torch.Tensor, beta: float) -> torch.Tensor:
    """DPO's loss over all 25 ordered pairs, each as often as its labelers choose it: no sampling anywhere."""
    logp = torch.log_softmax(logits, 0)
    moved = torch.cat([logp[FIRST], logp[SECOND]]).unsqueeze(1)  # a response of one token
    anchor = torch.cat([REFERENCE.log()[FIRST], REFERENCE.log()[SECOND]]).unsqueeze(1)
    rewards = implicit_rewards(moved, anchor, torch.ones(50, 1), beta)
    per_pair = [bradley_terry_loss(rewards[i : i + 1], rewards[25 + i : 26 + i]) for i in range(25)]
    chance = torch.sigmoid(REWARD[FIRST] - REWARD[SECOND]) * REFERENCE[FIRST] * REFERENCE[SECOND]
    return (chance * torch.stack(per_pair)).sum()


# ---------------------------------------------------------------------------------------------------------- the loss


def test_the_loss_and_its_gradient_by_hand():
    logprobs = torch.tensor([[-1.0, -2.0], [-1.5, -0.5]], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([[-1.5, -2.5], [-1.0, -0.5]], dtype=torch.float64)
    out = dpo_loss(logprobs, reference, torch.ones(2, 2), beta=0.5)
    # log-ratios: chosen (+0.5) + (+0.5) = 1, rejected (-0.5) + 0 = -0.5; rewards are half of that
    assert (out.chosen.item(), out.rejected.item()) == pytest.approx((0.5, -0.25))
    assert out.loss.item() == pytest.approx(math.log(1 + math.exp(-0.75)))
    out.loss.backward()
    slope = 0.5 / (1 + math.exp(0.75))  # beta * sigma(-margin), the same for every token of a response
    assert logprobs.grad.tolist() == [pytest.approx([-slope] * 2), pytest.approx([slope] * 2)]


def test_it_is_bradley_terry_on_implicit_rewards_and_log_2_at_the_reference():
    reference, mask = ragged(1, rows=6)
    logprobs, _ = ragged(2, rows=6)
    rewards = implicit_rewards(logprobs, reference, mask, 0.3)
    for b in range(6):
        expected = 0.3 * sum((logprobs - reference)[b, t].item() for t in range(int(mask[b].sum())))
        assert rewards[b].item() == pytest.approx(expected)
    out = dpo_loss(logprobs, reference, mask, 0.3)
    assert torch.equal(out.loss, bradley_terry_loss(rewards[:3], rewards[3:]))
    assert torch.equal(torch.cat([out.chosen, out.rejected]), rewards)
    assert dpo_loss(reference, reference, mask, 0.3).loss.item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("garbage", GARBAGE)
def test_padding_changes_neither_loss_nor_gradient(garbage):
    (logprobs, mask), (reference, _) = ragged(3, rows=4), ragged(4, rows=4)
    results = []
    for filler in (0.0, garbage):
        x = torch.where(mask.bool(), logprobs, filler).requires_grad_()
        out = dpo_loss(x, torch.where(mask.bool(), reference, filler), mask, 0.2)
        results.append((out.loss.detach(), torch.autograd.grad(out.loss, x)[0]))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_the_reference_gets_no_gradient():
    (logprobs, mask), (reference, _) = ragged(3, rows=4), ragged(4, rows=4)
    reference.requires_grad_()
    dpo_loss(logprobs.requires_grad_(), reference, mask, 0.2).loss.backward()
    assert reference.grad is None
    assert logprobs.grad.abs().sum() > 0


# ------------------------------------------------------------------------------------------------------- its optimum


@pytest.mark.parametrize("beta", [0.2, 0.5, 2.0])
def test_the_minimum_of_dpo_is_the_kl_regularised_optimum(beta):
    """All preferences of labelers who follow Bradley-Terry, enumerated: descent ends at pi_ref * exp(r / beta) / Z."""
    logits = REFERENCE.log().clone().requires_grad_()
    optimizer = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-12, tolerance_change=0, history_size=20)

    def closure():
        optimizer.zero_grad()
        loss = preferences(logits, beta)
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)
    found, wanted = torch.softmax(logits.detach(), 0), torch.softmax(REFERENCE.log() + REWARD / beta, 0)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert (found - REFERENCE).abs().max() > 0.1  # it had to move

    at_optimum = (REFERENCE.log() + REWARD / beta).requires_grad_()
    (gradient,) = torch.autograd.grad(preferences(at_optimum, beta), at_optimum)
    assert gradient.abs().max() < 1e-12
    half = (REFERENCE.log() + REWARD / (2 * beta)).requires_grad_()  # the optimum of another beta is none
    (gradient,) = torch.autograd.grad(preferences(half, beta), half)
    assert gradient.abs().max() > 1e-4


def test_that_optimum_maximises_reward_less_beta_times_kl():
    """The objective falls short of its maximum beta * log Z by beta * KL(pi || pi*), for any policy."""
    beta, generator = 0.5, torch.Generator().manual_seed(0)
    log_z = torch.logsumexp(REFERENCE.log() + REWARD / beta, 0)
    best = REFERENCE.log() + REWARD / beta - log_z
    for _ in range(50):
        logp = torch.log_softmax(2 * torch.randn(5, generator=generator, dtype=torch.float64), 0)
        p = logp.exp()
        objective = p @ REWARD - beta * p @ (logp - REFERENCE.log())
        torch.testing.assert_close(objective, beta * log_z - beta * p @ (logp - best))
        assert objective < beta * log_z


# ----------------------------------------------------------------------------------------------------- the trainer


def build(backbone, **options) -> DPOTrainer:
    options = {"batch": 14, "microbatch": 14, "learning_rate": 1e-2, "lora_rank": 4, "beta": 0.5, **options}
    return DPOTrainer(DPOConfig(**options), ActorCritic(backbone, lora_rank=options["lora_rank"]), PAIRS)


def test_a_step_reports_the_loss_of_its_pairs_and_starts_at_log_2(build_tiny):
    trainer = build(build_tiny())
    metrics = trainer.step()
    assert metrics["loss"] == pytest.approx(math.log(2))
    assert metrics["margin"] == pytest.approx(0, abs=1e-6)
    rows = [PAIRS[i] for i in DPOTrainer(trainer.config, trainer.policy, PAIRS).order.draw(14)]
    assert metrics["tokens"] == sum(len(good) + len(bad) + 2 for _, good, bad in rows)  # bytes, and two EOS


def test_the_margin_is_beta_times_the_difference_of_log_ratios_of_whole_responses(build_tiny):
    trainer = build(build_tiny(dtype="float64"))
    randomise(trainer.optimizer.parameters, scale=0.2)
    batch = trainer.encode(PAIRS[:5])
    with torch.no_grad():
        logp = torch.log_softmax(trainer.policy(batch).logits, -1)
        states = trainer.backbone.hidden_states(batch)[:, batch.prompt_width - 1 : -1]
        ref = torch.log_softmax(trainer.backbone.logits(states), -1)
    token = batch.responses.unsqueeze(-1)
    ratio = (((logp - ref).gather(-1, token).squeeze(-1)) * batch.mask).sum(1)
    metrics = trainer.evaluate(PAIRS[:5])
    assert metrics["margin"] == pytest.approx(0.5 * float((ratio[:5] - ratio[5:]).mean()))
    assert metrics["accuracy"] == pytest.approx(float((ratio[:5] > ratio[5:]).double().mean()))
    assert metrics["chosen_logprob_change"] == pytest.approx(float(ratio[:5].mean()))
    assert metrics["rejected_logprob_change"] == pytest.approx(float(ratio[5:].mean()))
    loss = torch.nn.functional.softplus(-0.5 * (ratio[:5] - ratio[5:])).mean()
    assert metrics["loss"] == pytest.approx(float(loss))


def test_one_two_and_seven_microbatches_give_one_update(build_tiny):
    after = []
    for microbatch in (14, 7, 2):
        trainer = build(build_tiny(dtype="float64"), microbatch=microbatch)
        randomise(trainer.optimizer.parameters)
        after.append((plain(trainer.step()), copies(trainer.optimizer.parameters)))
    check_equal_updates(after)


def test_it_learns_and_goes_on_bit_for_bit_where_it_was_stopped(build_tiny):
    options = {"epochs": 4, "batch": 6, "microbatch": 4}
    trainer, resumed = (build(build_tiny(), **options) for _ in range(2))
    check_goes_on(trainer, resumed, 5, 15)
    assert trainer.evaluate([("A new one?", good, bad) for good in GOOD for bad in BAD])["accuracy"] > 0.9


def test_a_part_of_a_batch_is_none(build_tiny):
    assert build(build_tiny(), epochs=2, batch=14, microbatch=14).iterations == 4  # of 36 pairs


def test_the_learning_rate_follows_the_schedule(build_tiny):
    check_schedule(build(build_tiny(), batch=9, microbatch=9), 4)


def test_only_the_actors_adapter_moves_and_what_is_saved_answers_the_same(build_tiny, tmp_path):
    trainer = build(build_tiny(), epochs=4)
    batch = trainer.encode(PAIRS[:3])
    reference = trainer.policy.reference_logprobs(batch)
    with only_these_move(trainer.backbone.adapter_parameters("policy"), trainer.policy):
        for _ in range(3):
            trainer.step()
    assert torch.equal(trainer.policy.reference_logprobs(batch), reference)
    assert trainer.policy.evaluate(batch).logprobs.detach().sub(reference).abs().max() > 1e-3
    trainer.save(tmp_path)
    loaded = ActorCritic.from_pretrained(tmp_path)
    answers = [generate_text(b, ["Q1?"], 8, adapter="policy") for b in (trainer.backbone, loaded.backbone)]
    assert answers[0] == answers[1]


# ------------------------------------------------------------------------------------------------------ refusals


def test_refusals_of_the_loss():
    x, mask = ragged(0, rows=4)
    with pytest.raises(ValueError, match=r"beta is 0.0, but must be above 0"):
        dpo_loss(x, x, mask, 0.0)
    with pytest.raises(ValueError, match="there are 3 rows, but must be 2N"):
        dpo_loss(x[:3], x[:3], mask[:3], 0.1)
    with pytest.raises(ValueError, match="ref_logprobs has shape"):
        dpo_loss(x, x[:, :2], mask, 0.1)
    with pytest.raises(ValueError, match=r"mask of shape .* is empty"):
        dpo_loss(x, x, torch.zeros_like(mask), 0.1)
    with pytest.raises(ValueError, match="logprobs is NaN or infinite at a counted token"):
        dpo_loss(x * math.nan, x, mask, 0.1)


def test_refusals_of_the_trainer(build_tiny):
    with pytest.raises(ValueError, match="no example"):
        DPOTrainer(DPOConfig(), ActorCritic(build_tiny()), [])
    with pytest.raises(ValueError, match=r"pair 0 .*at most 5 fit"):
        build(build_tiny(), max_length=5)
    for options in ({"epochs": 0}, {"beta": 0.0}, {"max_grad_norm": 0.0}, {"seed": -1}):
        with pytest.raises(ConfigError, match=f"{next(iter(options))} is"):
            DPOConfig(**options)
