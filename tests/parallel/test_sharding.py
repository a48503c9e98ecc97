"""A model that is divided among processes makes the same run as a whole one, and is whole again where it is saved."""

import os
import re

import pytest
import torch
from tiny import randomise, save_tiny
from transformers import AutoConfig, AutoModelForCausalLM

from parallel.test_processes import BASE, MANY_EOS, PAIRS, PROMPTS, close, launch, length, metrics_of, plain, together
from parallel.test_processes import place as place  # a fixture
from ppo_lib import versions
from ppo_lib.book.jsonl import read_jsonl
from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.backbone import Backbone
from ppo_lib.models.recomputing import blocks_of
from ppo_lib.models.reward_model import RewardModel
from ppo_lib.models.world import ALONE, World
from ppo_lib.parallel import sharding
from ppo_lib.parallel.processes import Processes, of_an_exchange
from ppo_lib.parallel.sharding import PEFT, is_part, own_part, sharding_wanted
from ppo_lib.run.cli import main
from ppo_lib.run.memory import plan_memory
from ppo_lib.run.stages import CalibratedRewardTrainer
from ppo_lib.sampling.decoding import supports_static_cache
from ppo_lib.sampling.rollout import sample
from ppo_lib.trainers.configuration import ConfigError, DPOConfig, GRPOConfig, PPOConfig, RewardConfig, SFTConfig
from ppo_lib.trainers.dpo import DPOTrainer
from ppo_lib.trainers.grpo import GRPOTrainer
from ppo_lib.trainers.ppo import PPOTrainer
from ppo_lib.trainers.sft import SFTTrainer

if versions.older("peft", PEFT):
    pytest.skip(f"peft is older than {PEFT}: runs that divide a model are refused", allow_module_level=True)
FSDP = ("--use_fsdp", "--fsdp_version", "2")


def divided(world: World) -> World:
    """The same processes, holding models together."""
    return Processes(world.rank, world.size, "cpu", sharded=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"), eos=MANY_EOS, num_hidden_layers=3)


def parameters(trainer) -> dict[str, torch.Tensor]:
    """All that is trained, whole."""
    return {key: tensor for key, tensor in trainer.state()[0].items() if key.startswith("parameter.")}


def run(trainer, steps: int = 2):
    """Metrics of some steps; the last one twice, the second time from the state before it; and the parameters."""
    metrics = []
    for _ in range(steps):
        state = trainer.state()
        metrics.append(trainer.step())
    end = parameters(trainer)
    trainer.load_state(*state)
    trainer.step()
    assert all(torch.equal(end[key], tensor) for key, tensor in parameters(trainer).items())
    clocks = {"pairs_per_second", "tokens_per_second", "peak_memory_bytes"}
    return [{key: v for key, v in plain(row).items() if key not in clocks} for row in metrics], end


def train_ppo(folder, world, options, out=None):
    backbone = Backbone.from_pretrained(folder, dtype="float64", world=world)
    backbone.gradient_checkpointing = "gradient_checkpointing" in options
    policy = ActorCritic(
        backbone,
        lora_rank=4,
        finetune=options.get("finetune", "lora"),
        critic=options.get("critic", "shared"),
    )
    if policy.actor.adapter:
        randomise(policy.parameters_to_train(), scale=0.2)
    reward = RewardModel(policy.backbone, lora_rank=4)
    randomise(reward.parameters_to_train(), seed=1)
    reward.calibrate(["a", "b", "c"], ["x", "yy", "zzz"])
    few = {"rollout_batch": 6, "minibatch": 6, "microbatch": 2, "max_new_tokens": 6}
    config = PPOConfig(**{**BASE, **few, **options})
    trainer = PPOTrainer(config, policy, PROMPTS, reward, gold=length, world=world)
    result = *run(trainer), [row["response"] for row in trainer.samples()]
    if out:
        trainer.save(out)
    return result


def train_sft(folder, world, options, out=None):
    config = SFTConfig(batch=4, microbatch=1, epochs=4, learning_rate=1e-3, **options)
    backbone = Backbone.from_pretrained(folder, dtype="float64", world=world)
    trainer = SFTTrainer(config, backbone, [(p, c) for p, c, _ in PAIRS], world)
    result = *run(trainer), []
    if out:
        trainer.save(out)
    return result


def train_reward(folder, world, options, out=None):
    """Rankings of one and of three pairs, so that the processes' shares differ in size."""
    pairs = [(p, c, r + end) for i, (p, c, r) in enumerate(PAIRS) for end in ("", "?", ".")[: 1 + 2 * (i % 2)]]
    model = RewardModel(Backbone.from_pretrained(folder, dtype="float64", world=world), lora_rank=4)
    randomise(model.parameters_to_train(), seed=1)
    trainer = CalibratedRewardTrainer(RewardConfig(batch=4, microbatch=1, epochs=4), model, pairs, world)
    result = *run(trainer, steps=3), []
    if out:
        trainer.calibrate()
        trainer.save(out)
    return result


def moved_policy(folder, world):
    policy = ActorCritic(Backbone.from_pretrained(folder, dtype="float64", world=world), lora_rank=4)
    randomise(policy.backbone.adapter_parameters("policy"), scale=0.2)
    return policy


def train_dpo(folder, world, options, out=None):
    trainer = DPOTrainer(DPOConfig(batch=4, microbatch=1, epochs=4), moved_policy(folder, world), PAIRS, world)
    return *run(trainer), []


def train_grpo(folder, world, options, out=None):
    sizes = {"rollout_batch": 6, "group_size": 3, "minibatch": 6, "microbatch": 2, "max_new_tokens": 6}
    config = GRPOConfig(**{**BASE, **sizes})
    trainer = GRPOTrainer(config, moved_policy(folder, world), PROMPTS, length, world=world)
    return *run(trainer), [row["response"] for row in trainer.samples()]


STAGES = {
    "PPO": (train_ppo, {}),
    "PPO, the critic with an adapter of its own": (train_ppo, {"critic": "separate"}),
    "PPO, all weights of two networks": (train_ppo, {"finetune": "full", "critic": "separate", "learning_rate": 1e-4}),
    "PPO, blocks computed again": (train_ppo, {"critic": "separate", "gradient_checkpointing": True}),
    "PPO, all weights, blocks computed again": (
        train_ppo,
        {"finetune": "full", "learning_rate": 1e-4, "gradient_checkpointing": True},
    ),
    "SFT, an adapter": (train_sft, {"lora_rank": 4}),
    "SFT, all weights": (train_sft, {}),
    "reward model": (train_reward, {}),
    "DPO": (train_dpo, {}),
    "GRPO": (train_grpo, {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_a_sharded_model_gives_the_losses_samples_and_parameters_of_a_whole_one(folder, tmp_path, name):
    train, options = STAGES[name]
    metrics, trained, samples = train(folder, ALONE, options)
    for other in together(tmp_path, lambda p: train(folder, divided(p), options)):
        for ours, theirs in zip(metrics, other[0], strict=True):
            close(ours, theirs)
        close_tensors(trained, other[1])
        assert other[2] == samples


def close_tensors(one, other) -> None:
    assert set(one) == set(other)
    for key, tensor in one.items():
        torch.testing.assert_close(other[key], tensor, atol=1e-5, rtol=1e-5)


def test_three_processes_hold_parts_of_blocks_that_three_does_not_divide(folder, tmp_path):
    options = {"finetune": "full", "learning_rate": 1e-4}
    metrics, trained, _ = train_ppo(folder, ALONE, options)
    for other in together(tmp_path, lambda p: train_ppo(folder, divided(p), options), size=3):
        close(metrics[-1], other[0][-1])
        close_tensors(trained, other[1])


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox"])
def test_other_architectures_answer_alike_when_sharded(tmp_path, architecture):
    """Of different lengths: the process whose responses end first has to go on until the other's have."""
    there = save_tiny(tmp_path / "tiny", architecture, eos=MANY_EOS)
    ids = [[5, 6, 7], [8], [9, 10], [11]]
    noise = torch.rand(4, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def answer(world: World):
        backbone = Backbone.from_pretrained(there, dtype="float64", world=world)
        assert supports_static_cache(backbone) <= (not world.sharded)
        batch = sample(backbone, world.share(ids), 40, adapter=None, noise=world.share(noise)).batch
        responses = [row[:n].tolist() for row, n in zip(batch.responses, batch.response_lengths.tolist(), strict=True)]
        return world.gather(responses)

    alone = answer(ALONE)
    first, second = (max(map(len, half)) for half in (alone[:2], alone[2:]))
    assert first != second
    assert together(tmp_path, lambda p: answer(divided(p))) == [alone, alone]


def test_each_process_holds_the_memory_that_the_plan_says(folder, tmp_path):
    def held(world: World) -> tuple[int, int]:
        model = Backbone.from_pretrained(folder, world=divided(world)).causal_lm
        return sum(own_part(p).nbytes for p in model.parameters()), sum(map(is_part, model.parameters()))

    small = {"rollout_batch": 4, "minibatch": 4, "microbatch": 4}
    config = PPOConfig(**small)
    shape = AutoConfig.from_pretrained(folder)
    model = Backbone.from_pretrained(folder).causal_lm
    block = 4 * sum(p.numel() for p in model.base_model.layers[0].parameters())
    plan = plan_memory(shape, config, 8, processes=2, parts=2)
    expected = plan.weights - 2 * block  # two that are gathered
    parts = len(list(model.base_model.layers.parameters()))
    assert together(tmp_path, held) == [(expected, parts)] * 2
    assert plan_memory(shape, config, 8, processes=2).weights - expected == 3 * block / 2
    full = PPOConfig(**small, finetune="full")
    whole, half = (plan_memory(shape, full, 8, processes=2, parts=n) for n in (1, 2))
    assert whole.optimizer - half.optimizer == 2 * 3 * block / 2


@pytest.mark.parametrize("train", [train_ppo, train_sft], ids=["PPO", "SFT"])
def test_what_is_saved_is_whole_and_loads_in_one_process(folder, tmp_path, train):
    options = {"finetune": "full", "learning_rate": 1e-4} if train is train_ppo else {}
    train(folder, ALONE, options, tmp_path / "alone")
    together(tmp_path, lambda p: train(folder, divided(p), options, tmp_path / "both"))
    alone, both = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("alone", "both"))
    close_tensors(alone.state_dict(), both.state_dict())
    names = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("alone", "both")]
    assert names[0] == names[1]


def test_all_processes_calibrate_a_reward_model_and_one_writes_it(folder, tmp_path):
    """On answers that the sharded model samples, which takes all processes."""
    train_reward(folder, ALONE, {}, tmp_path / "alone")
    together(tmp_path, lambda p: train_reward(folder, divided(p), {}, tmp_path / "both"))
    alone, both = (RewardModel.from_pretrained(tmp_path / name) for name in ("alone", "both"))
    assert float(alone.std) != 1.0
    close_tensors(alone.state_dict(), both.state_dict())


def test_a_process_that_is_lost_while_a_block_is_gathered_is_known_for_one(folder, tmp_path):
    def answer(world: World):
        backbone = Backbone.from_pretrained(folder, world=divided(world))
        if world.rank == 1:
            torch.distributed.destroy_process_group()
            return None
        with pytest.raises(RuntimeError) as error:
            backbone.hidden_states(backbone.encode_pairs(["a"], ["b"]))
        return of_an_exchange(error.value)

    assert together(tmp_path, answer) == [True, None]
    assert not of_an_exchange(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("FSDP_VERSION", "1", "--fsdp_version 1, which ppo_lib does not do; launch with --fsdp_version 2"),
        ("FSDP_OFFLOAD_PARAMS", "true", "launch with --fsdp_offload_params false"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "launch with --fsdp_activation_checkpointing false"),
        ("FSDP_RESHARD_AFTER_FORWARD", "false", "launch with --fsdp_reshard_after_forward true"),
        ("FSDP_AUTO_WRAP_POLICY", "SIZE_BASED_WRAP", "launch with --fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP"),
    ],
)
def test_fsdp_options_that_would_not_be_obeyed_are_refused(monkeypatch, variable, value, words):
    assert not sharding_wanted()
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert sharding_wanted()
    assert os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false"
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=re.escape(words)):
        sharding_wanted()


def test_shares_of_different_sizes_are_refused_where_a_model_is_sharded():
    Processes(0, 2).check_share("minibatch", 7)
    with pytest.raises(ConfigError, match=r"minibatch is 7, but 2 processes .* use a multiple of 2"):
        Processes(0, 2, "cpu", sharded=True).check_share("minibatch", 7)


def test_a_model_whose_blocks_are_not_known_is_refused(folder, monkeypatch):
    model = Backbone.from_pretrained(folder).causal_lm
    monkeypatch.setattr(model, "_no_split_modules", None)
    with pytest.raises(
        ValueError, match="the blocks of a 'llama' model are; leave out FSDP and gradient_checkpointing"
    ):
        blocks_of(model)


# ------------------------------------------------------------------------------------------------ as a user launches it


@pytest.mark.slow
def test_accelerate_launch_with_fsdp_makes_the_same_run_and_goes_on_after_a_kill(place, monkeypatch):
    even = ("--set", "minibatch=6", "--set", "microbatch=1")
    monkeypatch.chdir(place)
    assert main(["train", "ppo", "--config", "ppo.yaml", "--out", "whole", "--quiet", *even]) == 0
    (place / "kill").touch()
    killed = launch(place, "parts", *even, "--checkpoint-every", "1", launcher=FSDP)
    assert killed.returncode not in (0, 2)
    assert killed.stderr.count("ppo_lib: another process of this run has ended") == 1, killed.stderr
    again = launch(place, "parts", *even, "--checkpoint-every", "1", "--resume", launcher=FSDP)
    assert again.returncode == 0, again.stderr
    assert "each batch and each model divided among 2 processes" in again.stdout
    for one, other in zip(metrics_of(place / "whole"), metrics_of(place / "parts"), strict=True):
        close(one, other)
    texts = [read_jsonl(place / name / "samples.jsonl") for name in ("whole", "parts")]
    assert [row["response"] for row in texts[0]] == [row["response"] for row in texts[1]]
    one, other = (ActorCritic.from_pretrained(place / name / "model").state_dict() for name in ("whole", "parts"))
    close_tensors(one, other)


def test_a_peft_whose_adapters_have_the_sizes_of_a_part_is_refused(monkeypatch):
    for name, value in {"USE_FSDP": "true", "FSDP_VERSION": "2"}.items():
        monkeypatch.setenv(f"ACCELERATE_{name}" if name == "USE_FSDP" else name, value)
    monkeypatch.setenv("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP")
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")  # put back afterward
    assert sharding_wanted()
    monkeypatch.setattr(
        sharding, "older", lambda package, least: "0.20.0" if (package, least) == ("peft", PEFT) else ""
    )
    with pytest.raises(ConfigError, match=r"peft is 0\.20\.0.*install 0\.21 or newer, or launch without --use_fsdp"):
        sharding_wanted()
