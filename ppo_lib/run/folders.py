"""The folder of one run: what is written into it, when, and how it is picked up again after a kill."""

import json
import math
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import yaml

from ppo_lib.book.jsonl import append_lines, read_jsonl
from ppo_lib.parallel.processes import ALONE, Processes
from ppo_lib.run.checkpoints import (
    TEMPORARY,
    load_checkpoint,
    replace_folder,
    save_checkpoint,
    saved_checkpoints,
    write_atomic,
)
from ppo_lib.run.manifests import manifest, peak_memory
from ppo_lib.trainers.configuration import load_yaml, to_mapping
from ppo_lib.trainers.optimizer import Trainer
from ppo_lib.trainers.options import ConfigError


class Stage(Trainer, Protocol):
    """A trainer with its configuration: SFT, reward model and PPO all are."""

    config: Any


class RunFolder:
    """The folder of one run.

    Args:
        path: where the run lives; nothing is written before the run begins.
        resume: go on with what the folder holds; an absent or empty one starts afresh.
        processes: those of the run; all read the folder, and the first one writes.

    Raises:
        ConfigError: the path is a file, or a folder that is not empty while ``resume`` is False, or
            a folder that is not a run. It is left as it is.
    """

    def __init__(self, path: str | Path, resume: bool = False, processes: Processes = ALONE) -> None:
        self.path, self.processes = Path(path), processes
        self.seconds = 0.0  # of the sessions before this one
        self.peak_memory = 0
        self.started = time.monotonic()
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"{str(path)!r} is a file, but a run needs a folder")
        content = [p.name for p in self.path.glob("*") if not p.name.startswith(TEMPORARY)]
        if content and not resume:
            raise ConfigError(
                f"{str(path)!r} exists and is not empty; use --resume to go on with that run, or another folder"
            )
        if content and "config.yaml" not in content:
            raise ConfigError(f"{str(path)!r} holds no config.yaml, so it is not a run that can be resumed")

    @property
    def finished(self) -> bool:
        """True once the final model and the manifest are there."""
        return (self.path / "manifest.json").exists()

    @property
    def model(self) -> Path:
        """Where the trained model lies once the run is finished."""
        return self.path / "model"

    def begin(self, config: Mapping[str, Any]) -> None:
        """Write ``config.yaml``, or, when there is one, see that it says the same.

        Raises:
            ConfigError: the folder was begun with another configuration; names the first key.
        """
        self.check(config)
        self.started = time.monotonic()  # the stages before it, in a run of several, are not its own time
        self.processes.wait()  # until all have looked at the folder
        path = self.path / "config.yaml"
        if self.processes.first and not path.exists():
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomic(path, yaml.safe_dump(dict(config), sort_keys=False))

    def check(self, config: Mapping[str, Any]) -> None:
        """See that the folder was begun with this configuration, or not yet; errors as above."""
        if not (self.path / "config.yaml").exists():
            return
        old, new = flatten(load_yaml(self.path / "config.yaml")), flatten(config)
        for key in [*new, *old]:
            there, here = old.get(key, "not given"), new.get(key, "not given")
            if there != here:
                raise ConfigError(
                    f"cannot resume {self.path.name!r}: it was begun with {key} {there!r}, but now {key} is "
                    f"{here!r}; use the same value, or another folder"
                )

    def restore(self, trainer: Stage) -> None:
        """Load the last checkpoint into the trainer and drop what was written after it."""
        sizes: dict[str, int] = {}
        saved = saved_checkpoints(self.path / "checkpoints")
        if saved:
            tensors, values = load_checkpoint(saved[-1])
            trainer.load_state(tensors, values["trainer"])
            sizes, self.seconds = values["sizes"], values["seconds"]
            self.peak_memory = values["peak_memory_bytes"]
        for name in ("metrics.jsonl", "samples.jsonl"):
            path, size = self.path / name, sizes.get(name, 0)
            present = path.stat().st_size if path.exists() else 0
            if present < size:
                raise ConfigError(
                    f"cannot resume {self.path.name!r}: {name} has {present} bytes, but had {size} "
                    "when the checkpoint was written; the file was changed"
                )
            self.processes.wait()
            if present > size and self.processes.first:
                os.truncate(path, size)

    def record(self, metrics: Mapping[str, float], samples: Iterable[Mapping[str, Any]]) -> None:
        """Append one line of metrics, and the samples of that iteration, and push them to disk."""
        if not self.processes.first:
            return
        iteration = {"iteration": metrics.get("iteration")}
        append_lines(self.path / "samples.jsonl", [{**iteration, **row} for row in samples])
        append_lines(self.path / "metrics.jsonl", [metrics])

    def checkpoint(self, trainer: Stage) -> None:
        """Write a checkpoint of the trainer as it stands between two iterations."""
        if not self.processes.first and not self.processes.sharded:
            return
        tensors, values = trainer.state()  # of a model that is sharded, all processes give their parts
        if not self.processes.first:
            return
        files = [self.path / "metrics.jsonl", self.path / "samples.jsonl"]
        state = {
            "trainer": values,
            "sizes": {path.name: path.stat().st_size for path in files if path.exists()},
            "seconds": self.elapsed(),
            "peak_memory_bytes": max(self.peak_memory, peak_memory()),
        }
        save_checkpoint(self.path / "checkpoints", trainer.iteration, tensors, state)

    def finish(self, trainer: Stage) -> None:
        """Save the final model, then the manifest, whose presence says that the run is done."""
        temporary = self.path / f"{TEMPORARY}model"
        if self.processes.first:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
        if self.processes.first or self.processes.sharded:
            trainer.save(str(temporary))
        if not self.processes.first:
            return
        replace_folder(temporary, self.model)
        description = manifest(
            to_mapping(trainer.config),
            seconds=self.elapsed(),
            peak_memory_bytes=max(self.peak_memory, peak_memory()),
            iterations=trainer.iteration,
        )
        write_atomic(self.path / "manifest.json", json.dumps(description, indent=2) + "\n")

    def elapsed(self) -> float:
        """Seconds of this run, earlier sessions included."""
        return self.seconds + time.monotonic() - self.started

    def metrics(self) -> list[dict[str, float]]:
        """The metrics so far; a metric that was not finite reads as NaN."""
        rows = read_jsonl(self.path / "metrics.jsonl")
        return [{k: math.nan if v is None else v for k, v in row.items()} for row in rows]

    def samples(self) -> list[dict[str, Any]]:
        """The samples so far."""
        return read_jsonl(self.path / "samples.jsonl")


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Keys of sections joined by dots: ``{"ppo": {"beta": 0.1}}`` becomes ``{"ppo.beta": 0.1}``."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
