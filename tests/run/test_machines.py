"""Which recipe the capstone takes on which machine."""

import pytest
import torch

from ppo_lib.run import machines


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
