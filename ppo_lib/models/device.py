"""What a device is told before a model goes there, and asked: how much it has held, what time it is when it is done."""

import sys
import time
from typing import Any

import torch

resource: Any
try:
    import resource
except ImportError:  # Windows has none, and nothing else there tells a process its peak
    resource = None


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory held so far: of the GPU's allocator, or of this process; 0 where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def prepare(device: torch.device) -> None:
    """Make a device fit for training, before a model goes there.

    On a GPU, cuDNN's attention is switched off. With a mask, its backward pass gives NaN in bfloat16 for some widths
    (pytorch issue 196678; seen on an H200 with torch 2.11, where four million gradients of one microbatch were not
    finite), and it plans anew for each width that it has not met, 0.14 s each there. Other kernels take over.
    """
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)


def allow_tf32(wanted: bool) -> None:
    """Let GPUs round the factors of float32 products to TF32's ten bits, or have them compute in float32."""
    torch.backends.cuda.matmul.allow_tf32 = wanted


def judging_dtype(device: torch.device) -> torch.dtype:
    """The precision in which a published reward model reads: bfloat16 where a GPU computes in it, else float32.

    Never float16: activations of some bodies (Qwen2, Qwen3) exceed its range, and one NaN ends a run.
    """
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float32


def forget_peak(device: torch.device) -> None:
    """Let a GPU count its peak memory anew, so that each stage reports its own; a process cannot forget its own."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def clock(device: torch.device) -> float:
    """Seconds by a clock that is read once the device has done its work: a GPU runs behind the program."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
