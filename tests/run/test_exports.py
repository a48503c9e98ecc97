"""Exports: no key of ours is forgotten, and theirs are keys that the other trainer has.

The keys of OpenRLHF 0.11.2 and veRL 0.9.1 are pinned in ``tests/data``. Where the packages are installed (``pip install
--no-deps openrlhf==0.11.2 verl==0.9.1`` and ``hydra-core``), their own parser and their own YAML read the export.
"""

import argparse
import ast
import dataclasses
import importlib.metadata
import subprocess
from datetime import datetime
from pathlib import Path

import pytest

from ppo_lib.run.cli import main
from ppo_lib.run.exports import TARGETS, as_script
from ppo_lib.trainers.configuration import PPOConfig, to_mapping

DATA = Path(__file__).parents[1] / "data"
VERSIONS = {"openrlhf": "0.11.2", "verl": "0.9.1"}
CONFIGS = {
    "defaults": {},
    "a function, KL in the loss": {
        "reward_model": "my.rewards:exact",
        "kl_in": "loss",
        "kl_estimator": "k3",
        "entropy_coef": 0.01,
        "dual_clip": 3.0,
        "dtype": "bfloat16",
        "gradient_checkpointing": True,
    },
    "what has no equivalent": {
        "epsilon": None,
        "value_clip": None,
        "kl_target": 6.0,
        "whiten_advantages": False,
        "whiten_rewards": True,
        "missing_eos_penalty": 1.0,
        "normalize_scores": False,
        "dtype": "float16",
    },
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["exact_answer", "last_number", "stories:folder"])
def test_a_reward_that_has_a_name_here_alone_is_no_path_there(target, name):
    translation = TARGETS[target](to_mapping(PPOConfig(reward_model=name)))
    assert f"{name} is known to ppo_lib alone" in translation.missing["reward_model"]
    assert not [setting for setting in translation.settings if setting.value in (name, "stories.py")]


def exported(target: str, name: str):
    return TARGETS[target](to_mapping(PPOConfig(**CONFIGS[name])))


def pinned(target: str) -> list[str]:
    return (DATA / f"{target}-{VERSIONS[target]}.txt").read_text().splitlines()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CONFIGS)
def test_every_key_of_ours_is_spoken_of_and_every_key_of_theirs_is_known(target, name):
    translation = exported(target, name)
    assert {field.name for field in dataclasses.fields(PPOConfig)} <= translation.handled()
    assert not {key for setting in translation.settings for key in setting.ours} & set(translation.missing)
    keys = [setting.key for setting in translation.settings]
    assert len(keys) == len(set(keys))
    assert set(keys) <= set(pinned(target))


@pytest.mark.parametrize("target", TARGETS)
def test_every_key_changes_the_export_or_is_said_to_be_without_equivalent(target):
    """A key that were read and forgotten would leave the export as it was."""
    other = {
        "model": "m",
        "prompts": "p",
        "prompt_suffix": " Think.",
        "chat_template": True,
        "max_prompt_tokens": 77,
        "heldout_judge": "last_number",
        "reward_model": "r",
        "iterations": 7,
        "rollout_batch": 96,
        "minibatch": 16,
        "microbatch": 4,
        "gradient_checkpointing": True,
        "epochs": 3,
        "max_new_tokens": 33,
        "temperature": 0.5,
        "epsilon": 0.1,
        "dual_clip": 2.0,
        "gamma": 0.9,
        "lam": 0.5,
        "beta": 0.3,
        "kl_estimator": "k2",
        "kl_target": 3.0,
        "value_clip": 0.7,
        "entropy_coef": 0.1,
        "whiten_advantages": False,
        "whiten_rewards": True,
        "normalize_scores": False,
        "missing_eos_penalty": 1.0,
        "learning_rate": 1e-5,
        "max_grad_norm": 0.3,
        "lora_rank": 3,
        "seed": 5,
        "dtype": "float16",
    }
    base = {"kl_estimator": "k3", "microbatch": 8, "minibatch": 32}
    before = as_script(TARGETS[target](to_mapping(PPOConfig(**base))))
    for key, value in other.items():
        after = as_script(TARGETS[target](to_mapping(PPOConfig(**{**base, key: value}))))
        assert after != before, key
    assert as_script(TARGETS[target](to_mapping(PPOConfig(**{**base, "kl_in": "loss"})))) != before


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CONFIGS)
def test_the_script_hands_over_exactly_the_arguments(target, name):
    translation = exported(target, name)
    script = as_script(translation).replace(translation.command, "printf '%s\\n'")
    done = subprocess.run(["bash", "-eu", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == translation.arguments()


def test_the_meanings_that_are_easily_lost():
    """The differences of meaning that a table of peers names, as settings."""
    theirs = {s.key: s.value for s in exported("openrlhf", "defaults").settings}
    assert theirs["actor.lr_scheduler"] == "constant"  # a cosine by default
    assert theirs["reward.clip_range"] == [-1000000, 1000000]  # cut to 10 by default
    assert theirs["algo.advantage.lambd"] == 0.95  # 1 by default
    assert theirs["train.max_epochs"] == 4  # 1 by default
    theirs = {s.key: s.value for s in exported("verl", "defaults").settings}
    assert theirs["actor_rollout_ref.actor.clip_ratio_c"] == 1000000  # dual clip at 3 by default
    assert theirs["algorithm.use_kl_in_reward"] is True  # off by default
    assert theirs["critic.optim.weight_decay"] == 0.0  # 0.01 by default
    lost = exported("verl", "what has no equivalent").missing
    assert {"kl_target", "kl_horizon", "whiten_advantages", "whiten_rewards", "missing_eos_penalty"} <= set(lost)


def test_export_prints_a_script_and_refuses_another_target(capsys):
    assert main(["export", "verl", "--recipe", "pocket", "--set", "beta=0.125"]) == 0
    assert "algorithm.kl_ctrl.kl_coef=0.125" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["export", "trl", "--recipe", "pocket"])
    assert stop.value.code == 2
    assert "invalid choice: 'trl'" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------- by their own configurations


def installed(target: str, path: str) -> Path:
    """A file of the package, or a skip where the package is not installed in the version that was read."""
    try:
        package = importlib.metadata.distribution(target)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{target} is not installed")
    if package.version != VERSIONS[target]:
        pytest.skip(f"{target} is {package.version}, but the export speaks {VERSIONS[target]}")
    return Path(str(package.locate_file(path)))


def openrlhf_parser() -> argparse.ArgumentParser:
    """The parser of ``train_ppo_ray``, without the imports of Ray and vLLM that stand above it."""
    source = installed("openrlhf", "openrlhf/cli/train_ppo_ray.py").read_text()
    main_block = next(node for node in ast.parse(source).body if isinstance(node, ast.If))
    until = next(i for i, node in enumerate(main_block.body) if "parse_args" in ast.unparse(node))
    names: dict = {"argparse": argparse, "datetime": datetime}
    exec(compile(ast.Module(main_block.body[:until], []), "train_ppo_ray", "exec"), names)
    return names["parser"]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_parser_of_openrlhf_reads_the_export(name):
    parser, translation = openrlhf_parser(), exported("openrlhf", name)
    read = vars(parser.parse_args(translation.arguments()))
    for setting in translation.settings:
        assert read[setting.key] == setting.value, setting.key
    assert sorted(option.removeprefix("--") for option in parser._option_string_actions) == pinned("openrlhf")


@pytest.mark.parametrize("name", CONFIGS)
def test_the_configuration_of_verl_takes_the_export(name):
    """Hydra refuses a key that their YAML files do not have."""
    folder = installed("verl", "verl/trainer/config")
    hydra = pytest.importorskip("hydra", reason="hydra-core is not installed")
    from omegaconf import OmegaConf

    translation = exported("verl", name)
    with hydra.initialize_config_dir(str(folder), version_base=None):
        config = hydra.compose("ppo_trainer", overrides=translation.arguments())
    for setting in translation.settings:
        assert OmegaConf.select(config, setting.key) == setting.value, setting.key
    assert config.critic.ppo_mini_batch_size == config.actor_rollout_ref.actor.ppo_mini_batch_size  # as the export says
    assert config.critic.ppo_epochs == config.actor_rollout_ref.actor.ppo_epochs
    whole = OmegaConf.to_container(OmegaConf.load(folder / "_generated_ppo_trainer.yaml"), resolve=False)
    assert sorted(flat(whole)) == pinned("verl")


def flat(mapping: dict, prefix: str = "") -> list[str]:
    """Dotted names of all values."""
    names = []
    for key, value in mapping.items():
        names += flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [f"{prefix}{key}"]
    return names
