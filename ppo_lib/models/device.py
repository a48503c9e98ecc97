"""What a device is asked: how much it has held, and to finish before a clock is read."""

import resource
import sys

import torch


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory held so far: of the GPU's allocator, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def synchronize(device: torch.device) -> None:
    """Wait for the GPU, so that a clock read afterwards has measured the work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
