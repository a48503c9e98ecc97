"""What a device is asked."""

import torch

from ppo_lib.models.device import peak_memory_bytes


def test_peak_memory_is_in_bytes():
    assert 50e6 < peak_memory_bytes(torch.device("cpu")) < 100e9  # torch alone takes more than 50 MB
