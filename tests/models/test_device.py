"""What a device is told and asked."""

import subprocess
import sys

import pytest
import torch

from ppo_lib.models import device as device_module
from ppo_lib.models.device import allow_tf32, clock, judging_dtype, peak_memory_bytes, prepare


def test_peak_memory_is_in_bytes():
    assert 50e6 < peak_memory_bytes(torch.device("cpu")) < 100e9  # torch alone takes more than 50 MB


def test_a_clock_is_read_once_the_gpu_has_done_its_work(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    assert clock(torch.device("cpu")) <= clock(torch.device("cuda"))
    assert waited == [torch.device("cuda")]


@pytest.mark.parametrize(("device", "told"), [("cuda", [False]), ("cuda:1", [False]), ("cpu", [])])
def test_attention_by_cudnn_is_switched_off_before_a_model_goes_to_a_gpu(monkeypatch, device, told):
    heard = []
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", heard.append)
    prepare(torch.device(device))
    assert heard == told


def test_where_the_system_tells_no_peak_of_memory_it_counts_as_nothing(monkeypatch):
    """Windows has no module ``resource``."""
    monkeypatch.setattr(device_module, "resource", None)
    assert device_module.peak_memory_bytes(torch.device("cpu")) == 0


def test_the_library_is_imported_without_the_module_resource():
    modules = ("ppo_lib.trainers.ppo", "ppo_lib.run.cli", "ppo_lib.pocket", "ppo_lib.run.commands")
    code = "import sys, torch, transformers, peft, accelerate; sys.modules['resource'] = None; "
    code += "import " + ", ".join(modules)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("device", "computes_in_bfloat16", "dtype"),
    [("cpu", True, torch.float32), ("cuda", True, torch.bfloat16), ("cuda", False, torch.float32)],
)
def test_a_judge_is_never_read_in_float16(monkeypatch, device, computes_in_bfloat16, dtype):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: computes_in_bfloat16)
    assert judging_dtype(torch.device(device)) == dtype


def test_tf32_is_what_was_asked_for_last():
    for wanted in (True, False):
        allow_tf32(wanted)
        assert torch.backends.cuda.matmul.allow_tf32 == wanted
