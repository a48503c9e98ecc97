"""What a device is asked: how much it has held, and what time it is once its work is done."""

import resource
import sys
import time

import torch


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory held so far: of the GPU's allocator, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def clock(device: torch.device) -> float:
    """Seconds by a clock that is read once the device has done its work: a GPU runs behind the program."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
