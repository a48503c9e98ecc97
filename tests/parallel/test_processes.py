"""Several processes make the same run as one: the same samples, losses and parameters, one writer, no silent hang.

Most tests fork two processes that talk over gloo; the last ones go through ``accelerate launch`` as a user would.
"""

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import yaml
from tiny import MANY_EOS, PROMPTS, copies, length, plain, randomise, save_tiny

import ppo_lib
from ppo_lib.book.jsonl import read_jsonl
from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.backbone import Backbone
from ppo_lib.models.reward_model import RewardModel
from ppo_lib.models.world import ALONE, World
from ppo_lib.parallel.processes import Processes, ProcessLost, of_an_exchange
from ppo_lib.run.fitting import fit
from ppo_lib.run.folders import RunFolder
from ppo_lib.sampling.rollout import sample
from ppo_lib.trainers.configuration import ConfigError, DPOConfig, GRPOConfig, PPOConfig, RewardConfig, SFTConfig
from ppo_lib.trainers.dpo import DPOTrainer
from ppo_lib.trainers.grpo import GRPOTrainer
from ppo_lib.trainers.ppo import PPOTrainer
from ppo_lib.trainers.reward import RewardTrainer
from ppo_lib.trainers.sft import SFTTrainer

SECONDS = 120  # a hang is a failure, not a wait


def together(folder: Path, function, size: int = 2) -> list:
    """What ``function(world)`` returns in each of ``size`` forked processes that are connected by gloo."""
    store = folder / f"store-{time.monotonic_ns()}"
    children = []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                signal.alarm(SECONDS)
                dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
                torch.save(function(Processes(rank, size)), f"{store}.{rank}")
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0] * size
    return [torch.load(f"{store}.{rank}", weights_only=False) for rank in range(size)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"), eos=MANY_EOS)


def close(one, other, tolerance: float = 1e-5) -> None:
    """Equal numbers under equal names, up to the order in which floats are added."""
    assert set(one) == set(other)
    for key, value in one.items():
        assert other[key] == pytest.approx(value, abs=tolerance, rel=tolerance), key


# ------------------------------------------------------------------------------------------------------- same numbers

BASE = {"rollout_batch": 14, "max_new_tokens": 9, "learning_rate": 1e-3, "lora_rank": 4, "iterations": 8, "epochs": 2}
PPO = {
    "one minibatch": {"minibatch": 14, "microbatch": 14},
    "odd minibatches in small microbatches": {"minibatch": 7, "microbatch": 2},
    "one row for one process, none to spare": {"rollout_batch": 4, "minibatch": 2, "microbatch": 1, "epochs": 1},
    "a merged sampler": {"minibatch": 7, "microbatch": 7, "merge_adapter": True},
    "adaptive beta, whitened rewards": {"minibatch": 7, "microbatch": 7, "kl_target": 0.5, "whiten_rewards": True},
    "KL in the loss, entropy bonus": {
        "minibatch": 14,
        "microbatch": 4,
        "kl_in": "loss",
        "kl_estimator": "k3",
        "entropy_coef": 0.01,
        "missing_eos_penalty": 1.0,
    },
}


def train_ppo(folder: Path, world: World, options, shared_reward: bool = False):
    """Two iterations of PPO from a policy that has already moved: metrics, samples and parameters."""
    policy = ActorCritic(Backbone.from_pretrained(folder, dtype="float64"), lora_rank=4)
    policy.backbone.merge_adapter = options.get("merge_adapter")
    randomise(policy.parameters_to_train(), scale=0.2)
    reward = length
    if shared_reward:
        reward = RewardModel(policy.backbone, lora_rank=4)
        randomise(reward.parameters_to_train(), seed=1)
        reward.calibrate(["a", "b", "c"], ["x", "yy", "zzz"])
    config = PPOConfig(**{**BASE, **options})
    trainer = PPOTrainer(config, policy, PROMPTS, reward, gold=length, world=world)
    metrics, samples = [], []
    for _ in range(2):
        metrics.append(plain(trainer.step()))
        samples.append([(row["prompt"], row["response"]) for row in trainer.samples()])
    return metrics, samples, copies(policy.parameters_to_train())


@pytest.mark.parametrize("name", PPO)
def test_ppo_on_two_processes_gives_the_samples_losses_and_adapters_of_one(folder, tmp_path, name):
    """In float64, since Adam turns a gradient that is rounding and nothing else into a step of full length."""
    alone = train_ppo(folder, ALONE, PPO[name])
    for metrics, samples, parameters in together(tmp_path, lambda p: train_ppo(folder, p, PPO[name])):
        assert samples == alone[1]
        for one, other in zip(alone[0], metrics, strict=True):
            close(one, other)
        for one, other in zip(alone[2], parameters, strict=True):
            torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-5)


def test_both_processes_end_with_the_same_bits_and_see_the_whole_batch(folder, tmp_path):
    """Metrics are global: each process reports those of all 14 responses, and the parameters do not drift apart."""
    first, second = together(tmp_path, lambda p: train_ppo(folder, p, PPO["odd minibatches in small microbatches"]))
    assert first[0] == second[0]
    assert first[1] == second[1]
    assert all(torch.equal(a, b) for a, b in zip(first[2], second[2], strict=True))


def test_a_reward_model_on_the_shared_backbone_judges_in_shares(folder, tmp_path):
    options = PPO["one minibatch"]
    alone = train_ppo(folder, ALONE, options, shared_reward=True)
    for metrics, _, _ in together(tmp_path, lambda p: train_ppo(folder, p, options, shared_reward=True)):
        assert metrics[0]["score_mean"] == pytest.approx(alone[0][0]["score_mean"], abs=1e-5)
        assert metrics[1]["score_mean"] == pytest.approx(alone[0][1]["score_mean"], abs=1e-5)


def test_three_processes_share_what_three_does_not_divide(folder, tmp_path):
    options = PPO["odd minibatches in small microbatches"]
    alone = train_ppo(folder, ALONE, options)
    for _, samples, parameters in together(tmp_path, lambda p: train_ppo(folder, p, options), size=3):
        assert samples == alone[1]
        for one, other in zip(alone[2], parameters, strict=True):
            torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-5)


PAIRS = [(word, word + "!", "no " + word) for word in ("a", "bc", "d e", "fgh", "ij", "k", "lm n")]


def train_sft(folder: Path, world: World):
    config = SFTConfig(batch=5, microbatch=2, epochs=4, learning_rate=1e-2)
    trainer = SFTTrainer(
        config, Backbone.from_pretrained(folder, dtype="float64"), [(p, c) for p, c, _ in PAIRS], world
    )
    return [trainer.step() for _ in range(3)], [p.detach().clone() for p in trainer.optimizer.parameters]


def train_reward(folder: Path, world: World):
    config = RewardConfig(batch=5, microbatch=2, epochs=4, learning_rate=1e-2)
    model = RewardModel(Backbone.from_pretrained(folder, dtype="float64"), lora_rank=4)
    randomise(model.parameters_to_train(), seed=1)
    trainer = RewardTrainer(config, model, PAIRS, world)
    return [trainer.step() for _ in range(3)], [p.detach().clone() for p in trainer.optimizer.parameters]


def moved_policy(folder: Path) -> ActorCritic:
    policy = ActorCritic(Backbone.from_pretrained(folder, dtype="float64"), lora_rank=4)
    randomise(policy.backbone.adapter_parameters("policy"), scale=0.2)
    return policy


def train_dpo(folder: Path, world: World):
    config = DPOConfig(batch=5, microbatch=2, epochs=4, learning_rate=1e-2)
    trainer = DPOTrainer(config, moved_policy(folder), PAIRS, world)
    return [trainer.step() for _ in range(3)], copies(trainer.optimizer.parameters)


def train_grpo(folder: Path, world: World):
    """Groups of 7 in a batch of 14: a share of the batch tears them, the advantages must not be torn."""
    options = {**BASE, "group_size": 7, "minibatch": 7, "microbatch": 2}
    trainer = GRPOTrainer(GRPOConfig(**options), moved_policy(folder), PROMPTS, length, length, world)
    return [trainer.step() for _ in range(2)], copies(trainer.ppo.optimizer.parameters)


@pytest.mark.parametrize("train", [train_sft, train_reward, train_dpo, train_grpo])
def test_the_other_stages_on_two_processes_are_those_of_one(folder, tmp_path, train):
    alone = train(folder, ALONE)
    for metrics, parameters in together(tmp_path, lambda p: train(folder, p)):
        for one, other in zip(alone[0], metrics, strict=True):
            close(plain(one), plain(other))
        for one, other in zip(alone[1], parameters, strict=True):
            torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------------------------------------------ sampling


def test_sampling_leaves_the_generator_where_it_was_needed_whatever_the_budget(folder):
    """So a run does not depend on the number of processes, nor on a budget that no response needed."""
    backbone = Backbone.from_pretrained(folder)
    ids = [[5, 6, 7], [8], [9, 10]]
    generators = [torch.Generator().manual_seed(3) for _ in range(3)]
    expected = sample(backbone, ids, 30, 1.0, None, generators[0])
    for generator, budget in zip(generators[1:], (30, 60), strict=True):
        got = sample(backbone, ids, budget, 1.0, None, generator)
        assert torch.equal(got.batch.sequences, expected.batch.sequences)
        assert torch.equal(generator.get_state(), generators[0].get_state())
    assert expected.batch.responses.shape[1] < 30  # the budget was not used up, or this test would show nothing


# --------------------------------------------------------------------------------------------------- small exchanges


def exchanges(world: World):
    tensor = torch.tensor([1.0, 10.0]) * (world.rank + 1)
    world.add(tensor)
    parameters = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1))]
    if world.first:
        parameters[0].grad = torch.ones(2)  # the second process had no row
    world.add_gradients(parameters)
    return (
        tensor.tolist(),
        [p.grad.tolist() for p in parameters],
        world.gather(list(world.share(range(5)))),
        world.total(1.0, world.rank),
        world.largest(-1.0 - world.rank),
        world.any(world.rank == 1),
        world.any(False),
    )


def test_what_processes_exchange(tmp_path):
    expected = ([3.0, 30.0], [[1.0, 1.0], [0.0]], [0, 1, 2, 3, 4], (2.0, 1), -1.0, True, False)
    assert together(tmp_path, exchanges) == [expected, expected]


def test_a_single_process_exchanges_nothing():
    alone, tensor = ALONE, torch.ones(2)
    alone.add(tensor)
    assert tensor.tolist() == [1.0, 1.0]
    assert alone.share([1, 2, 3]) == alone.gather([1, 2, 3]) == [1, 2, 3]
    assert alone.total(2.0, 3) == (2.0, 3)
    assert alone.largest(2.0) == 2.0
    assert not alone.any(False)


def dies(world: World):
    if world.rank == 1:
        dist.destroy_process_group()
        return None
    with pytest.raises(ProcessLost, match=r"another process of this run has ended .* go on with --resume") as lost:
        world.wait()
    return "\n" not in str(lost.value)


def test_a_process_that_is_gone_is_told_in_one_sentence(tmp_path):
    assert together(tmp_path, dies)[0]


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("environment", "device", "words"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "cpu", "asked for DeepSpeed"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "cpu", "asked for Megatron"),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "cpu", "mixed precision 'bf16', but the key dtype decides"),
        ({"WORLD_SIZE": "2"}, "cuda:1", "device is 'cuda:1', but 2 processes need one each"),
        ({"WORLD_SIZE": "200", "LOCAL_RANK": "150"}, "cuda", "process 150 of this machine has no GPU"),
    ],
)
def test_a_launch_that_would_not_do_what_it_says_is_refused(monkeypatch, environment, device, words):
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ConfigError, match=words):
        Processes.launched(device)


def test_batches_that_leave_a_process_without_work_are_refused(folder):
    three, backbone = Processes(0, 3), Backbone.from_pretrained(folder)
    for name, build in {
        "minibatch": lambda: PPOTrainer(
            PPOConfig(**BASE, minibatch=2, microbatch=1), ActorCritic(backbone), PROMPTS, length, world=three
        ),
        "batch": lambda: SFTTrainer(SFTConfig(batch=2), backbone, [("a", "b")], three),
        "minibatch of GRPO": lambda: GRPOTrainer(
            GRPOConfig(**BASE, group_size=7, minibatch=2, microbatch=1),
            moved_policy(folder),
            PROMPTS,
            length,
            None,
            three,
        ),
        "batch of DPO": lambda: DPOTrainer(DPOConfig(batch=2), moved_policy(folder), PAIRS, three),
    }.items():
        with pytest.raises(ConfigError, match=f"{name.split()[0]} is 2, but 3 processes share it"):
            build()


# ----------------------------------------------------------------------------------------------------------- one writer


class Counter:
    """The smallest stage; writes nothing itself."""

    config = SFTConfig()
    iteration, iterations = 0, 3

    def step(self):
        self.iteration += 1
        return {"iteration": self.iteration, "loss": 1.0 / self.iteration}

    def samples(self):
        return [{"text": "x"}]

    def state(self):
        return {"zero": torch.zeros(1)}, {"iteration": self.iteration}

    def load_state(self, tensors, values):
        self.iteration = values["iteration"]

    def save(self, folder):
        (Path(folder) / "weights").write_text("saved")


def driven(folder: Path, world: World, stop: bool = False):
    run = RunFolder(folder, resume=True, world=world)
    try:
        for row in fit(Counter(), run, checkpoint_every=1, progress=False):
            if stop and row["iteration"] == 1 and world.rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)  # between iterations, where the signal is not deferred
    except BaseException as error:
        return type(error).__name__
    return "done"


def test_one_process_writes_and_all_come_to_the_end(tmp_path):
    assert together(tmp_path, lambda p: driven(tmp_path / "run", p)) == ["done", "done"]
    rows = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert [row["iteration"] for row in rows] == [1, 2, 3]
    assert len(read_jsonl(tmp_path / "run" / "samples.jsonl")) == 3
    assert (tmp_path / "run" / "model" / "weights").read_text() == "saved"
    assert (tmp_path / "run" / "manifest.json").exists()


class Interrupting(Counter):
    """A signal reaches the second process in the middle of an iteration, and the first one not at all."""

    def step(self):
        if self.iteration == 1 and dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().step()


def interrupted(folder: Path, world: World):
    try:
        list(fit(Interrupting(), RunFolder(folder, world=world), progress=False))
    except KeyboardInterrupt as stop:
        return str(stop)
    return "done"


def test_a_signal_to_one_process_stops_all_after_the_same_iteration(tmp_path):
    expected = "stopped after iteration 2 of 3; go on with --resume"
    assert together(tmp_path, lambda p: interrupted(tmp_path / "run", p)) == [expected, expected]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["000002"]


# ------------------------------------------------------------------------------------------------ as a user launches it


@pytest.fixture(scope="module")
def place(folder, tmp_path_factory) -> Path:
    """A folder with a configuration, prompts, and a reward that kills one process once."""
    place = tmp_path_factory.mktemp("world")
    (place / "prompts.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in PROMPTS))
    config = {
        **BASE,
        "model": str(folder),
        "prompts": str(place / "prompts.jsonl"),
        "reward_model": "rewards:length",
        "device": "cpu",
        "iterations": 4,
        "rollout_batch": 6,
        "minibatch": 3,
        "microbatch": 2,
        "max_new_tokens": 6,
    }
    (place / "ppo.yaml").write_text(yaml.safe_dump(config))
    (place / "rewards.py").write_text(
        "import os, pathlib, signal\n"
        "calls = []\n"
        "def length(prompts, responses):\n"
        "    calls.append(1)\n"
        "    mark = pathlib.Path('kill')\n"
        "    if mark.exists() and os.environ.get('RANK') == '1' and len(calls) == 3:\n"
        "        mark.unlink()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return [len(r) / 10 for r in responses]\n"
    )
    return place


def launch(
    place: Path, out: str, *more: str, processes: int = 2, launcher: Sequence[str] = ("--multi_gpu",)
) -> subprocess.CompletedProcess:
    """``accelerate launch -m ppo_lib train ppo`` with two processes on the CPU, or plain python with one."""
    command = [sys.executable, "-m"]
    if processes > 1:
        command += ["accelerate.commands.launch", *launcher, "--num_machines", "1", "--mixed_precision", "no"]
        command += ["--num_processes", str(processes), "--dynamo_backend", "no", "--main_process_port", "0", "-m"]
    command += ["ppo_lib", "train", "ppo", "--config", "ppo.yaml", "--out", out, "--quiet", *more]
    root = str(Path(ppo_lib.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=place, env=environment, timeout=300)


def metrics_of(folder: Path) -> list[dict[str, float]]:
    rows = read_jsonl(folder / "metrics.jsonl")
    return [plain(row) for row in rows]


@pytest.mark.slow
def test_accelerate_launch_makes_the_same_run_and_goes_on_after_a_kill(place):
    """One process, two processes, and two of which one is killed in the third iteration and started again."""
    alone = launch(place, "alone", processes=1)
    assert alone.returncode == 0, alone.stderr
    both = launch(place, "both")
    assert both.returncode == 0, both.stderr
    assert both.stdout.count("each batch shared by 2 processes") == 1
    assert both.stdout.count("done in") == 1
    (place / "kill").touch()
    killed = launch(place, "killed", "--checkpoint-every", "1")
    assert killed.returncode not in (0, 2)
    sentences = [line for line in killed.stderr.splitlines() if line.startswith("ppo_lib: ")]
    assert len(sentences) == 1, killed.stderr
    assert "another process of this run has ended" in sentences[0]
    assert len(metrics_of(place / "killed")) == 2
    again = launch(place, "killed", "--checkpoint-every", "1", "--resume")
    assert again.returncode == 0, again.stderr
    assert metrics_of(place / "killed") == metrics_of(place / "both")
    for one, other in zip(metrics_of(place / "alone"), metrics_of(place / "both"), strict=True):
        close(one, other)
    samples = [read_jsonl(place / name / "samples.jsonl") for name in ("alone", "both", "killed")]
    assert [[row["response"] for row in rows] for rows in samples] == [[row["response"] for row in samples[0]]] * 3


@pytest.mark.slow
def test_bad_input_under_accelerate_is_told_without_a_traceback_of_ours(place):
    done = launch(place, "refused", "--set", "minibatch=1", "--set", "microbatch=1")
    assert done.returncode != 0
    assert "ppo_lib: minibatch is 1, but 2 processes share it; give each at least one" in done.stderr
    assert not (place / "refused").exists()


def test_an_error_of_ones_own_that_speaks_of_gloo_is_no_lost_process():
    assert not of_an_exchange(RuntimeError("the igloo has melted"))
