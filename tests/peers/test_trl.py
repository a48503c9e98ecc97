"""One whole iteration of TRL's PPO on fixed responses, repeated with this library's own functions.

Needs trl==1.12.0, the last release with PPO: ``make test-peers`` runs this in an environment of its own. TRL's trainer
runs as it is, in float64; its numbers are read where its own ``train`` holds them. What differs on purpose is said in
one place, :func:`one_token_later`.
"""

import os
import sys

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

pytest.importorskip("trl.experimental.ppo", reason="make test-peers installs trl==1.12.0 beside the project")
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

from ppo_lib.formulas.advantages import gae
from ppo_lib.formulas.kl import kl_estimate
from ppo_lib.formulas.losses import clipped_policy_loss, ppo_loss, value_loss
from ppo_lib.formulas.masking import whiten
from ppo_lib.formulas.rewards import augmented_rewards
from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.backbone import Backbone
from ppo_lib.models.tokens import TokenBatch
from ppo_lib.trainers.optimizer import Optimizer
from tests.tiny import EOS, PAD, byte_tokenizer

WIDTH, ROWS, EPOCHS, MINIBATCHES = 6, 10, 4, 2
ENDS = [0, 1, 3, WIDTH - 1, None] * 2  # where each response has its EOS: first, second, middle, last, never
BETA, LAM, RATE, VALUE_COEF = 0.05, 0.9, 1e-3, 0.1
VALUES = ("rewards", "values", "advantages", "returns")


def models(seed: int) -> tuple[LlamaForCausalLM, LlamaForSequenceClassification]:
    """A random policy, and a random network with one output."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=258, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_labels=1,
        eos_token_id=EOS, pad_token_id=PAD, bos_token_id=None,
    )  # fmt: skip
    both = LlamaForCausalLM(config).double(), LlamaForSequenceClassification(config).double()
    with torch.no_grad():
        for model in both:
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return both


def rollouts() -> tuple[Tensor, Tensor]:
    """Prompts ``(B, 4)``, padded on the left, and responses ``(B, T)``, which go on after their EOS."""
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(2, 258, (ROWS, 4), generator=generator)
    for row in range(0, ROWS, 3):
        prompts[row, :2] = PAD
    responses = torch.randint(2, 258, (ROWS, WIDTH), generator=generator)
    for row, end in enumerate(ENDS):
        if end is not None:
            responses[row, end] = EOS
    return prompts, responses


def run_trl(folder, monkeypatch):
    """TRL's iteration: its numbers, its losses with the rows they are of, and its trained models."""
    policy, value = models(0)
    reference = models(0)[0]
    prompts, responses = rollouts()
    seen, losses = {}, []

    def generate(lm, queries, batch, pad, config):
        together = torch.cat([prompts, responses], dim=1)
        logits = ppo_trainer.forward(lm, together, pad).logits[:, prompts.shape[1] - 1 : -1]
        return together, logits / (1.0 + 1e-7)

    def whitened(values, mask, shift_mean=True):
        local = sys._getframe(1).f_locals
        seen.update({name: local[name].clone() for name in ("rewards", "values", "returns", "scores")})
        return plain_whiten(values, mask, shift_mean)

    plain_whiten = ppo_trainer.masked_whiten
    monkeypatch.setattr(ppo_trainer, "batch_generation", generate)
    monkeypatch.setattr(ppo_trainer, "masked_whiten", whitened)
    data = [{"input_ids": row.tolist()} for row in prompts]
    from datasets import Dataset

    arguments = PPOConfig(
        output_dir=str(folder), per_device_train_batch_size=ROWS, gradient_accumulation_steps=1,
        num_mini_batches=MINIBATCHES, num_ppo_epochs=EPOCHS, total_episodes=ROWS, response_length=WIDTH,
        local_rollout_forward_batch_size=ROWS, temperature=1.0, kl_coef=BETA, lam=LAM, gamma=1.0, vf_coef=VALUE_COEF,
        learning_rate=RATE, num_sample_generations=0, gradient_checkpointing=False, bf16=False, use_cpu=True,
        save_strategy="no", report_to="none", disable_tqdm=True, stop_token="eos", missing_eos_penalty=None, seed=3,
    )  # fmt: skip
    trainer = PPOTrainer(
        args=arguments, processing_class=byte_tokenizer(), model=policy, ref_model=reference,
        reward_model=models(1)[1], value_model=value, train_dataset=Dataset.from_list(data),
        eval_dataset=Dataset.from_list(data),
    )  # fmt: skip
    backward = trainer.accelerator.backward

    def noted(loss):
        local = sys._getframe(1).f_locals
        seen["advantages"] = local["advantages"].clone()
        parts = local["pg_loss"], local["vf_loss"], loss
        losses.append((local["micro_batch_inds"].tolist(), [float(part.detach()) for part in parts]))
        backward(loss)

    monkeypatch.setattr(trainer.accelerator, "backward", noted)
    trainer.train()
    return seen, losses, policy, value


def one_token_later(prompts: Tensor, responses: Tensor) -> tuple[TokenBatch, Tensor, Tensor]:
    """The rollouts as TRL counts them: its score stands one token after the last one, where there is such a column.

    So its rewards, values and returns have one token more than its log-probs. Here the score stands on the last token
    itself. Its numbers come out of the same functions when they are given that longer mask.

    Returns:
        The batch with the token after each EOS, the mask ``(B, T)`` of the response proper, and the longer one.
    """
    lengths = torch.tensor([WIDTH if end is None else end + 1 for end in ENDS])
    longer = (lengths + 1).clamp(max=WIDTH)
    columns = torch.arange(WIDTH)
    sequences = torch.cat([prompts, responses.where(columns < longer[:, None], PAD)], dim=1)
    batch = TokenBatch(sequences, (prompts != PAD).sum(dim=1), longer, prompts.shape[1])
    return batch, (columns < lengths[:, None]).double(), (columns < longer[:, None]).double()


def our_policy() -> ActorCritic:
    """The same networks: all weights of actor and critic are trained."""
    causal_lm, value = models(0)
    backbone = Backbone(causal_lm, byte_tokenizer(), "random")
    policy = ActorCritic(backbone, finetune="full", critic="separate")
    with torch.no_grad():
        policy.critic.backbone.body.load_state_dict(value.model.state_dict())
        policy.value_head.weight.copy_(value.score.weight)
        if policy.value_head.bias is not None:
            policy.value_head.bias.zero_()
            policy.value_head.bias.requires_grad_(False)  # TRL's head has none
    return policy


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        return run_trl(tmp_path_factory.mktemp("trl"), monkeypatch)


@pytest.fixture(scope="module")
def ours(theirs):
    """The same iteration, of this library's functions; scores and the order of the rows are theirs."""
    seen, losses, *_ = theirs
    policy = our_policy()
    batch, mask, longer = one_token_later(*rollouts())
    with torch.no_grad():
        old = policy.evaluate(batch)
        kl = kl_estimate(old.logprobs, policy.reference_logprobs(batch), "k1") * mask
        rewards = augmented_rewards(seen["scores"], kl, longer, BETA)
        raw, returns = gae(rewards, old.values, longer, 1.0, LAM)
        advantages = whiten(raw, mask)
    found = {"rewards": rewards, "values": old.values, "advantages": advantages, "returns": returns}
    parameters = [p for p in policy.parameters_to_train() if p.requires_grad]
    optimizer = Optimizer(parameters, RATE, max_grad_norm=1e9)  # TRL's loop clips no gradient
    steps = []
    for rows, _ in losses:
        new = policy.evaluate(part_of(batch, rows))
        of_policy = clipped_policy_loss(new.logprobs, old.logprobs[rows], advantages[rows], mask[rows], 0.2).loss
        of_value = value_loss(new.values, returns[rows], longer[rows], old.values[rows], 0.2)
        loss = ppo_loss(of_policy, 0.5 * of_value, torch.zeros(()), VALUE_COEF, 0.0)  # TRL halves the square
        loss.backward()
        optimizer.step()
        steps.append([float(of_policy.detach()), 0.5 * float(of_value.detach()), float(loss.detach())])
    return found, steps, policy


def part_of(batch: TokenBatch, rows: list[int]) -> TokenBatch:
    """Some rows, at the batch's full width."""
    prompts, responses = batch.prompt_lengths[rows], batch.response_lengths[rows]
    return TokenBatch(batch.sequences[rows], prompts, responses, batch.prompt_width)


def test_the_fixed_responses_end_first_second_in_the_middle_last_and_never(theirs):
    assert len(theirs[1]) == EPOCHS * MINIBATCHES == 8
    assert {None, 0, 1, WIDTH - 1} < set(ENDS)


@pytest.mark.parametrize("name", VALUES)
def test_what_an_iteration_learns_from_is_equal(theirs, ours, name):
    torch.testing.assert_close(ours[0][name], theirs[0][name], atol=1e-6, rtol=0)


def test_the_losses_of_every_step_are_equal(theirs, ours):
    np.testing.assert_allclose(ours[1], [parts for _, parts in theirs[1]], atol=1e-6, rtol=0)


def test_the_weights_after_eight_steps_are_equal(theirs, ours):
    *_, policy, value = theirs
    start = models(0)
    for mine, trained, before in (
        (ours[2].actor.backbone.causal_lm, policy, start[0]),
        (ours[2].critic.backbone.body, value.model, start[1].model),
        (ours[2].value_head, value.score, start[1].score),
    ):
        found = dict(mine.named_parameters())
        for name, wanted in trained.named_parameters():
            torch.testing.assert_close(found[name], wanted, atol=1e-5, rtol=0)
        moved = max(float((p - q).abs().max()) for p, q in zip(trained.parameters(), before.parameters(), strict=True))
        assert moved > 1e-3  # so that equality says something
