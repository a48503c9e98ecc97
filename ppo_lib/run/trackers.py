"""Metrics to TensorBoard, Weights & Biases or Trackio as well, on request; ``metrics.jsonl`` is written always.

accelerate's trackers do the sending. What stays by hand is what they leave to their caller: a refusal before anything
is trained, and the identity under which a resumed run goes on at Weights & Biases.
"""

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.tracking import TensorBoardTracker, TrackioTracker, WandBTracker

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
    if find_spec(kind) is None:
        raise ConfigError(f"--log {kind} needs the package {kind}, which is not installed: pip install {kind}")


@contextmanager
def tracker(kind: str | None, folder: Path, config: Mapping[str, Any]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A function that sends one iteration's metrics on; it does nothing where no tracker is wanted.

    Args:
        kind: one of ``TRACKERS``, or None.
        folder: the run's folder, which exists; its name is the run's name.
        config: sent along once; TensorBoard has no place for it but another run.
    """
    check_tracker(kind)
    if kind is None:
        yield lambda metrics: None
        return
    PartialState()  # accelerate's trackers ask it who they are
    run = {"name": folder.name, "config": dict(config), "resume": "allow"}
    if kind == "tensorboard":
        sending = TensorBoardTracker(kind, folder)
    elif kind == "wandb":
        sending = WandBTracker(PROJECT, id=stored_id(folder), **run)
    else:
        sending = TrackioTracker(PROJECT, **run)  # knows a run by its name
    sending.start()
    try:
        yield lambda metrics: sending.log(
            {name: float(value) for name, value in metrics.items() if name != "iteration"}, int(metrics["iteration"])
        )
    finally:
        sending.finish()


def stored_id(folder: Path) -> str:
    """The run's identity at Weights & Biases: drawn once, kept in the folder."""
    path = folder / "wandb_id"
    with writing(path):
        if not path.exists():
            path.write_text(uuid.uuid4().hex)
        return path.read_text().strip()
