"""What the machine at hand is and can run: its device, its precision, its free memory, a recipe that fits it."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ppo_lib.models.hub import reachable
from ppo_lib.models.registry import TOY
from ppo_lib.trainers.configuration import ConfigError


def choose_recipe() -> tuple[str, str]:
    """The recipe of the capstone for this machine, and why.

    Returns:
        ``preferences`` where there is a GPU, the model hub answers and the package ``datasets`` is installed; else
        ``TOY``, which needs nothing. The second text is the reason, for people.
    """
    if not torch.cuda.is_available():
        return TOY, "there is no GPU here"
    name = torch.cuda.get_device_name()
    if not reachable():
        return TOY, f"there is a GPU ({name}), but the model hub cannot be reached"
    if find_spec("datasets") is None:
        return TOY, f"there is a GPU ({name}), but the package datasets is missing (pip install datasets)"
    return "preferences", f"there is a GPU ({name}) and the model hub answers"


def pick_device(name: str) -> str:
    """``auto`` is a GPU where there is one; other names are checked.

    Raises:
        ConfigError: an unknown device, or one that this machine lacks.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device is {name!r}, but must be auto, cpu or cuda") from error
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= there.get(device.type, 0):
        usable = [kind for kind, count in there.items() if count]
        raise ConfigError(f"device is {name!r}, but this machine has none; it has {', '.join(usable)}; use auto or cpu")
    return name


def pick_dtype(config: Any) -> str:
    """``auto`` is bfloat16 on a GPU that computes in it; on another, such as a T4, float16; and float32 on a CPU.

    In float16 losses are scaled, and what is trained is float32: adapters and heads, not whole models. Where all
    weights are trained, float32 takes its place.
    """
    if config.dtype != "auto":
        return str(config.dtype)
    if not pick_device(config.device).startswith("cuda"):
        return "float32"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bfloat16"
    whole = getattr(config, "finetune", "lora") == "full" or getattr(config, "lora_rank", 1) == 0
    return "float32" if whole else "float16"


def held_memory(device: str) -> int | None:
    """Bytes that a run's peak on this device counts already: on a CPU, Python and all that this process has loaded.

    ``None`` where that is not known, and on a GPU, whose peak counts its own tensors alone.
    """
    if torch.device(device).type == "cuda":
        return None
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def free_memory(device: str) -> int | None:
    """Bytes that a device has left; ``None`` where that is not known."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(torch.device(device))[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
