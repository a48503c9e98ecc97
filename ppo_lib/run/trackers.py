"""Metrics to TensorBoard, Weights & Biases or Trackio as well, on request; ``metrics.jsonl`` is written always."""

import importlib
import importlib.util
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ppo_lib.errors import writing
from ppo_lib.trainers.configuration import ConfigError

TRACKERS = ("tensorboard", "wandb", "trackio")
PROJECT = "ppo_lib"


def check_tracker(kind: str | None) -> None:
    """See that the tracker's package is there, before anything is trained.

    Raises:
        ConfigError: an unknown tracker, or one whose package is not installed.
    """
    if kind is None:
        return
    if kind not in TRACKERS:
        raise ConfigError(f"--log is {kind!r}, but must be one of {', '.join(TRACKERS)}")
    if importlib.util.find_spec(kind) is None:
        raise ConfigError(f"--log {kind} needs the package {kind}, which is not installed: pip install {kind}")


@contextmanager
def tracker(kind: str | None, folder: Path, config: Mapping[str, Any]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A function that sends one iteration's metrics on; it does nothing where no tracker is wanted.

    Args:
        kind: one of ``TRACKERS``, or None.
        folder: the run's folder, which exists; its name is the run's name.
        config: sent along once.
    """
    check_tracker(kind)
    if kind is None:
        yield ignore
    elif kind == "tensorboard":
        writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter(str(folder / "tensorboard"))

        def write(metrics: Mapping[str, Any]) -> None:
            for name, value in values(metrics):
                writer.add_scalar(name, value, step_of(metrics))

        try:
            yield write
        finally:
            writer.close()
    else:
        # W&B and Trackio share their interface; a resumed run goes on under the name it began with.
        client = importlib.import_module(kind)
        identity = {"id": stored_id(folder)} if kind == "wandb" else {}
        client.init(project=PROJECT, name=folder.name, config=dict(config), resume="allow", **identity)
        try:
            yield lambda metrics: client.log(dict(values(metrics)), step=step_of(metrics))
        finally:
            client.finish()


def ignore(metrics: Mapping[str, Any]) -> None:
    """Send nothing."""


def stored_id(folder: Path) -> str:
    """The run's name at the tracker: drawn once, kept in the folder."""
    path = folder / "wandb_id"
    with writing(path):
        if not path.exists():
            path.write_text(uuid.uuid4().hex)
        return path.read_text().strip()


def step_of(metrics: Mapping[str, Any]) -> int:
    """The iteration that the metrics belong to."""
    return int(metrics["iteration"])


def values(metrics: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The metrics less the iteration, which is the step."""
    return [(name, float(value)) for name, value in metrics.items() if name != "iteration"]
