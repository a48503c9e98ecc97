"""A beginning that all prompts share is read once, and nothing but rounding tells."""

import pytest
import torch
from tiny import ARCHITECTURES, PROMPTS, randomise

from ppo_lib.models import prefix
from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.tokens import pad_pairs, shared_prefix
from ppo_lib.sampling.rollout import sample

SYSTEM = list(range(40, 60))
FULL = [name for name in ARCHITECTURES if name not in ("gemma2", "gemma3")]


def chat_batch(shared=SYSTEM):
    """Ragged prompts with one beginning, ragged responses."""
    prompts = [[*shared, *range(70, 70 + n)] for n in (3, 1, 7, 2)]
    responses = [list(range(90, 90 + n)) for n in (4, 6, 1, 3)]
    return pad_pairs([[*p[:-1], p[-1] + i] for i, p in enumerate(prompts)], responses, 1)


@pytest.mark.parametrize(
    ("prompts", "shared"),
    [
        ([[5, 6, 7], [5, 6, 8]], 2),
        ([[5, 6], [5, 6, 8]], 1),  # the shorter one keeps a token of its own
        ([[5, 6], [5, 6]], 1),
        ([[5], [5, 6, 8]], 0),
        ([[4, 6, 7], [5, 6, 8]], 0),
        ([[1, 2, 9], [1, 2, 3], [1, 4, 3]], 1),
    ],
)
def test_what_is_shared_is_what_all_begin_with_less_a_token_of_their_own(prompts, shared):
    assert shared_prefix(prompts) == shared
    batch = pad_pairs(prompts, [[9]] * len(prompts), 0)
    assert batch.shared == batch.select([0]).shared == shared


@pytest.mark.parametrize("architecture", FULL)
def test_log_probs_values_and_every_gradient_are_those_of_whole_rows(build_tiny, architecture, monkeypatch):
    read = []
    real = prefix.states_after_prefix
    monkeypatch.setattr(
        "ppo_lib.models.backbone.states_after_prefix", lambda *args: read.append(args[2]) or real(*args)
    )
    policy = ActorCritic(build_tiny(architecture, dtype="float64"), lora_rank=4)
    randomise(policy.parameters_to_train())
    batch, seen = chat_batch(), []
    for share in (True, False):
        policy.backbone.share_prefix = share
        now = policy.evaluate(batch)
        reference = policy.reference_logprobs(batch)
        (now.logprobs.square().sum() + now.values.square().sum()).backward()
        seen.append([*(x.detach() for x in now), reference, *(p.grad for p in policy.parameters_to_train())])
        policy.zero_grad()
    assert read == [len(SYSTEM)] * 2
    for a, b in zip(*seen, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5 * float(b.abs().max()), rtol=0)  # norms compute in float32
    assert all(float(x.abs().max()) > 0 for x in seen[0])


@pytest.mark.parametrize("reason", ["few tokens", "one row", "sliding windows", "switched off"])
def test_rows_are_read_whole_where_sharing_would_not_pay_or_not_be_right(build_tiny, reason, monkeypatch):
    backbone = build_tiny("gemma2" if reason == "sliding windows" else "llama")
    monkeypatch.setattr("ppo_lib.models.backbone.states_after_prefix", lambda *_: pytest.fail("shared"))
    batch = chat_batch(SYSTEM[:5] if reason == "few tokens" else SYSTEM)
    assert batch.shared == (5 if reason == "few tokens" else len(SYSTEM))
    backbone.share_prefix = reason != "switched off"
    backbone.hidden_states(batch.select([0]) if reason == "one row" else batch)


def test_a_copy_of_a_backbone_shares_as_it_does(build_tiny):
    backbone = build_tiny()
    backbone.share_prefix = False
    assert not backbone.copy().share_prefix


def test_with_gradient_checkpointing_rows_are_read_whole_and_gradients_agree(build_tiny):
    policy = ActorCritic(build_tiny(dtype="float64"), lora_rank=4)
    randomise(policy.parameters_to_train())
    gradients = []
    for again in (False, True):
        policy.backbone.gradient_checkpointing = again
        policy.evaluate(chat_batch()).logprobs.square().sum().backward()
        gradients.append([p.grad for p in policy.backbone.adapter_parameters("policy")])
        policy.zero_grad()
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5 * float(b.abs().max()), rtol=0)


def test_the_mask_shows_each_token_what_came_before_it_and_no_padding():
    real = torch.tensor([[True, True, False, True], [True, True, True, True]])
    mask = prefix.causal_mask(real, 2, torch.float32)
    seen = [[[1, 1, 0, 0], [1, 1, 0, 1]], [[1, 1, 1, 0], [1, 1, 1, 1]]]
    assert (mask[:, 0] == 0).long().tolist() == seen
    assert mask[mask != 0].unique().tolist() == [torch.finfo(torch.float32).min]
    assert mask.stride(2) % prefix.ALIGNED == 0


def test_texts_of_one_prompt_share_it_all_but_its_last_token(build_tiny):
    backbone = build_tiny()
    batch = backbone.encode_pairs([PROMPTS[3]] * 3, PROMPTS[:3])
    assert batch.shared == len(PROMPTS[3]) - 1


@pytest.mark.parametrize("static_cache", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_sampling_after_a_shared_beginning_draws_the_same_tokens(build_tiny, architecture, static_cache):
    backbone = build_tiny(architecture, eos=[0, *range(2, 20)])
    backbone.add_adapter("policy", rank=4)
    randomise(backbone.adapter_parameters("policy"))
    prompts = [[*SYSTEM, *range(70, 70 + n)] for n in (3, 1, 7, 2)]
    drawn = []
    for share in (True, False):
        backbone.share_prefix = share
        drawn.append(
            sample(backbone, prompts, 12, generator=torch.Generator().manual_seed(1), static_cache=static_cache)
        )
    assert torch.equal(drawn[0].batch.sequences, drawn[1].batch.sequences)
    assert drawn[0].batch.lengths == drawn[1].batch.lengths
    assert drawn[0].batch.shared == len(SYSTEM)  # so that scoring and training read it once, too
    assert torch.equal(drawn[0].finished, drawn[1].finished)
    assert len(set(drawn[0].batch.lengths)) > 1
