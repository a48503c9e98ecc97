"""Gradient checkpointing: the same numbers to the last bit, in less memory, whichever adapter is on by then."""

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from tiny import ARCHITECTURES, randomise

from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.adapters import lora_layers, switch_adapter
from ppo_lib.models.recomputing import blocks_of
from ppo_lib.run.commands import field_names
from ppo_lib.run.stages import CONFIGS, build
from ppo_lib.trainers.configuration import PPOConfig
from ppo_lib.trainers.ppo import PPOTrainer

PROMPTS, RESPONSES = ["ab", "c"], ["def", "gh"]


def gradients(policy: ActorCritic, on: bool) -> list[torch.Tensor]:
    """Of a loss on log-probs and values, while another role plays in the backward pass."""
    for role in (policy.actor, policy.critic):
        role.backbone.gradient_checkpointing = on
    seen = policy.evaluate(policy.backbone.encode_pairs(PROMPTS, RESPONSES), entropy_grad=True)
    loss = (seen.logprobs + seen.values + seen.entropy).sum()
    with policy.backbone.adapter(None):
        loss.backward()
    found = [p.grad for p in policy.parameters_to_train() if p.grad is not None]
    for parameter in policy.parameters_to_train():
        parameter.grad = None
    return found


@pytest.mark.parametrize(("finetune", "critic"), [("lora", "shared"), ("lora", "separate"), ("full", "separate")])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_same_gradients_to_the_last_bit(build_tiny, architecture, finetune, critic):
    torch.manual_seed(0)
    policy = ActorCritic(build_tiny(architecture), 4, finetune=finetune, critic=critic)
    randomise([*policy.parameters_to_train()] if finetune == "lora" else policy.value_head.parameters())
    kept, again = gradients(policy, False), gradients(policy, True)
    assert len(kept) == len(again) > 4
    assert all(map(torch.equal, kept, again))


def test_blocks_compute_twice_only_for_a_gradient_and_are_left_as_they_were(build_tiny):
    backbone = build_tiny("llama")
    backbone.add_adapter("policy")
    backbone.gradient_checkpointing = True
    blocks, calls = blocks_of(backbone.causal_lm), []
    hooks = [block.self_attn.register_forward_hook(lambda *_: calls.append(1)) for block in blocks]
    batch = backbone.encode_pairs(PROMPTS, RESPONSES)
    with torch.no_grad():
        backbone.hidden_states(batch, "policy")
    assert len(calls) == len(blocks)
    calls.clear()
    backbone.hidden_states(batch, "policy").sum().backward()
    assert len(calls) == 2 * len(blocks)
    assert not any("forward" in vars(block) for block in blocks)
    assert backbone.acting is None
    assert all(hook.remove() is None for hook in hooks)


def test_the_adapter_that_acts_in_the_backward_pass_goes_on_acting(build_tiny):
    backbone = build_tiny("llama")
    for seed, name in enumerate(("policy", "reward")):
        backbone.add_adapter(name, seed=seed)
        randomise(backbone.adapter_parameters(name))
    backbone.adapter_parameters("reward")[0].data *= 2  # no longer the same as the other
    batch = backbone.encode_pairs(PROMPTS, RESPONSES)
    backbone.gradient_checkpointing = True
    expected = backbone.hidden_states(batch, "reward").detach()
    hidden = backbone.hidden_states(batch, "policy")
    with backbone.adapter("reward"):
        hidden.sum().backward()
        assert torch.equal(backbone.hidden_states(batch, "reward"), expected)
    assert all(p.grad is not None for p in backbone.adapter_parameters("policy"))
    assert all(p.grad is None and p.requires_grad for p in backbone.adapter_parameters("reward"))


def test_switching_a_part_leaves_the_rest(build_tiny):
    backbone = build_tiny("llama")
    backbone.add_adapter("policy")
    first, second = blocks_of(backbone.causal_lm)[:2]
    with backbone.adapter("policy"):
        switch_adapter(first, None)
        assert first.self_attn.q_proj.disable_adapters
        assert not second.self_attn.q_proj.disable_adapters
        switch_adapter(first, "policy")


def test_a_switch_visits_the_layers_with_adapters_and_nothing_else(build_tiny, monkeypatch):
    """It happens several times per microbatch; a walk through a model's thousands of modules takes milliseconds."""
    backbone = build_tiny("llama")
    batch = backbone.encode_pairs(PROMPTS, RESPONSES)
    switch_adapter(backbone.causal_lm, None)  # there is nothing to switch yet, and that must not be remembered
    plain = backbone.hidden_states(batch)
    backbone.add_adapter("policy")
    randomise(backbone.adapter_parameters("policy"))
    adapted = backbone.hidden_states(batch, "policy")
    backbone.add_adapter("reward")
    layers = [layer for layer in backbone.causal_lm.modules() if isinstance(layer, BaseTunerLayer)]
    assert lora_layers(backbone.causal_lm) == layers
    assert len(layers) == 14
    with monkeypatch.context() as patch:
        for walk in ("modules", "named_modules", "named_parameters", "requires_grad_"):
            patch.setattr(torch.nn.Module, walk, lambda *_, **__: pytest.fail("all modules are visited"))
        with backbone.adapter("policy"):
            assert [layer.active_adapters for layer in layers] == [["policy"]] * 14
            assert not any(layer.disable_adapters for layer in layers)
        assert all(layer.disable_adapters for layer in layers)
    assert not torch.allclose(adapted, plain, atol=1e-3)
    for name, expected in ((None, plain), ("policy", adapted), ("reward", plain)):
        assert torch.equal(backbone.hidden_states(batch, name), expected)
    assert all(p.requires_grad for name in ("policy", "reward") for p in backbone.adapter_parameters(name))


def test_less_is_kept(build_tiny):
    """Bytes that the forward pass leaves for the backward pass; inside a block torch's own hooks keep nothing."""
    backbone = build_tiny("llama")
    backbone.add_adapter("policy")
    batch = backbone.encode_pairs(["a" * 40] * 8, ["b" * 20] * 8)
    saved = []
    for on in (False, True):
        backbone.gradient_checkpointing, kept = on, []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: (kept.append(t.nbytes), t)[1], lambda t: t):
            hidden = backbone.hidden_states(batch, "policy")
        saved.append(sum(kept))
        del hidden
    assert saved[1] < saved[0] / 3


def test_a_run_has_the_same_metrics(build_tiny):
    runs = []
    for on in (False, True):
        backbone = build_tiny("llama")
        backbone.gradient_checkpointing = on
        config = PPOConfig(rollout_batch=4, minibatch=2, microbatch=1, max_new_tokens=6, gradient_checkpointing=on)
        trainer = PPOTrainer(config, ActorCritic(backbone, 4), PROMPTS, lambda p, r: [float(len(x)) for x in r])
        runs.append([trainer.step() for _ in range(2)])
    timed = ("seconds", "tokens_per_second", "peak_memory")
    for kept, again in zip(*runs, strict=True):
        assert {k: v for k, v in kept.items() if not k.startswith(timed)} == {
            k: v for k, v in again.items() if not k.startswith(timed)
        }


@pytest.mark.parametrize(
    "stage", [stage for stage, config in CONFIGS.items() if "gradient_checkpointing" in field_names(config)]
)
@pytest.mark.parametrize("on", [False, True])
def test_the_key_of_each_stage_decides(tiny_folder, tmp_path, stage, on):
    (tmp_path / "rows.jsonl").write_text(
        '{"prompt": "ab", "response": "cd", "chosen": "cd", "rejected": "e", "answer": "4"}\n' * 2, encoding="utf-8"
    )
    data = {"prompts" if stage == "ppo" else "data": str(tmp_path / "rows.jsonl")}
    judge = {"reward_model": "exact_answer"} if stage == "ppo" else {}
    config = CONFIGS[stage](model=str(tiny_folder("llama")), device="cpu", gradient_checkpointing=on, **data, **judge)
    trainer = build(stage, config)
    backbone = {"sft": trainer, "reward": getattr(trainer, "model", None)}.get(stage, trainer).backbone
    assert backbone.gradient_checkpointing is on


def test_a_copy_that_is_trained_whole_computes_twice_as_well(build_tiny):
    backbone = build_tiny("llama")
    backbone.gradient_checkpointing = True
    assert ActorCritic(backbone, finetune="full", critic="separate").critic.backbone.gradient_checkpointing
