"""Which recipe the capstone takes on which machine."""

import pytest
import torch

from ppo_lib.run import machines
from ppo_lib.trainers.configuration import PPOConfig, SFTConfig


@pytest.mark.parametrize(
    ("gpu", "hub", "datasets", "recipe", "reason"),
    [
        (False, True, True, "pocket", "no GPU"),
        (True, False, True, "pocket", "hub cannot be reached"),
        (True, True, False, "pocket", "pip install datasets"),
        (True, True, True, "preferences", "the model hub answers"),
    ],
)
def test_preferences_needs_a_gpu_a_hub_and_the_package_datasets(monkeypatch, gpu, hub, datasets, recipe, reason):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    monkeypatch.setattr(machines, "reachable", lambda: hub)
    monkeypatch.setattr(machines, "find_spec", lambda name: name if datasets else None)
    chosen, why = machines.choose_recipe()
    assert chosen == recipe
    assert reason in why
    assert ("Tesla T4" in why) == gpu


def test_without_a_gpu_nobody_asks_the_network(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machines, "reachable", lambda: pytest.fail("asked"))
    assert machines.choose_recipe()[0] == "pocket"


@pytest.mark.parametrize(
    ("options", "gpu", "bfloat16", "dtype"),
    [
        ({}, True, True, "bfloat16"),
        ({}, True, False, "float16"),  # a T4: losses are scaled there
        ({"finetune": "full"}, True, False, "float32"),  # in float16 gradients of all weights underflow
        ({"finetune": "full"}, True, True, "bfloat16"),
        ({}, False, False, "float32"),
        ({"dtype": "float32"}, True, True, "float32"),
    ],
)
def test_auto_takes_the_precision_that_the_card_computes_in(monkeypatch, options, gpu, bfloat16, dtype):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bfloat16)
    assert machines.pick_dtype(PPOConfig(**{"dtype": "auto", **options})) == dtype


def test_auto_trains_all_weights_of_sft_in_float32_where_there_is_no_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    assert machines.pick_dtype(SFTConfig(dtype="auto", lora_rank=0)) == "float32"
    assert machines.pick_dtype(SFTConfig(dtype="auto", lora_rank=8)) == "float16"
