"""The command line: what it does, what it refuses and with which exit code, and that a killed run ends the same."""

import json
import os
import resource
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ppo_lib.book.jsonl import read_jsonl
from ppo_lib.errors import BadInput
from ppo_lib.run import cli, stages
from ppo_lib.run.checkpoints import load_checkpoint
from ppo_lib.run.cli import main
from ppo_lib.run.exports import TARGETS
from ppo_lib.run.samplers import load_sampler
from ppo_lib.run.trackers import TRACKERS, tracker

CLOCKS = ("seconds_rollout", "seconds_update", "tokens_per_second", "pairs_per_second", "peak_memory_bytes")


LONG = "n" * 300  # longer than a name on a disk may be


def make_model(folder: Path) -> Path:
    """A random language model over bytes, saved as a hub model would be."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<pad>": 0, "<eos>": 1} | {letter: i + 2 for i, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=128,
        eos_token_id=1, pad_token_id=0, bos_token_id=None, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def write_jsonl(path: Path, rows) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> dict[str, str]:
    """A tiny model, data files, and a recipe for them."""
    folder = tmp_path_factory.mktemp("world")
    model = str(make_model(folder / "model"))
    words = ["a", "bc", "d\u2028e", "fgh", "ij", "k\x85", "lm\x0cn", "o"]
    data = write_jsonl(folder / "sft.jsonl", [{"prompt": w, "response": w[::-1]} for w in words])
    pairs = write_jsonl(
        folder / "pairs.jsonl", [{"prompt": w, "chosen": w + "!", "rejected": "no " + w} for w in words]
    )
    prompts = write_jsonl(folder / "prompts.jsonl", [{"prompt": w} for w in words])
    common = {"model": model, "device": "cpu", "batch": 4, "microbatch": 2, "epochs": 2}
    recipe = {
        "sft": common | {"data": data},
        "reward": common | {"data": pairs, "lora_rank": 2},
        "ppo": {
            "model": model, "prompts": prompts, "reward_model": "tests_reward:length", "device": "cpu",
            "iterations": 4, "rollout_batch": 4, "minibatch": 2, "microbatch": 2, "epochs": 2,
            "max_new_tokens": 6, "lora_rank": 2,
        },
    }  # fmt: skip
    recipe["grpo"] = recipe["ppo"] | {"group_size": 2}
    recipe["dpo"] = {key: value for key, value in recipe["reward"].items() if key != "lora_rank"} | {"lora_rank": 2}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "tests_reward.py").write_text(
        "def length(prompts, responses):\n    return [float(len(r)) for r in responses]\n\nnumber = 3\n"
    )
    files = {"model": model, "sft": data, "pairs": pairs, "prompts": prompts}
    return files | {"recipe": str(folder / "recipe.yaml"), "folder": str(folder)}


@pytest.fixture(autouse=True)
def importable(world, monkeypatch):
    monkeypatch.syspath_prepend(world["folder"])


def train(world, stage, out, *more):
    return main(["train", stage, "--config", world["recipe"], "--out", str(out), "--quiet", *more])


def metrics_of(folder):
    """The metrics without clocks and memory, which may differ between two equal runs."""
    rows = read_jsonl(Path(folder) / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in CLOCKS} for row in rows]


@pytest.mark.parametrize(
    ("stage", "iterations", "words"),
    [
        ("sft", 4, "4 optimizer steps"),
        ("reward", 4, "4 optimizer steps"),
        ("ppo", 4, "4 iterations x 2 epochs x 2 minibatches = 16 optimizer steps"),
        ("grpo", 4, "4 responses in groups of 2 per iteration, minibatch 2 per optimizer step"),
        ("grpo", 4, "4 iterations x 2 epochs x 2 minibatches = 16 optimizer steps"),
        ("dpo", 4, "2 epochs = 4 optimizer steps"),
    ],
)
def test_train_says_its_steps_and_leaves_a_whole_run_folder(world, tmp_path, capsys, stage, iterations, words):
    out = tmp_path / "run"
    assert train(world, stage, out) == 0
    said = capsys.readouterr().out
    assert words in said
    assert "microbatch 2" in said
    assert [row["iteration"] for row in metrics_of(out)] == list(range(1, iterations + 1))
    assert {"config.yaml", "metrics.jsonl", "manifest.json", "checkpoints", "model"} <= {p.name for p in out.iterdir()}


def test_an_interrupt_while_packages_are_imported_is_one_sentence(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "main", interrupted)
    with pytest.raises(SystemExit) as end:
        runpy.run_module("ppo_lib", run_name="__main__")
    assert (end.value.code, capsys.readouterr().err) == (130, "ppo_lib: stopped before anything began\n")


def test_the_command_that_a_run_names_can_be_pasted_whatever_its_folder_is_called(world, tmp_path, capsys):
    out = tmp_path / "first läufe & more"
    assert train(world, "sft", out) == 0
    words = shlex.split(capsys.readouterr().out.strip().splitlines()[-1])
    assert words[-5:] == ["python", "-m", "ppo_lib", "report", str(out)]


@pytest.mark.parametrize("stage", ["grpo", "dpo"])
def test_what_grpo_and_dpo_train_answers_and_has_a_report(world, tmp_path, capsys, stage):
    out = tmp_path / "run"
    assert train(world, stage, out) == 0
    assert main(["report", str(out)]) == 0
    page = (out / "report.html").read_text()
    own = {"grpo": ("Share of the groups", "proxy score", "Samples"), "dpo": ("implicit reward", "chosen", "accuracy")}
    assert all(words in page for words in own[stage])
    assert ("explained variance" in page, "proxy score" in page) == (False, stage == "grpo")
    capsys.readouterr()
    assert main(["sample", "--model", str(out), "--prompt", "a", "--max-new-tokens", "4"]) == 0
    assert capsys.readouterr().out
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["iterations"] == 4
    assert manifest["config"]["lora_rank"] == 2
    samples = (out / "samples.jsonl").read_text().splitlines() if (out / "samples.jsonl").exists() else []
    assert bool(samples) == (stage == "grpo")


def test_what_grpo_and_dpo_write_names_the_model_of_the_configuration(world, tmp_path):
    """Model, rank and data are those of the configuration, not of the caller."""
    for stage in ("grpo", "dpo"):
        assert train(world, stage, tmp_path / stage, "--set", "lora_rank=3", "--set", "seed=1") == 0
        adapter = json.loads((tmp_path / stage / "model" / "adapter_config.json").read_text())
        assert (adapter["base_model_name_or_path"], adapter["r"]) == (world["model"], 3)


@pytest.mark.parametrize(("stage", "trainer"), [("grpo", "GRPOTrainer"), ("dpo", "DPOTrainer")])
def test_grpo_and_dpo_that_were_stopped_go_on_to_the_same_bytes(world, tmp_path, monkeypatch, capsys, stage, trainer):
    step = getattr(stages, trainer).step

    def killed(self):
        if self.iteration == 3:  # after the checkpoint of the second iteration: the third is made again
            raise RuntimeError("the power failed")
        return step(self)

    assert train(world, stage, tmp_path / "whole") == 0
    with monkeypatch.context() as patches:
        patches.setattr(getattr(stages, trainer), "step", killed)
        with pytest.raises(RuntimeError, match="power"):
            train(world, stage, tmp_path / "run", "--checkpoint-every", "2")
    assert len(metrics_of(tmp_path / "run")) == 3
    assert train(world, stage, tmp_path / "run", "--resume") == 0
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "whole")
    weights = [(tmp_path / name / "model" / "adapter_model.safetensors").read_bytes() for name in ("run", "whole")]
    assert weights[0] == weights[1]
    assert train(world, stage, tmp_path / "run", "--resume") == 0
    assert "already done" in capsys.readouterr().out
    code = train(world, stage, tmp_path / "run", "--resume", "--set", "beta=1")
    assert "begun with beta 0.1" in refused(capsys, code)


@pytest.mark.parametrize(
    ("stage", "setting", "words"),
    [
        ("grpo", "betaa=0.1", "unknown key 'betaa' (value 0.1); did you mean 'beta'?"),
        ("grpo", "grpo.beta=0.1", "if the key 'beta' is meant, give it without 'grpo.'"),
        ("grpo", "group_size=3", "group_size is 3, but must divide rollout_batch, which is 4"),
        ("grpo", "value_coef=1", "value_coef (value 1) is refused: GRPO has no critic; leave it out"),
        ("grpo", "chat_template=true", "chat_template (value True) is refused: there is no such key here yet"),
        ("grpo", "top_k=3", "top_k (value 3) is refused: top_k samples from another distribution"),
        ("grpo", "reward_model=nothing", "reward_model is 'nothing', but must be"),
        ("grpo", "reward_model=tests_reward:number", "which is not a function of (prompts, responses)"),
        ("grpo", "prompts=missing.jsonl", "cannot read the data 'missing.jsonl'"),
        ("grpo", "max_new_tokens=1000", "max_new_tokens is 1000, but the model's context is 128"),
        ("dpo", "epsilon=0.1", "unknown key 'epsilon' (value 0.1)"),
        ("dpo", "max_steps=3", "max_steps (value 3) is refused: there is no such key here yet"),
        ("dpo", "beta=0", "beta is 0, but must be a number above 0"),
        ("dpo", "data=missing.jsonl", "cannot read the data 'missing.jsonl'"),
        ("dpo", "model=nowhere/at/all", "cannot be loaded"),
        ("dpo", "max_length=3", "at most 3 fit"),
    ],
)
def test_bad_input_to_grpo_and_dpo_is_refused_in_one_line_and_nothing_is_written(
    world, tmp_path, capsys, stage, setting, words
):
    assert words in refused(capsys, train(world, stage, tmp_path / "run", "--set", setting))
    assert not (tmp_path / "run").exists()


def test_ppo_writes_the_metrics_that_the_book_names(world, tmp_path):
    train(world, "ppo", tmp_path / "run")
    names = (
        "iteration score_mean score_std kl_k1 kl_k3 entropy clip_fraction approx_kl ratio_max policy_loss value_loss "
        "explained_variance grad_norm response_length eos_rate beta learning_rate seconds_rollout seconds_update "
        "tokens_per_second peak_memory_bytes"
    )
    row = read_jsonl(tmp_path / "run" / "metrics.jsonl")[-1]
    assert set(names.split()) <= set(row)
    assert next(iter(row)) == "iteration"
    sample = read_jsonl(tmp_path / "run" / "samples.jsonl")[0]
    assert {"iteration", "prompt", "response", "score"} <= set(sample)


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_full_fine_tuning_leaves_a_plain_model_that_samples(world, tmp_path, capsys, critic):
    layout = ["--set", "finetune=full", "--set", f"critic={critic}", "--set", "iterations=2"]
    run = ["train", "ppo", "--config", world["recipe"], *layout, "--out", str(tmp_path / "run"), "--quiet"]
    assert main(run) == 0
    AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    assert (tmp_path / "run" / "model" / "critic").is_dir() == (critic == "separate")
    capsys.readouterr()
    assert main(["sample", "--model", str(tmp_path / "run"), "--prompt", "a", "--max-new-tokens", "4"]) == 0
    assert capsys.readouterr().out


def test_set_changes_a_key_and_the_run_records_it(world, tmp_path):
    assert train(world, "ppo", tmp_path / "run", "--set", "beta=1e-3", "--set", "iterations=1") == 0
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["beta"] == 0.001
    assert len(metrics_of(tmp_path / "run")) == 1


def test_a_file_without_sections_is_one_stage(world, tmp_path):
    section = yaml.safe_load(Path(world["recipe"]).read_text())["sft"]
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump(section))
    arguments = ["train", "sft", "--config", str(tmp_path / "sft.yaml"), "--out", str(tmp_path / "run"), "--quiet"]
    assert main(arguments) == 0


def refused(capsys, code):
    """The one line on stderr of a refusal."""
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line]
    assert code == 2, said
    assert len(lines) == 1, said.err
    assert lines[0].startswith("ppo_lib")
    return lines[0]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("epsilonn=0.1", ["epsilonn", "did you mean 'epsilon'"]),
        ("beta=-1", ["beta", "-1", "at least 0"]),
        ("iterations=2.5", ["iterations", "2.5", "whole number"]),
        ("gamma=1.5", ["gamma", "1.5", "at most 1"]),
        ("kl_estimator=k4", ["kl_estimator", "k4", "one of k1, k2, k3"]),
        ("minibatch=3", ["minibatch", "3", "rollout_batch"]),
        ("top_p=0.9", ["top_p", "refused", "log-probs"]),
        ("model=nowhere/at/all", ["nowhere/at/all", "cannot be loaded"]),
        ("prompts=missing.jsonl", ["missing.jsonl", "No such file"]),
        ("reward_model=nothing", ["reward_model", "'nothing'", "package.module:function"]),
        ("reward_model=no_such_module:f", ["no_such_module:f", "cannot be imported"]),
        ("reward_model=tests_reward:missing", ["tests_reward:missing", "cannot be imported"]),
        ("reward_model=tests_reward:number", ["tests_reward:number", "not a function"]),
        ("device=toaster", ["device", "toaster", "auto, cpu or cuda"]),
        ("device=xla", ["device", "xla", "this machine has none"]),
        ("device=cuda:99", ["device", "cuda:99", "this machine has none"]),
        ("max_new_tokens=1000", ["1000"]),
        ("beta", ["--set", "key=value"]),
        ("seed=2024-13-45", ["seed is '2024-13-45'", "a whole number"]),
        ("seed=9223372036854775808", ["seed", "at most 9223372036854775807"]),
        ("iterations=6:00", ["iterations is '6:00'", "a whole number"]),
        ("iterations=1e24", ["iterations is 1e+24", "a whole number"]),
        ("device=cpu:7", ["device", "cpu:7", "this machine has none; it has cpu"]),
        ("device=mps", ["device", "mps", "this machine has none; it has cpu"]),
        ("device=meta", ["device", "meta", "this machine has none; it has cpu"]),
        ("beta=[1", ["beta=[1", "not valid YAML"]),
        ("reward_model=:length", ["':length'", "names no module"]),
        (f"model={LONG}", [LONG, "cannot be read: File name too long"]),
        (f"prompts={LONG}", [LONG, "cannot be read: File name too long"]),
        (f"reward_model={LONG}", [LONG, "cannot be read: File name too long"]),
    ],
)
def test_bad_input_to_ppo_is_refused_in_one_line_and_nothing_is_written(world, tmp_path, capsys, setting, words):
    line = refused(capsys, train(world, "ppo", tmp_path / "run", "--set", setting))
    assert all(word in line for word in words), line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ('{"prompt": "a"}\n', ["line 1", "response is None"]),
        ('{"prompt": "a", "response": "b"}\n[1]\n', ["line 2", "prompt is None"]),
        ('{"prompt": "a", "response": "b"}\n\n{"prompt": 3, "response": "b"}\n', ["line 3", "prompt is 3"]),
        ('{"prompt": " ", "response": "b"}\n', ["line 1", "prompt is ' '"]),
        ('{"prompt": "a", "resp\n', ["line 1", "is not JSON"]),
        ("\n", ["holds no line"]),
    ],
)
def test_data_that_does_not_fit_is_refused_naming_file_and_line(world, tmp_path, capsys, rows, words):
    (tmp_path / "bad.jsonl").write_text(rows)
    line = refused(capsys, train(world, "sft", tmp_path / "run", "--set", f"data={tmp_path / 'bad.jsonl'}"))
    assert "bad.jsonl" in line
    assert all(word in line for word in words), line
    assert not (tmp_path / "run").exists()


def test_data_that_is_not_text_is_refused(world, tmp_path, capsys):
    (tmp_path / "bad.jsonl").write_bytes(b"\xff\xfe\x00")
    line = refused(capsys, train(world, "sft", tmp_path / "run", "--set", f"data={tmp_path / 'bad.jsonl'}"))
    assert "not UTF-8" in line


def test_an_out_folder_in_use_is_refused_and_left_as_it_is(world, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    for command in (["train", "sft"], ["align"]):
        line = refused(capsys, main([*command, "--config", world["recipe"], "--out", str(tmp_path)]))
        assert "not empty" in line
        assert "--resume" in line
        line = refused(capsys, main([*command, "--config", world["recipe"], "--out", str(tmp_path), "--resume"]))
        assert "not a run" in line
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_resuming_with_another_setting_is_refused_naming_it(world, tmp_path, capsys):
    assert train(world, "sft", tmp_path / "run") == 0
    capsys.readouterr()
    line = refused(capsys, train(world, "sft", tmp_path / "run", "--resume", "--set", "seed=5"))
    assert "seed 0" in line
    assert "5" in line
    assert train(world, "sft", tmp_path / "run", "--resume") == 0
    assert "already done" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "sft", "--config", "missing.yaml", "--out", "x"], "cannot read the configuration"),
        (
            ["train", "sft", "--recipe", "pockett", "--out", "x"],
            "known recipes: capitals, gsm8k, pocket, pref",
        ),
        (["align", "--recipe", "pocket", "--out", "x", "--set", "sft=3"], "section sft is 3"),
        (["report", "missing"], "not a folder"),
        (["report", "."], "nothing to report"),
        (["sample", "--model", "missing", "--prompt", "a"], "cannot be loaded"),
        (["sample", "--model", "pocket:huge", "--prompt", "a"], "pocket:base and pocket:sft"),
        (["sample", "--model", LONG, "--prompt", "a"], "cannot be read: File name too long"),
        (["report", LONG], "cannot be read: File name too long"),
        (["align", "--recipe", "pocket", "--out", LONG], "cannot be read: File name too long"),
    ],
)
def test_other_bad_input_is_refused_in_one_line(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert words in refused(capsys, main(arguments))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["train", "ipo", "--recipe", "pocket", "--out", "x"],
        ["train", "sft", "--out", "x"],
        ["train", "sft", "--recipe", "pocket"],
        ["train", "sft", "--recipe", "pocket", "--config", "x.yaml", "--out", "x"],
        ["train", "sft", "--recipe", "pocket", "--out", "x", "--log", "paper"],
        ["train", "sft", "--recipe", "pocket", "--out", "x", "--checkpoint-every", "0"],
        ["train", "sft", "--recipe", "pocket", "--out", "x", "--checkpoint-every", "often"],
        ["sample", "--model", "x", "--prompt", "a", "--temperature", "hot"],
        ["sample", "--model", "x", "--prompt", "half an emoji \ud83d"],
        ["train", "sft", "--recipe", "pocket", "--out", "bytes \udcff"],
        ["report", "bytes \udcff"],
    ],
)
def test_a_wrong_command_line_exits_with_2_and_one_line(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert "--help" in refused(capsys, caught.value.code)


def test_a_recipe_without_the_section_is_refused(world, tmp_path, capsys):
    (tmp_path / "half.yaml").write_text("sft: {}\nreward: {}\n")
    common = ["--config", str(tmp_path / "half.yaml"), "--out", str(tmp_path / "run")]
    assert "no section 'ppo'" in refused(capsys, main(["train", "ppo", *common]))
    assert "align needs sft, reward, ppo" in refused(capsys, main(["align", *common]))


@pytest.mark.parametrize("command", [["train", "ppo"], ["align"]])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sft: {}\nrewrad: {}\nppo: {}\n", "unknown section 'rewrad'; did you mean 'reward'?"),
        ("sft: {}\nreward: {}\nevaluatoin: {}\nppo: {}\n", "unknown section 'evaluatoin'; did you mean 'evaluation'?"),
        ("ppoo: {}\n", "unknown section 'ppoo'; did you mean 'ppo'?"),
        ("sft: {}\nreward: {}\nppo:\n", "section ppo says nothing; write {} for all defaults"),
        ("sft: {}\nreward: {}\nppo: 3\n", "section ppo is 3"),
        ("# all of it is commented out\n", "says nothing"),
        ("a: &a [*a]\n", "&a holds itself"),
    ],
)
def test_a_file_is_blamed_for_its_own_mistake(tmp_path, capsys, command, text, words):
    (tmp_path / "mine.yaml").write_text(text)
    line = refused(capsys, main([*command, "--config", str(tmp_path / "mine.yaml"), "--out", str(tmp_path / "run")]))
    assert words in line
    assert "mine.yaml" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("setting", ["reward_model=tests_reward:length", "ppo.reward_model=x", "ppo.model=x"])
def test_align_refuses_a_setting_that_it_would_not_obey(world, tmp_path, capsys, setting):
    line = refused(
        capsys, main(["align", "--config", world["recipe"], "--set", setting, "--out", str(tmp_path / "run")])
    )
    assert f"--set '{setting}': align makes what {setting.partition('=')[0]} names" in line


def test_steps_that_a_limit_cuts_are_not_said_to_be_epochs(world, tmp_path, capsys):
    assert train(world, "sft", tmp_path / "run", "--set", "max_steps=3") == 0
    assert "max_steps = 3 optimizer steps, or 2 epochs if those are fewer" in capsys.readouterr().out


def test_a_launch_with_an_engine_that_is_not_supported_is_refused(world, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert "asked for DeepSpeed" in refused(capsys, train(world, "sft", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_is_not_installed_is_refused_before_training(world, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ppo_lib.run.trackers.find_spec", lambda name: None)
    line = refused(capsys, train(world, "sft", tmp_path / "run", "--log", "trackio"))
    assert "pip install trackio" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["wandb", "trackio"])
def test_a_tracker_gets_the_config_and_every_iteration(world, tmp_path, monkeypatch, kind):
    calls = []

    class Client:
        """The module, and the run that its ``init`` gives."""

        def init(**kwargs):
            calls.append(("init", kwargs))
            return Client

        log = staticmethod(lambda metrics, step: calls.append(("log", step, metrics)))
        finish = staticmethod(lambda: calls.append(("finish",)))

    monkeypatch.setattr("ppo_lib.run.trackers.find_spec", lambda name: True)
    monkeypatch.setitem(sys.modules, kind, Client)
    assert train(world, "sft", tmp_path / "run", "--log", kind) == 0
    assert [call[0] for call in calls] == ["init", "log", "log", "log", "log", "finish"]
    assert calls[0][1]["config"]["batch"] == 4
    assert calls[0][1]["project"] == "ppo_lib"
    assert calls[0][1]["name"] == "run"
    assert calls[0][1]["resume"] == "allow"
    assert [call[1] for call in calls[1:-1]] == [1, 2, 3, 4]
    assert "loss" in calls[1][2]
    assert "iteration" not in calls[1][2]
    assert ("id" in calls[0][1]) == (kind == "wandb")


def test_a_resumed_run_goes_on_under_its_identity_at_wandb(tmp_path, monkeypatch):
    seen = []
    run = SimpleNamespace(log=lambda metrics, step: None, finish=lambda: None)
    monkeypatch.setattr("ppo_lib.run.trackers.find_spec", lambda name: True)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **kwargs: seen.append(kwargs) or run))
    for _ in range(2):
        with tracker("wandb", tmp_path, {}) as log:
            log({"iteration": 1, "loss": 2.0})
    assert seen[0]["id"] == seen[1]["id"] == (tmp_path / "wandb_id").read_text()


def test_a_tracker_is_closed_when_the_run_fails(tmp_path, monkeypatch):
    closed = []
    run = SimpleNamespace(log=lambda metrics, step: None, finish=lambda: closed.append(True))
    monkeypatch.setattr("ppo_lib.run.trackers.find_spec", lambda name: True)
    monkeypatch.setitem(sys.modules, "trackio", SimpleNamespace(init=lambda **kwargs: run))
    with pytest.raises(RuntimeError, match="a bug"), tracker("trackio", tmp_path, {}):
        raise RuntimeError("a bug")
    assert closed == [True]


def test_tensorboard_gets_every_metric_at_its_iteration(world, tmp_path, monkeypatch):
    written = []

    class SummaryWriter:
        def __init__(self, folder):
            assert folder == str(tmp_path / "run" / "tensorboard")

        def add_scalar(self, name, value, global_step):
            written.append((name, value, global_step))

        def flush(self):
            pass

        def close(self):
            written.append("closed")

    monkeypatch.setattr("ppo_lib.run.trackers.find_spec", lambda name: True)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=SummaryWriter))
    assert train(world, "sft", tmp_path / "run", "--log", "tensorboard") == 0
    losses = [row["loss"] for row in metrics_of(tmp_path / "run")]
    assert [entry for entry in written if entry[0] == "loss"] == [("loss", v, i + 1) for i, v in enumerate(losses)]
    assert written[-1] == "closed"


def test_the_real_tensorboard_reads_what_was_written(world, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert train(world, "sft", tmp_path / "run", "--log", "tensorboard") == 0
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    rows = metrics_of(tmp_path / "run")
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx([row["loss"] for row in rows])


@pytest.mark.parametrize("fault", [RuntimeError, ValueError, OSError, BrokenPipeError, KeyError])
def test_a_fault_in_the_code_is_not_taken_for_bad_input(world, tmp_path, monkeypatch, fault):
    def broken(self):
        raise fault("a bug")

    monkeypatch.setattr(cli, "reader_is_gone", lambda: False)
    monkeypatch.setattr(stages.SFTTrainer, "step", broken)
    with pytest.raises(fault, match="a bug"):  # python then exits with 1 and a traceback to report
        train(world, "sft", tmp_path / "run")


MINE = """
calls = []


def mine(prompts, responses):
    calls.append(len(prompts))
    if len(calls) == 3:
        {fault}
    return [float(len(response)) for response in responses]
"""


def a_run_of_mine(world, folder, monkeypatch, fault):
    """The command for a run with a user's reward function, whose third call does something else first."""
    (folder / "judge_of_mine.py").write_text(MINE.format(fault=fault))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "judge_of_mine", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a second version within a second would not be seen
    settings = ["--set", "reward_model=judge_of_mine:mine", "--checkpoint-every", "1"]
    return ["train", "ppo", "--config", world["recipe"], "--quiet", *settings, "--out"]


@pytest.mark.slow
def test_a_fault_in_a_users_reward_function_shows_its_own_line_and_the_mended_run_goes_on(world, tmp_path, monkeypatch):
    arguments = a_run_of_mine(world, tmp_path, monkeypatch, 'int("That")')
    failed = command(*arguments, "run", cwd=tmp_path)
    assert failed.returncode == 1, failed.stderr
    assert 'judge_of_mine.py", line 8, in mine' in failed.stderr
    assert failed.stderr.strip().split("\n")[-1] == "ValueError: invalid literal for int() with base 10: 'That'"
    assert [row["iteration"] for row in metrics_of(tmp_path / "run")] == [1, 2]
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "000002")[1]["trainer"]["iteration"] == 2
    arguments = a_run_of_mine(world, tmp_path, monkeypatch, "pass")
    assert main([*arguments, str(tmp_path / "run"), "--resume"]) == 0
    assert main([*arguments, str(tmp_path / "whole")]) == 0
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ('open("no such file")', FileNotFoundError),
        ('raise BrokenPipeError("nobody listens")', BrokenPipeError),
        ("[][1]", IndexError),
    ],
)
def test_no_fault_in_a_users_reward_function_is_taken_for_bad_input(world, tmp_path, monkeypatch, statement, fault):
    monkeypatch.setattr(cli, "reader_is_gone", lambda: False)
    with pytest.raises(fault) as caught:
        main([*a_run_of_mine(world, tmp_path, monkeypatch, statement), str(tmp_path / "run")])
    assert caught.traceback[-1].path.name == "judge_of_mine.py"
    assert main([*a_run_of_mine(world, tmp_path, monkeypatch, "pass"), str(tmp_path / "run"), "--resume"]) == 0
    assert len(metrics_of(tmp_path / "run")) == 4


def test_whether_the_reader_is_gone_is_asked_of_the_pipe_itself(monkeypatch):
    """A broken pipe may be another one, such as a user's."""
    reader, writer = os.pipe()
    with open(writer, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert not cli.reader_is_gone()
        os.close(reader)
        assert cli.reader_is_gone()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("pass", "returned None of type NoneType"),
        ("return 1.0", "returned 1.0 of type float"),
        ("return ['good'] * len(responses)", "returned ['good', 'good'"),
        ("return '1' * len(responses)", "returned '1111' of type str"),
        ("return dict.fromkeys(range(len(responses)), 1.0)", "of type dict"),
        ("return set(range(len(responses)))", "of type set"),
        ("return [None for _ in responses]", "returned [None, None"),
        ("return [1.0]", "1 scores for 4 responses"),
        ("return [float('nan')] * 4", "is nan; it must be finite"),
    ],
)
def test_what_a_reward_function_may_not_return_is_told_in_one_line(world, tmp_path, capsys, monkeypatch, body, words):
    name = f"judge_{abs(hash(body))}"
    (tmp_path / f"{name}.py").write_text(f"def mine(prompts, responses):\n    {body}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    line = refused(capsys, train(world, "ppo", tmp_path / "run", "--set", f"reward_model={name}:mine"))
    assert words in line
    assert "reward" in line
    assert name in line or "scores for" in line or "finite" in line


@pytest.mark.parametrize("lines", ["yield from map(float, map(len, responses))", "return tuple(map(len, responses))"])
def test_any_row_of_numbers_is_taken_for_scores(world, tmp_path, monkeypatch, lines):
    name = f"judge_{abs(hash(lines))}"
    (tmp_path / f"{name}.py").write_text(f"def mine(prompts, responses):\n    {lines}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert train(world, "ppo", tmp_path / "run", "--set", f"reward_model={name}:mine") == 0


@pytest.mark.parametrize(
    ("text", "fault"),
    [("int('That')", ValueError), ("import no_package_of_this_name", ImportError), ("{}.x", AttributeError)],
)
def test_a_fault_in_a_users_module_keeps_its_traceback(world, tmp_path, monkeypatch, text, fault):
    name = f"module_{fault.__name__}"
    (tmp_path / f"{name}.py").write_text(f"{text}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(fault) as caught:
        train(world, "ppo", tmp_path / "run", "--set", f"reward_model={name}:mine")
    assert not isinstance(caught.value, BadInput)
    assert any(f"{name}.py" in str(entry.path) for entry in caught.traceback)


def test_a_place_that_cannot_be_written_is_refused_in_one_line(world, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    line = refused(capsys, train(world, "sft", tmp_path / "file" / "run"))
    assert "cannot be written: Not a directory; give a folder that you may write to" in line
    assert train(world, "sft", tmp_path / "run") == 0
    (tmp_path / "run" / "report.html").mkdir()
    capsys.readouterr()
    assert "cannot be written: Is a directory" in refused(capsys, main(["report", str(tmp_path / "run")]))
    (tmp_path / "run" / "metrics.jsonl").write_text("{}\nx\n")
    assert "metrics.jsonl: line 2 is not JSON" in refused(capsys, main(["report", str(tmp_path / "run")]))


@contextmanager
def no_file_beyond(size):
    """As on a disk that has so many bytes left; Python turns the signal into an error."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("config.yaml", "run/config.yaml'"),
        ("metrics.jsonl", "run'"),
        ("checkpoints/000004/tensors.safetensors", "run/checkpoints'"),
    ],
)
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(world, tmp_path, capsys, file, told):
    """The room ends before the file is whole. Tensors are written by Rust, with errors of its own."""
    every = ["--checkpoint-every", "4"]
    assert train(world, "ppo", tmp_path / "whole", *every) == 0
    capsys.readouterr()
    less = 100  # bytes: more than the seconds of two runs differ in digits, less than a line of metrics
    with no_file_beyond((tmp_path / "whole" / file).stat().st_size - less):
        code = train(world, "ppo", tmp_path / "run", *every)
    line = refused(capsys, code)
    assert f"{told} cannot be written: " in line
    assert "make room there and start again, a run with --resume" in line
    assert train(world, "ppo", tmp_path / "run", *every, "--resume") == 0
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "whole")


def test_a_disk_that_fills_up_while_the_model_is_saved_costs_nothing(world, tmp_path, capsys):
    """The tokenizer is written by Rust, which raises a plain Exception."""
    assert train(world, "ppo", tmp_path / "run") == 0
    metrics, room = metrics_of(tmp_path / "run"), (tmp_path / "run" / "model" / "tokenizer.json").stat().st_size - 1
    shutil.rmtree(tmp_path / "run" / "model")
    (tmp_path / "run" / "manifest.json").unlink()
    capsys.readouterr()
    with no_file_beyond(room):
        code = train(world, "ppo", tmp_path / "run", "--resume")
    assert "run/model' cannot be written: " in refused(capsys, code)
    assert not (tmp_path / "run" / "model").exists()
    assert train(world, "ppo", tmp_path / "run", "--resume") == 0
    assert (tmp_path / "run" / "model" / "tokenizer.json").stat().st_size == room + 1
    assert metrics_of(tmp_path / "run") == metrics


def test_reward_training_says_how_it_was_calibrated(world, tmp_path, capsys):
    assert train(world, "reward", tmp_path / "run") == 0
    assert "reward: calibrated on 256 answers of the SFT model" in capsys.readouterr().out


def test_out_of_memory_is_one_line_with_the_remedy(world, tmp_path, monkeypatch, capsys):
    def full(self):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore lines")

    monkeypatch.setattr(stages.SFTTrainer, "step", full)
    assert train(world, "sft", tmp_path / "run") == 1
    err = capsys.readouterr().err
    assert "lower microbatch" in err
    assert "More lines" not in err


def test_ctrl_c_exits_with_130_and_resume_ends_the_same(world, tmp_path, monkeypatch, capsys):
    step = stages.PPOTrainer.step

    def interrupted(self):
        if self.iteration == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self)

    assert train(world, "ppo", tmp_path / "whole") == 0
    with monkeypatch.context() as patches:
        patches.setattr(stages.PPOTrainer, "step", interrupted)
        assert train(world, "ppo", tmp_path / "run") == 130
    assert "stopped after iteration 2 of 4; go on with --resume" in capsys.readouterr().err
    assert train(world, "ppo", tmp_path / "run", "--resume") == 0
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "whole")


@pytest.fixture(scope="session")
def aligned(world, tmp_path_factory):
    """The folder of a finished ``align``, and what it said."""
    out = tmp_path_factory.mktemp("aligned") / "run"
    done = command("align", "--config", world["recipe"], "--out", str(out), "--quiet", cwd=world["folder"])
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def command(*arguments, **options):
    root = str(Path(stages.__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "ppo_lib", *arguments], capture_output=True, text=True, env=environment, **options
    )


def test_align_prints_before_and_after_and_writes_the_report(aligned):
    out, said = aligned
    for words in ("optimizer steps", "SFT", "PPO", "proxy score", "KL, nats per response", "training prompts"):
        assert words in said
    assert {p.name for p in out.iterdir()} == {"config.yaml", "sft", "reward", "ppo", "evaluation.json", "report.html"}
    result = json.loads((out / "evaluation.json").read_text())
    assert result["before"]["kl_k1"] == pytest.approx(0.0, abs=1e-5)  # the SFT model is the reference
    assert result["prompts"] == 8


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_bad_input(aligned):
    out, _ = aligned
    process = subprocess.Popen(
        [sys.executable, "-m", "ppo_lib", "report", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(stages.__file__).parents[2],
    )  # fmt: skip
    process.stdout.close()
    assert process.wait() in (0, 128 + signal.SIGPIPE)
    assert "Traceback" not in process.stderr.read()


def test_align_stands_on_the_models_it_has_just_made(aligned):
    out, _ = aligned
    for stage in ("reward", "ppo"):
        base = json.loads((out / stage / "model" / "adapter_config.json").read_text())["base_model_name_or_path"]
        assert base.endswith("sft/model")
    assert yaml.safe_load((out / "ppo" / "config.yaml").read_text())["reward_model"] == "../reward/model"


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("temperature=0.7", "evaluation.temperature is 1.0, but must be ppo.temperature, which is 0.7"),
        ("evaluation.pairs=gone.jsonl", "cannot read the data 'gone.jsonl'"),
        ("evaluation.prompts=gone.jsonl", "cannot read the data 'gone.jsonl'"),
        ("heldout_judge=tests_reward:gone", "heldout_judge is 'tests_reward:gone', which cannot be imported"),
        ("dpo.beta=0.2", "--set 'dpo.beta=0.2': align runs sft, rank, reward, ppo; use train dpo"),
        ("group_size=4", "no stage has the key 'group_size'"),
    ],
)
def test_align_refuses_before_it_trains_what_only_its_end_would_use(world, tmp_path, capsys, setting, words):
    code = main(["align", "--config", world["recipe"], "--out", str(tmp_path / "run"), "--quiet", "--set", setting])
    assert words in refused(capsys, code)
    assert not (tmp_path / "run").exists()


def test_align_again_with_resume_shows_the_same_table_and_trains_nothing(world, aligned, capsys, monkeypatch):
    out, said = aligned
    before = metrics_of(out / "ppo")
    assert main(["align", "--config", world["recipe"], "--out", str(out), "--quiet", "--resume"]) == 0
    again = capsys.readouterr().out
    assert again.count("already done") == 3
    table = said[said.index("On 8") : said.index("Report:")]
    assert table in again
    assert metrics_of(out / "ppo") == before


def test_sample_speaks_with_runs_models_and_policies(world, aligned, tmp_path, monkeypatch, capsys):
    out, _ = aligned
    for model in (world["model"], out / "sft", out / "ppo", out / "ppo" / "model", out):
        assert main(["sample", "--model", str(model), "--prompt", "a", "--max-new-tokens", "4"]) == 0
    capsys.readouterr()
    arguments = ["--prompt", "a", "--prompt", "b", "--max-new-tokens", "4", "--temperature", "1", "--seed", "3"]
    assert main(["sample", "--model", str(out), *arguments]) == 0
    lines = capsys.readouterr().out
    assert "a -> " in lines
    assert "b -> " in lines
    moved = tmp_path / "moved"
    os.rename(out, moved)
    try:
        assert main(["sample", "--model", str(moved), *arguments]) == 0
    finally:
        os.rename(moved, out)
    assert capsys.readouterr().out == lines


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompt", "a", "--max-new-tokens", "0"], "max_new_tokens is 0"),
        (["--prompt", "a", "--max-new-tokens", "1000"], "1000"),
        (["--prompt", "a", "--temperature", "-1"], "temperature"),
        (["--prompt", "a", "--temperature", "inf"], "--temperature is inf"),
        (["--prompt", "a", "--temperature", "nan"], "--temperature is nan"),
        (["--prompt", "a", "--seed", "-1"], "--seed is -1"),
        (["--prompt", "a", "--seed", str(2**63)], "--seed is 9223372036854775808"),
        (["--prompt", ""], "--prompt is ''"),
        (["--prompt", "a", "--prompt", " \n"], "--prompt is ' \\n'"),
        (["--prompt", "a", "--device", "cuda:x"], "device"),
    ],
)
def test_sample_refuses_what_cannot_be_sampled(world, capsys, arguments, words):
    assert words in refused(capsys, main(["sample", "--model", world["model"], *arguments]))


def test_sample_asks_in_the_chat_template_that_the_run_was_trained_with(world, tmp_path):
    folder = tmp_path / "chat"
    shutil.copytree(world["model"], folder)
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}ab{% endfor %}"
    tokenizer.save_pretrained(str(folder))
    out = tmp_path / "run"
    assert train(world, "sft", out, "--set", f"model={folder}", "--set", "chat_template=true") == 0

    def asked(model, chat=None):
        backbone, _ = load_sampler(str(model), "cpu", chat)
        return backbone.encode_prompts(["a"])[0]

    plain, in_template = asked(folder), asked(folder, chat=True)
    assert len(in_template) > len(plain)
    for model in (out, out / "model"):
        assert asked(model) == in_template
        assert asked(model, chat=False) == plain


def test_sample_refuses_a_chat_template_that_is_not_there(world, capsys):
    arguments = ["sample", "--model", world["model"], "--prompt", "a", "--chat-template"]
    assert "no chat template" in refused(capsys, main(arguments))


def test_sample_refuses_a_reward_model_and_an_unfinished_run(aligned, tmp_path, capsys):
    out, _ = aligned
    assert "reward model" in refused(capsys, main(["sample", "--model", str(out / "reward"), "--prompt", "a"]))
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    assert "not finished" in refused(capsys, main(["sample", "--model", str(tmp_path), "--prompt", "a"]))


def test_ppo_takes_a_reward_model_folder_of_another_backbone(world, aligned, tmp_path):
    out, _ = aligned
    assert train(world, "ppo", tmp_path / "run", "--set", f"reward_model={out / 'reward' / 'model'}") == 0
    assert len(metrics_of(tmp_path / "run")) == 4


@pytest.mark.slow
def test_a_real_align_killed_again_and_again_ends_with_the_same_metrics(world, aligned, tmp_path):
    """SIGKILL at the n-th line of metrics over all stages, then go on; every restart must get further."""
    whole, _ = aligned
    out = tmp_path / "killed"
    environment = os.environ | {"PYTHONPATH": str(Path(stages.__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    arguments = ["align", "--config", world["recipe"], "--out", str(out), "--quiet", "--checkpoint-every", "1"]

    def lines():
        paths = [out / stage / "metrics.jsonl" for stage in ("sft", "reward", "ppo")]
        return sum(path.read_bytes().count(b"\n") for path in paths if path.exists())

    for target in (1, 3, 4, 6, 9, 11, 12):
        with (tmp_path / "said.txt").open("w") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "ppo_lib", *arguments, "--resume"], env=environment, cwd=world["folder"],
                stdout=said, stderr=said,
            )  # fmt: skip
            while process.poll() is None and lines() < target:
                time.sleep(0.001)
            process.kill()
            process.wait()
        assert lines() >= min(target, 12), (target, process.returncode, (tmp_path / "said.txt").read_text())
    done = command(*arguments, "--resume", cwd=world["folder"])
    assert done.returncode == 0, done.stderr
    for stage in ("sft", "reward", "ppo"):
        assert metrics_of(out / stage) == metrics_of(whole / stage)
    for name in ("before", "after"):
        ours, theirs = (json.loads((f / "evaluation.json").read_text())[name] for f in (out, whole))
        assert ours == theirs


def test_the_parser_offers_what_there_is_and_help_needs_no_torch():
    """The names are said twice, so that --help need not import those who define them."""
    assert (list(cli.STAGES), list(cli.TARGETS), cli.TRACKERS) == (list(stages.CONFIGS), list(TARGETS), TRACKERS)
    code = "import sys; from ppo_lib.run.cli import make_parser; make_parser(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
