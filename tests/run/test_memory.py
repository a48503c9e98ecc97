"""The memory plan beside what tiny models really hold, and the refusal of a run that cannot fit."""

import json
import re
from dataclasses import fields, replace

import pytest
import torch
import transformers
from tiny import ARCHITECTURES, EOS, PAD, VOCAB_SIZE, byte_tokenizer, save_classifier
from transformers import AutoConfig, AutoModelForCausalLM, StaticCache

from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.backbone import MAX_LOGITS, Backbone
from ppo_lib.models.caches import read_on
from ppo_lib.models.loading import base_name, resolve
from ppo_lib.models.reward_model import RewardModel
from ppo_lib.models.tokens import pad_pairs
from ppo_lib.run import stages
from ppo_lib.run.cli import main
from ppo_lib.run.judge_names import load_judge
from ppo_lib.run.machines import free_memory, held_memory
from ppo_lib.run.memory import REMEDIES, MemoryPlan, memory_plan, plan_memory, plan_training
from ppo_lib.trainers.configuration import ConfigError, PPOConfig
from ppo_lib.trainers.ppo import PPOTrainer

LAYOUTS = [("lora", "shared"), ("lora", "separate"), ("full", "shared"), ("full", "separate")]
ROWS, PROMPT, RESPONSE = 8, 16, 32
WIDER = {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 3, "num_attention_heads": 4}
WIDE = {
    "llama": {**WIDER, "num_key_value_heads": 2},
    "qwen3": {**WIDER, "num_key_value_heads": 2, "head_dim": 16},
    "gpt2": {"n_layer": 3, "n_head": 4, "n_embd": 64},
    "gpt_neox": WIDER,
    "phi": {**WIDER, "num_key_value_heads": 4},
}


def knobs(**options) -> PPOConfig:
    common = {"rollout_batch": ROWS, "minibatch": ROWS, "microbatch": ROWS, "max_new_tokens": RESPONSE}
    return PPOConfig(**{**common, "lora_rank": 4, **options})


def held(tensors) -> int:
    return sum(t.numel() * t.element_size() for t in {id(t): t for t in tensors}.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("finetune", "critic"), LAYOUTS)
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_weights_adapters_gradients_and_moments_are_counted_exactly(
    build_tiny, tiny_folder, architecture, finetune, critic, dtype
):
    backbone = build_tiny(architecture, dtype=dtype)
    policy, reward = ActorCritic(backbone, 4, finetune=finetune, critic=critic), RewardModel(backbone, 3)
    config = knobs(finetune=finetune, critic=critic, dtype=dtype)
    trainer = PPOTrainer(config, policy, ["abc", "d"], lambda p, r: [0.0] * len(p))
    plan = plan_memory(AutoConfig.from_pretrained(tiny_folder(architecture)), config, PROMPT, reward_rank=3)
    everything = [*policy.parameters(), *reward.parameters()]
    heads = {id(p) for head in (policy.value_head, reward.head) for p in head.parameters()}
    adapters = {id(p) for name in backbone.adapters for p in backbone.adapter_parameters(name)}
    assert plan.weights == held(p for p in everything if id(p) not in heads | adapters)
    assert plan.adapters == held(p for p in everything if id(p) in heads | adapters)
    for parameter in trainer.optimizer.parameters:
        parameter.grad = torch.zeros_like(parameter)
    largest = []
    step = trainer.optimizer.adam.step
    trainer.optimizer.adam.step = lambda: (largest.append(held(m.grad for m in trainer.optimizer.masters)), step())
    in_half = held(p.grad for p in trainer.optimizer.parameters if p.dtype == torch.bfloat16)
    trainer.optimizer.step()
    assert plan.gradients == largest[0] + in_half
    moments = [x for s in trainer.optimizer.adam.state.values() for name, x in s.items() if name != "step"]
    copies = [m for p, m in zip(trainer.optimizer.parameters, trainer.optimizer.masters, strict=True) if m is not p]
    assert plan.optimizer == held([*moments, *copies])


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name not in ("gemma2", "gemma3")])
def test_the_cache_is_counted_exactly(build_tiny, architecture):
    backbone = build_tiny(architecture)
    config = backbone.causal_lm.config
    cache = StaticCache(config, max_cache_len=PROMPT + RESPONSE)
    batch = pad_pairs([[5] * PROMPT] * ROWS, [[7]] * ROWS, PAD)
    read_on(backbone.body, cache, input_ids=batch.sequences[:, :PROMPT])
    real = held(x for layer in cache.layers for x in (layer.keys, layer.values))
    assert plan_memory(config, knobs(), PROMPT).cache == real
    assert plan_memory(config, knobs(), PROMPT, processes=2).cache == real / 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("finetune", "critic"), [("lora", "shared"), ("full", "separate")])
@pytest.mark.parametrize("architecture", WIDE)
def test_activations_are_those_of_a_forward_pass(architecture, finetune, critic, dtype):
    name, sizes = ARCHITECTURES[architecture]
    special = {"vocab_size": VOCAB_SIZE, "eos_token_id": EOS, "pad_token_id": PAD, "bos_token_id": None}
    shape = getattr(transformers, name)(**{**sizes, **WIDE[architecture], **special})
    model = AutoModelForCausalLM.from_config(shape, dtype=getattr(torch, dtype))
    policy = ActorCritic(Backbone(model, byte_tokenizer(), "random"), 4, finetune=finetune, critic=critic)
    weights = {p.untyped_storage().data_ptr() for p in policy.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tensor.shape[-1] != VOCAB_SIZE:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = pad_pairs([[5] * PROMPT] * ROWS, [[7] * RESPONSE] * ROWS, PAD)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        seen = policy.evaluate(batch)
    assert seen.logprobs.requires_grad
    plan = plan_memory(shape, knobs(finetune=finetune, critic=critic, dtype=dtype), PROMPT)
    ratio = sum(kept.values()) / plan.activations
    assert 0.8 < ratio < 1.2  # without padding, as here, no mask is kept; and the kernel is that of a CPU


@pytest.mark.parametrize("finetune", ["lora", "full"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_cannot_run_without_numbers_is_estimated_from_its_linear_layers(tiny_folder, monkeypatch, finetune, dtype):
    shape = AutoConfig.from_pretrained(tiny_folder("llama", **WIDE["llama"]))
    seen = plan_memory(shape, knobs(finetune=finetune, dtype=dtype), PROMPT)

    def look(*_: object) -> float:
        raise RuntimeError("Tensor.item() cannot be called on meta tensors")

    monkeypatch.setattr("ppo_lib.run.memory.kept_by_blocks", look)
    estimated = plan_memory(shape, knobs(finetune=finetune, dtype=dtype), PROMPT)
    assert 0.9 < estimated.activations / seen.activations < 1.5
    assert replace(estimated, activations=0) == replace(seen, activations=0)


@pytest.mark.parametrize("finetune", ["lora", "full"])
def test_gradient_checkpointing_keeps_the_inputs_of_blocks_and_one_block(tiny_folder, finetune):
    shape = AutoConfig.from_pretrained(tiny_folder("llama"))
    plans = [plan_memory(shape, knobs(finetune=finetune, gradient_checkpointing=on), PROMPT) for on in (False, True)]
    inputs = shape.num_hidden_layers * ROWS * (PROMPT + RESPONSE) * shape.hidden_size * 4
    assert plans[1].activations == pytest.approx(plans[0].activations / shape.num_hidden_layers + inputs, abs=1)
    others = [replace(plan, activations=0) for plan in plans]
    assert others[0] == others[1]


def test_logits_do_not_grow_with_the_batch_beyond_one_slice(tiny_folder):
    shape = AutoConfig.from_pretrained(tiny_folder())
    shape.vocab_size = 151_936
    small, large = (plan_memory(shape, knobs(rollout_batch=n, minibatch=n, microbatch=n), PROMPT) for n in (64, 256))
    assert small.logits == large.logits == MAX_LOGITS * 4 * 2
    with_entropy = plan_memory(shape, knobs(microbatch=8, entropy_coef=0.01), PROMPT)
    assert with_entropy.logits == 8 * RESPONSE * 151_936 * 4 * 5
    assert large.activations == 4 * small.activations


def test_a_merged_sampler_holds_the_adapted_weights_twice_while_it_samples(tiny_folder):
    shape = AutoConfig.from_pretrained(tiny_folder())
    merged = plan_memory(shape, knobs(merge_adapter=True), PROMPT)
    layers = [m for m in AutoModelForCausalLM.from_config(shape).base_model.modules() if isinstance(m, torch.nn.Linear)]
    assert merged.merged == 4 * sum(layer.weight.numel() for layer in layers) > 0
    assert merged.rollout == merged.cache + merged.sampling + merged.merged
    for other in ({}, {"finetune": "full"}, {"fused_lora": False}):
        one = plan_memory(shape, knobs(**{"merge_adapter": True, **other} if other else {}), PROMPT)
        assert one.merged == 0
    assert plan_memory(shape, knobs(merge_adapter=True), PROMPT, parts=2).merged == 0


def test_rollout_and_update_are_not_held_at_once():
    plan = MemoryPlan(1, 2, 3, 40, 500, 60, 70, 8, 90)
    assert plan.total == 1 + 2 + 3 + (500 + 8 + 90)
    assert replace(plan, cache=5).total == 1 + 2 + 3 + (40 + 60 + 70)


@pytest.mark.parametrize(
    ("plan", "free", "words"),
    [
        (MemoryPlan(900, 50, 60, 0, 0, 0, 0, 0), 1000, ["use a smaller model", "finetune: lora"]),
        (MemoryPlan(500, 0, 0, 10, 600, 20, 30, 1), 1000, ["lower rollout_batch or max_new_tokens"]),
        (MemoryPlan(500, 0, 0, 10, 600, 20, 30, 1, 9), 1000, ["set merge_adapter: false, or lower rollout_batch or"]),
        (MemoryPlan(500, 0, 0, 10, 20, 600, 30, 1), 1000, ["lower microbatch", "not the result"]),
    ],
)
def test_a_run_that_cannot_fit_is_refused_with_numbers_and_remedy(plan, free, words):
    scaled = MemoryPlan(*(10**7 * x for x in vars(plan).values()))
    with pytest.raises(ConfigError) as error:
        scaled.check(10**7 * free)
    assert all(word in str(error.value) for word in [*words, "10.0 GB are free", "the run needs about"])
    scaled.check(scaled.total)
    scaled.check(None)


def test_the_command_line_prints_the_plan_and_refuses_before_any_weight_is_read(tmp_path, monkeypatch, capsys):
    run = ["train", "ppo", "--recipe", "pocket", "--out", str(tmp_path / "run"), "--quiet", "--set", "iterations=1"]
    small = ["--set", "rollout_batch=4", "--set", "minibatch=4", "--set", "microbatch=4", "--set", "max_new_tokens=4"]
    small += ["--set", "merge_adapter=true"]
    load, held = stages.Backbone.from_pretrained, {"now": 123 * 10**6}  # what counts is held before the weights come

    def loading(*args, **options):
        held["now"] *= 2
        return load(*args, **options)

    monkeypatch.setattr(stages.Backbone, "from_pretrained", loading)
    monkeypatch.setattr("ppo_lib.run.commands.held_memory", lambda device: held["now"])
    assert main([*run, *small]) == 0
    printed = capsys.readouterr().out
    assert "memory plan:" in printed
    assert all(f"  {name} " in printed for name in (*vars(MemoryPlan(*[0] * 9)), "at most"))
    assert "besides the 123 MB that this process holds already" in printed
    monkeypatch.setattr("ppo_lib.run.commands.free_memory", lambda device: 10**6)
    monkeypatch.setattr(stages.Backbone, "from_pretrained", lambda *_, **__: pytest.fail("weights were read"))
    run[run.index("--out") + 1] = str(tmp_path / "other")
    assert main(run) == 2
    assert "but 1 MB are free; use a smaller model" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_the_pocket_plan_counts_its_reward_model(tmp_path):
    config = PPOConfig()
    plan = memory_plan("ppo", config)
    policy_alone = plan.adapters - memory_plan("ppo", PPOConfig(reward_model="ppo_lib.pocket:gold_scores")).adapters
    reward = load_judge(config.reward_model, config, Backbone.from_pretrained("pocket:sft"))
    assert policy_alone == held(reward.parameters_to_train())


@pytest.mark.parametrize("kind", ["pocket", "same base", "other base", "published", "function"])
def test_the_plan_counts_a_heldout_judge_as_it_is_loaded(tiny_folder, tmp_path, kind):
    own, foreign = str(tiny_folder("llama")), str(tiny_folder("gpt2"))
    config = PPOConfig(model=own, prompts="pocket", reward_model="ppo_lib.pocket:gold_scores")
    if kind == "published":
        name = str(save_classifier(tmp_path / "judge", labels=1))
    elif kind in ("same base", "other base"):
        base = own if kind == "same base" else foreign
        RewardModel(Backbone.from_pretrained(base), 3).save_pretrained(tmp_path / "judge")
        name = str(tmp_path / "judge")
    else:
        name = {"pocket": "pocket", "function": "ppo_lib.pocket:gold_scores"}[kind]
    alone, both = (memory_plan("ppo", replace(config, heldout_judge=judged)) for judged in (None, name))
    judge = load_judge(name, config, Backbone.from_pretrained(own), key="heldout_judge")
    if kind == "function":
        expected = (0, 0)
    elif kind == "published":
        expected = (held(judge.model.parameters()), 0)
    else:
        base = resolve(base_name(resolve("pocket:reward") if kind == "pocket" else name))
        body = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        expected = (0 if kind == "same base" else held(body.parameters()), held(judge.parameters_to_train()))
    assert (both.weights - alone.weights, both.adapters - alone.adapters) == expected


def texts(folder, stage: str) -> str:
    """Examples of one length: 6 tokens asked, 9 answered, and the EOS."""
    row = {"prompt": "abcdef", "response": "r" * 9} if stage == "sft" else {"prompt": "abcdef", "chosen": "c" * 9}
    rows = [row | ({"rejected": str(i) + "r" * 8} if stage != "sft" else {}) for i in range(8)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "rows.jsonl")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("stage", "rank"), [("sft", 0), ("sft", 3), ("reward", 3), ("dpo", 3)])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_sft_reward_training_and_dpo_are_counted_exactly(tiny_folder, tmp_path, architecture, stage, rank, dtype):
    options = {"model": str(tiny_folder(architecture)), "data": texts(tmp_path, stage), "dtype": dtype}
    config = stages.CONFIGS[stage](**options, batch=4, microbatch=4, lora_rank=rank)
    plan, trainer = memory_plan(stage, config), stages.build(stage, config)
    model = {"sft": "backbone", "reward": "model", "dpo": "policy"}[stage]
    learned = trainer.optimizer.parameters if rank else []
    head = list(trainer.policy.value_head.parameters()) if stage == "dpo" else []  # held, and not trained
    assert plan.adapters == held(learned) + held(head)
    assert plan.weights == held(getattr(trainer, model).parameters()) - held(learned) - held(head)
    trainer.step()
    assert plan.optimizer == held(
        [x for s in trainer.optimizer.adam.state.values() for name, x in s.items() if name != "step"]
        + [m for p, m in zip(trainer.optimizer.parameters, trainer.optimizer.masters, strict=True) if m is not p]
    )
    halves = [p for p in trainer.optimizer.parameters if p.dtype == torch.bfloat16]
    assert plan.gradients == 4 * sum(p.numel() for p in trainer.optimizer.parameters) + held(halves)
    at_once, ppo = (4 if stage == "sft" else 8), {"lora_rank": rank or 1, "finetune": "lora" if rank else "full"}
    ppo |= {
        "rollout_batch": 256,
        "minibatch": 256,
        "microbatch": at_once,
        "max_new_tokens": 10,
        "dtype": dtype,
        "entropy_coef": 0.0,
    }
    same = plan_memory(AutoConfig.from_pretrained(options["model"]), knobs(**ppo), 6)  # 6 + 10 tokens, the EOS included
    assert plan.activations == same.activations
    assert plan.logits == (0 if stage == "reward" else same.logits)
    assert plan.cache == (same.cache if stage == "reward" else 0)
    assert plan.sampling == (same.sampling if stage == "reward" else 0)


def test_an_answer_too_long_widens_the_plan_only_where_it_is_trained_on(tiny_folder, tmp_path):
    rows = [{"prompt": "ab", "response": "c"}, {"prompt": "ab", "response": "c" * 40}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = stages.CONFIGS["sft"](model=str(tiny_folder()), data=str(tmp_path / "rows.jsonl"), batch=1, microbatch=1)
    short = replace(config, max_length=8, drop_longer=True)
    wide, narrow = memory_plan("sft", config), memory_plan("sft", short)
    shape = AutoConfig.from_pretrained(config.model)
    assert (wide, narrow) == tuple(plan_training("sft", shape, config, 2, answer) for answer in (41, 2))  # and the EOS
    assert wide.activations > 10 * narrow.activations


def test_grpo_holds_what_ppo_holds():
    """But for the critic's head, whose gradient and moments are counted all the same."""
    config = stages.CONFIGS["grpo"]()
    assert memory_plan("grpo", config) == memory_plan("ppo", config.rollout())


@pytest.mark.parametrize("stage", ["grpo", "dpo"])
def test_each_stage_that_cannot_fit_names_keys_that_it_has(stage):
    config, known = stages.CONFIGS[stage], {"model", "dtype"}
    for remedy in filter(None, REMEDIES[stage]):
        keys = set(re.findall(r"[a-z]+_[a-z_]+|microbatch|dtype", remedy))
        assert keys <= known | {field.name for field in fields(config)}, remedy


@pytest.mark.parametrize(("stage", "remedy"), [("sft", "or lora_rank: 8"), ("reward", "or dtype: bfloat16")])
def test_sft_and_reward_training_print_their_plan_and_are_refused_early(
    tiny_folder, tmp_path, monkeypatch, capsys, stage, remedy
):
    run = ["train", stage, "--recipe", "pocket", "--quiet", "--set", "max_steps=1", "--set", "batch=4"]
    run += ["--set", f"data={texts(tmp_path, stage)}", "--set", f"model={tiny_folder()}"]
    monkeypatch.setattr(stages, "CALIBRATION_ANSWERS", 4)
    assert main([*run, "--out", str(tmp_path / "run")]) == 0
    assert "memory plan:\n  weights " in capsys.readouterr().out
    monkeypatch.setattr("ppo_lib.run.commands.free_memory", lambda device: 10**4)
    monkeypatch.setattr(stages.Backbone, "from_pretrained", lambda *_, **__: pytest.fail("weights were read"))
    assert main([*run, "--out", str(tmp_path / "other")]) == 2
    assert remedy in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_what_the_process_holds_already_is_said_where_it_counts():
    plan = MemoryPlan(*[10**9] * 8)
    assert plan.table().splitlines()[-1].endswith("6.0 GB, in the update")
    assert (
        plan.table(450 * 10**6)
        .splitlines()[-1]
        .endswith("in the update, besides the 450 MB that this process holds already")
    )
    assert held_memory("cuda") is None
    before = held_memory("cpu")
    if before is not None:
        block = torch.ones(25_000_000)
        assert 0.5 * block.nbytes < held_memory("cpu") - before < 2 * block.nbytes


def test_free_memory_of_this_machine_is_a_number_of_bytes():
    assert free_memory("cpu") is None or free_memory("cpu") > 10**7
