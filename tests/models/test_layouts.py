"""Adapters or all weights, shared or separate critic: what moves, what stays, and what is saved, in every layout."""

import json
from itertools import product

import pytest
import torch
from peft import PeftModel
from tiny import MANY_EOS, PROMPTS, check_goes_on, copies, length, only_these_move, randomise
from transformers import AutoModelForCausalLM, AutoTokenizer

from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.reward_model import RewardModel
from ppo_lib.sampling.rollout import sample
from ppo_lib.trainers.configuration import ConfigError, PPOConfig
from ppo_lib.trainers.optimizer import Optimizer
from ppo_lib.trainers.ppo import PPOTrainer

LAYOUTS = list(product(("lora", "full"), ("shared", "separate")))
SMALL = {"rollout_batch": 14, "minibatch": 7, "microbatch": 4, "epochs": 2, "max_new_tokens": 9, "learning_rate": 1e-3}

layouts = pytest.mark.parametrize(("finetune", "critic"), LAYOUTS)


def noise(policy, seed=0):
    """Move adapters and heads anywhere, but full weights only a little: they are a model already."""
    generator = torch.Generator().manual_seed(seed)
    head = {id(p) for p in policy.value_head.parameters()}
    for p in policy.parameters_to_train():
        scale = 0.03 if policy.actor.adapter is None and id(p) not in head else 0.2
        p.data += (scale * torch.randn(p.shape, generator=generator)).to(p.dtype)


@pytest.fixture
def build(build_tiny):
    def make(finetune="lora", critic="shared", architecture="llama", dtype="float32", fresh=False, **options):
        backbone = build_tiny(architecture, dtype=dtype, eos=MANY_EOS)
        policy = ActorCritic(backbone, 4, finetune=finetune, critic=critic)
        if not fresh:
            noise(policy)
        config = PPOConfig(**{**SMALL, "dtype": dtype, "finetune": finetune, "critic": critic, **options})
        return PPOTrainer(config, policy, PROMPTS, length)

    return make


def trained(trainer):
    return copies(trainer.policy.parameters_to_train())


@layouts
def test_a_fresh_actor_is_the_reference_and_its_critic_says_0(build, finetune, critic):
    trainer = build(finetune, critic, fresh=True)
    e = trainer.collect(range(7))
    assert torch.equal(e.logprobs, e.ref_logprobs)
    assert (e.values == 0).all()


@layouts
def test_only_what_should_move_moves(build, finetune, critic):
    """Backbone, reference and a reward model on it stay bit for bit; all that is to be trained is trained."""
    trainer = build(finetune, critic)
    reward_model = RewardModel(trainer.backbone, lora_rank=4)
    randomise(reward_model.parameters_to_train(), seed=1)
    trainer.reward = reward_model
    batch = trainer.collect(range(7)).batch
    reference, scores = trainer.policy.reference_logprobs(batch), reward_model(batch)
    with only_these_move(trainer.policy.parameters_to_train(), trainer.policy, reward_model):
        for _ in range(2):
            trainer.step()
    assert torch.equal(trainer.policy.reference_logprobs(batch), reference)
    assert torch.equal(reward_model(batch), scores)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])  # GPT-2's head is its embedding
@layouts
def test_what_is_trained_is_counted(build_tiny, architecture, finetune, critic):
    backbone = build_tiny(architecture)
    body = sum(p.numel() for p in backbone.body.parameters())
    whole = sum(p.numel() for p in backbone.parameters())
    policy = ActorCritic(backbone, 4, finetune=finetune, critic=critic)
    adapter = 0 if finetune == "full" else sum(p.numel() for p in backbone.adapter_parameters("policy"))
    networks = {
        "lora": {"shared": adapter, "separate": 2 * adapter},
        "full": {"shared": whole, "separate": whole + body},
    }
    listed = policy.parameters_to_train()
    assert len({id(p) for p in listed}) == len(listed)
    assert {id(p) for p in listed} == {id(p) for p in policy.parameters() if p.requires_grad}
    assert sum(p.numel() for p in listed) == networks[finetune][critic] + backbone.hidden_size + 1


@layouts
def test_a_separate_critic_shares_no_gradient_with_the_actor(build, finetune, critic):
    trainer = build(finetune, critic)
    policy, batch = trainer.policy, trainer.collect(range(7)).batch
    parameters = policy.parameters_to_train()
    seen = policy.evaluate(batch)
    of_values, of_logprobs = (
        torch.autograd.grad(x.sum(), parameters, retain_graph=True, allow_unused=True)
        for x in (seen.values, seen.logprobs)
    )
    both = [a is not None and b is not None for a, b in zip(of_values, of_logprobs, strict=True)]
    neither = [a is None and b is None for a, b in zip(of_values, of_logprobs, strict=True)]
    assert not any(neither)
    assert any(both) == (critic == "shared")


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@layouts
def test_the_ratio_is_1_on_the_first_minibatch(build, architecture, finetune, critic):
    trainer = build(finetune, critic, architecture)
    for _ in range(2):  # also after a step has moved the weights
        assert trainer.step()["ratio_first_error"] == 0


@layouts
def test_the_actor_is_the_one_that_answers(build, finetune, critic):
    trainer = build(finetune, critic)
    policy, ids = trainer.policy, trainer.prompt_ids
    for _ in range(2):
        trainer.step()
    state = trainer.generator.get_state()
    drawn = trainer.collect(range(7)).batch.sequences
    actor, other = (
        sample(role.backbone, ids, 9, 1.0, role.adapter, torch.Generator().set_state(state)).batch.sequences
        for role in (policy.actor, policy.reference)
    )
    assert torch.equal(drawn, actor)
    assert drawn.shape != other.shape or not torch.equal(drawn, other)


@layouts
def test_it_goes_on_bit_for_bit_where_it_was_stopped(build, finetune, critic):
    for dtype in ("float32", "bfloat16"):
        trainer, resumed = (build(finetune, critic, dtype=dtype) for _ in range(2))
        check_goes_on(trainer, resumed, 1, 2)
        assert all(torch.equal(a, b) for a, b in zip(trained(trainer), trained(resumed), strict=True))


@layouts
def test_saved_and_loaded_here_and_by_others(build, build_tiny, tiny_folder, tmp_path, finetune, critic):
    trainer = build(finetune, critic)
    policy, batch = trainer.policy, trainer.collect(range(3)).batch
    policy.save_pretrained(tmp_path)
    with torch.no_grad():
        expected, logits = policy.evaluate(batch), policy(batch).logits[0, 0]
        for backbone in (None, build_tiny(eos=MANY_EOS)):
            loaded = ActorCritic.from_pretrained(tmp_path, backbone)
            assert all(torch.equal(a, b) for a, b in zip(loaded.evaluate(batch), expected, strict=True))
            assert torch.equal(loaded.reference_logprobs(batch), policy.reference_logprobs(batch))
            assert len(loaded.parameters_to_train()) == len(policy.parameters_to_train())
        if finetune == "full":
            other = AutoModelForCausalLM.from_pretrained(tmp_path)
        else:
            other = AutoModelForCausalLM.from_pretrained(tiny_folder(eos=MANY_EOS))
            other = PeftModel.from_pretrained(other, tmp_path).eval()
        theirs = other(torch.tensor([trainer.prompt_ids[0]])).logits[0, -1]
    torch.testing.assert_close(theirs, logits, atol=1e-5, rtol=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path)("ab").input_ids == trainer.backbone.tokenizer("ab").input_ids
    assert not [*tmp_path.rglob("*.bin"), *tmp_path.rglob("*.pt")]  # nothing is pickled


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_a_full_model_of_another_architecture_or_with_a_lost_reference_is_refused(build, build_tiny, tmp_path, critic):
    build("full", critic).policy.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="made for another model"):
        ActorCritic.from_pretrained(tmp_path, build_tiny("gpt2"))
    (tmp_path / "reference.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "gone")}))
    with pytest.raises(ValueError, match="gone"):
        ActorCritic.from_pretrained(tmp_path)


def test_steps_too_small_for_bfloat16_add_up(build):
    """A thousand steps of 1e-5 on a weight of 1, whose neighbours in bfloat16 are 0.004 below and 0.008 above."""
    weight = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = Optimizer([weight], learning_rate=1e-5, max_grad_norm=1e9)
    for _ in range(1000):
        weight.grad = torch.ones_like(weight)
        assert optimizer.step() == pytest.approx(3**0.5)
        assert weight.grad is None
    assert weight.dtype == torch.bfloat16
    assert weight.tolist() == pytest.approx([0.99] * 3, abs=2e-3)  # Adam's steps are as long as the learning rate


def test_an_adapter_in_bfloat16_is_stepped_in_float32(build):
    """Steps that are lost on the adapter itself add up in the copy: after many, the adapter has moved."""
    trainer = build("lora", "shared", dtype="bfloat16", learning_rate=1e-6)
    adapter = trainer.policy.backbone.adapter_parameters("policy")
    assert {p.dtype for p in adapter} == {torch.bfloat16}
    masters = [m for p, m in zip(trainer.optimizer.parameters, trainer.optimizer.masters, strict=True) if m is not p]
    assert len(masters) == len(adapter)
    before = [m.clone() for m in masters]
    trainer.step()
    assert {m.dtype for m in masters} == {torch.float32}
    assert any(not torch.equal(m, old) for m, old in zip(masters, before, strict=True))
    assert all(torch.equal(p, m.bfloat16()) for p, m in zip(adapter, masters, strict=True))


def test_a_trained_copy_in_bfloat16_has_weights_in_bfloat16_and_steps_in_float32(build):
    trainer = build("full", "separate", dtype="bfloat16", learning_rate=1e-6)
    weights, masters = trainer.optimizer.parameters, trainer.optimizer.masters
    trainer.step()
    assert {p.dtype for p in weights} == {torch.bfloat16, torch.float32}  # float32: the value head
    assert {p.dtype for p in masters} == {torch.float32}
    assert all(torch.equal(p, m.to(p.dtype)) for p, m in zip(weights, masters, strict=True))
    assert any((m != m.to(p.dtype)).any() for p, m in zip(weights, masters, strict=True))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"finetune": "some"}, "finetune is 'some', but must be one of lora, full"),
        ({"critic": "none"}, "critic is 'none', but must be one of shared, separate"),
        ({"finetune": "full", "dtype": "float16"}, "dtype is float16, .* finetune: full"),
    ],
)
def test_layouts_that_do_not_exist_are_refused(build_tiny, options, words):
    with pytest.raises(ConfigError, match=words):
        PPOConfig(**options)
    if "dtype" not in options:
        with pytest.raises(ValueError, match="choose from"):
            ActorCritic(build_tiny(), **options)
