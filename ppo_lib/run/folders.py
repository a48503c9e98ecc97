"""Run folders: what a run leaves behind, and how it is picked up again after a kill.

    run = RunFolder("runs/first")
    for metrics in fit(trainer, run):  # ppo_lib.run.fitting
        print(metrics["iteration"], metrics["score_mean"])

A folder holds ``config.yaml``, ``metrics.jsonl`` (one whole line per iteration), ``samples.jsonl``,
``checkpoints/``, and at the end ``model/`` and ``manifest.json``. Killed at any moment and started
again with ``resume=True``, a run ends with the same metrics as if never killed: what was written
after the last checkpoint is dropped, and those iterations are done again: on a CPU bit for bit, on a GPU up to the
order in which it adds. A run goes on with the
configuration and the data that it was begun with, and nothing else; only ``iterations`` may be raised.
"""

import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from ppo_lib.book.jsonl import append_lines, read_jsonl
from ppo_lib.errors import BadInput, reading, writing
from ppo_lib.models.world import ALONE, World
from ppo_lib.run.checkpoints import (
    Log,
    Tensors,
    Values,
    damaged,
    drop_old,
    load_checkpoint,
    save_checkpoint,
    saved_checkpoints,
)
from ppo_lib.run.files import TEMPORARY, make_folder, remove_empty, replace_folder, sweep, write_atomic
from ppo_lib.run.inputs import fingerprints, sources
from ppo_lib.run.locking import locked
from ppo_lib.run.manifests import manifest, peak_memory
from ppo_lib.trainers.configuration import ConfigError, load_yaml, to_mapping
from ppo_lib.trainers.optimizer import Trainer

LOGS = ("metrics.jsonl", "samples.jsonl")
MAY_RISE = "iterations"  # the one key that a run may be resumed with another value of: a larger one
ENDS = ("manifest.json", "evaluation.json")  # what a longer run makes anew


class RunFolder:
    """The folder of one run.

    Args:
        path: where the run lives; nothing is written before the run begins.
        resume: go on with what the folder holds; an absent or empty one starts afresh.
        world: the processes of the run; all read the folder, and the first one writes.
        product: the name of the folder in it for what is made.

    Raises:
        ConfigError: the path is a file, or a folder that is not empty while ``resume`` is False, or
            a folder that is not a run. It is left as it is.
    """

    def __init__(self, path: str | Path, resume: bool = False, world: World = ALONE, product: str = "model") -> None:
        self.name = str(path)
        with reading(self.name):
            self.path = Path(path).absolute()  # a user's function may go to another folder
        self.resume, self.world, self.product = resume, world, product
        self.seconds = 0.0  # of the sessions before this one
        self.peak_memory = 0
        self.started = time.monotonic()
        self.longer = False
        self.inputs: dict[str, str] = {}
        self.sources: dict[str, str] = {}
        self.config: dict[str, Any] = {}
        self.logs = {name: Log(self.path / name) for name in LOGS}
        self._held = False
        self.look()

    def look(self) -> None:
        """See that the folder may be used; errors as above."""
        with reading(self.name):
            if self.path.exists() and not self.path.is_dir():
                raise ConfigError(f"{self.name!r} is a file, but a run needs a folder")
            content = [p.name for p in self.path.glob("*") if not p.name.startswith(TEMPORARY)]
        if content and not self.resume:
            raise ConfigError(
                f"{self.name!r} exists and is not empty; use --resume to go on with that run, or another folder"
            )
        if content and "config.yaml" not in content:
            raise ConfigError(f"{self.name!r} holds no config.yaml, so it is not a run that can be resumed")

    @property
    def finished(self) -> bool:
        """True once the final model and the manifest are there, and no more iterations are asked for."""
        return not self.longer and is_manifest(self.path / "manifest.json") and self.model.is_dir()

    @property
    def model(self) -> Path:
        """Where what the run made lies once it is finished: a model, or rankings."""
        return self.path / self.product

    @contextmanager
    def held(self, config: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> Iterator[None]:
        """Keep the folder for this process, from before anything is loaded until the run ends.

        What would be refused later is refused now: another configuration, a folder that cannot be written to, one
        that another process works on. If the block ends without an iteration or a model, nothing is left behind.

        Args:
            config: as :meth:`begin` takes it.
            defaults: as :meth:`check` takes it.

        Raises:
            BadInput: as above.
        """
        self.check(config, defaults)
        if self._held or self.finished or not self.world.first:
            yield
            return
        made = make_folder(self.path)
        try:
            with locked(self.path, self.name):
                self.look()  # once more: another process may have been faster
                begun, self._held = (self.path / "config.yaml").exists(), True
                try:
                    yield
                finally:
                    self._held = False
                    if not begun:
                        self._forget()
        finally:
            remove_empty(made)

    def _forget(self) -> None:
        """Remove the configuration of a run that has done nothing, or the corrected command would be refused."""
        with writing(self.path):
            sweep(self.path)
            if {path.name for path in self.path.iterdir() if not path.name.startswith(TEMPORARY)} == {"config.yaml"}:
                (self.path / "config.yaml").unlink()

    def begin(self, config: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> None:
        """Write ``config.yaml``, or, when there is one, see that it says the same.

        Raises:
            ConfigError: as :meth:`check`.
        """
        self.check(config, defaults)
        self.started = time.monotonic()  # the stages before it, in a run of several, are not its own time
        self.config, self.inputs, self.sources = flatten(config), fingerprints(config, self.path), sources(config)
        self.world.wait()  # until all have looked at the folder
        path = self.path / "config.yaml"
        if self.world.first and (self.longer or not path.exists()):
            make_folder(self.path)
            for name in ENDS:  # before the configuration, or a run killed between the two would count as done
                (self.path / name).unlink(missing_ok=True)
            write_atomic(path, yaml.safe_dump(dict(config), sort_keys=False))

    def check(self, config: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> None:
        """See that the folder was begun with this configuration, or not yet; ``iterations`` may have been raised.

        Args:
            config: keys and values; sections too.
            defaults: values of keys that the version which began the run may not have known.

        Raises:
            ConfigError: the folder was begun with another configuration; names the first key.
        """
        if not (self.path / "config.yaml").exists():
            return
        self.compare(flatten(defaults or {}) | flatten(load_yaml(self.path / "config.yaml")), flatten(config))

    def compare(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        """See that a run may go on with another configuration than its own; errors as above."""
        for key in [*new, *old]:
            there, here = old.get(key, "not given"), new.get(key, "not given")
            if there == here:
                continue
            if key.rpartition(".")[2] == MAY_RISE and all(type(x) is int for x in (there, here)) and here > there:
                self.longer = True
                continue
            remedy = "use the same value"
            if key.rpartition(".")[2] == MAY_RISE:
                remedy = f"use that number or a larger one ({MAY_RISE} may be raised)"
            elif key not in new:
                remedy = "this version does not know that key; go on with the version that began the run"
            raise ConfigError(
                f"cannot resume {self.path.name!r}: it was begun with {key} {there!r}, but now {key} is "
                f"{here!r}; {remedy}, or another folder"
            )

    def restore(self, trainer: Trainer) -> None:
        """Load the last checkpoint that is whole into the trainer, and drop what was written after it.

        Raises:
            BadInput: all checkpoints are damaged, or the run's configuration, model or data were changed.
        """
        values: Values = self._load(trainer, saved_checkpoints(self.path / "checkpoints"))
        sizes = values.get("sizes", {})
        self.seconds = values.get("seconds", 0.0)
        self.peak_memory = values.get("peak_memory_bytes", 0)
        self.world.wait()
        if self.world.first and self.path.exists():
            with writing(self.path):
                sweep(self.path)
                sweep(self.path / "checkpoints")
                drop_old(self.path / "checkpoints")
                if not values:
                    self._keep_old_metrics()
                for name in LOGS:
                    if (self.path / name).exists():
                        os.truncate(self.path / name, sizes.get(name, 0))
        self.logs = {name: Log(self.path / name) for name in LOGS}

    def _load(self, trainer: Trainer, saved: list[Path]) -> Values:
        """The values of the last checkpoint that can be used, whose state the trainer now has; none of a fresh run."""
        first: BadInput | None = None
        for path in reversed(saved):
            try:
                tensors, values = load_checkpoint(path)
                self._check_logs(path, values)
                self._check_inputs(values)
                load_state(trainer, path, tensors, values)
            except Changed:
                raise
            except BadInput as error:
                first = first or error
                continue
            if first is not None:
                warnings.warn(f"{first}; went back to checkpoint {path.name}", stacklevel=4)
            self._say_what_was_mended(values)
            return values
        if first is not None:
            raise ConfigError(
                f"no checkpoint of {self.path.name!r} can be used: {first}; start again in another folder"
            ) from first
        return {}

    def _check_logs(self, path: Path, values: Values) -> None:
        """See that the lines written before a checkpoint are those that stand there now."""
        for name, size in values.get("sizes", {}).items():
            log = Log(self.path / name)
            found = log.read_on(size)
            if log.size < size:
                raise damaged(path, f"{name} has {log.size} bytes, but had {size} when it was written")
            if found != values.get("sums", {}).get(name, found):
                raise damaged(path, f"the first {size} bytes of {name} are not those that stood there")

    def _check_inputs(self, values: Values) -> None:
        """See that configuration, model and data are those of the checkpoint."""
        try:
            self.compare(self.config | values.get("config", {}), self.config)
        except ConfigError as error:
            raise Changed(f"{error}; its config.yaml was changed after the checkpoint") from error
        for key, there in values.get("inputs", {}).items():
            if self.inputs.get(key) != there:
                raise Changed(
                    f"cannot resume {self.path.name!r}: the content of {key} {self.config.get(key)!r} is not what it "
                    "was at the checkpoint; put the old files back, or begin another run in another folder"
                )

    def _say_what_was_mended(self, values: Values) -> None:
        """Say which judge is a function whose module has changed: it may well have been mended."""
        for key, there in values.get("sources", {}).items():
            if self.world.first and self.sources.get(key, there) != there:
                warnings.warn(
                    f"the module of {key} {self.config.get(key)!r} has changed since the checkpoint; the run goes on "
                    "with it as it is now, so scores before and after may differ",
                    stacklevel=5,
                )

    def _keep_old_metrics(self) -> None:
        """Before a run begins again at its first iteration, since no checkpoint is left: keep what it had measured."""
        for name in LOGS:
            path = self.path / name
            if path.exists() and path.stat().st_size:
                os.replace(path, path.with_name(f"{path.stem}.old.jsonl"))
                if name == LOGS[0]:
                    warnings.warn(
                        f"{self.path.name!r} has metrics but no checkpoint, so it begins again at its first "
                        f"iteration; the old metrics are kept in {path.stem}.old.jsonl",
                        stacklevel=4,
                    )

    def record(self, metrics: Mapping[str, float], samples: Iterable[Mapping[str, Any]]) -> None:
        """Append one line of metrics, and the samples of that iteration, and push them to disk."""
        if not self.world.first:
            return
        iteration = {"iteration": metrics.get("iteration")}
        with writing(self.path):
            append_lines(self.path / "samples.jsonl", [{**iteration, **row} for row in samples])
            append_lines(self.path / "metrics.jsonl", [metrics])

    def checkpoint(self, trainer: Trainer) -> None:
        """Write a checkpoint of the trainer as it stands between two iterations."""
        if not self.world.first and not self.world.sharded:
            return
        tensors, values = trainer.state()  # of a model that is sharded, all processes give their parts
        if not self.world.first:
            return
        sums = {name: log.read_on() for name, log in self.logs.items()}
        state = {
            "trainer": values,
            "sizes": {name: log.size for name, log in self.logs.items() if log.path.exists()},
            "sums": sums,
            "seconds": self.elapsed(),
            "peak_memory_bytes": max(self.peak_memory, peak_memory()),
            "config": self.config,
            "inputs": self.inputs,
            "sources": self.sources,
        }
        with writing(self.path / "checkpoints"):
            save_checkpoint(self.path / "checkpoints", trainer.iteration, tensors, state)

    def last_checkpoint(self) -> str:
        """Where the run could be taken up again, in words."""
        saved = saved_checkpoints(self.path / "checkpoints")
        return f"{saved[-1].name} is the last checkpoint" if saved else "no checkpoint had been written yet"

    def save_model(self, trainer: Trainer) -> None:
        """Save the model as it is now."""
        temporary = self.path / f"{TEMPORARY}{self.product}"
        with writing(self.model):
            if self.world.first:
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir()
            if self.world.first or self.world.sharded:
                trainer.save(str(temporary))
            if not self.world.first:
                return
            replace_folder(temporary, self.model)

    def finish(self, trainer: Trainer) -> None:
        """Save the final model, then the manifest, whose presence says that the run is done."""
        self.save_model(trainer)
        if not self.world.first:
            return
        description = manifest(
            to_mapping(trainer.config),
            seconds=self.elapsed(),
            peak_memory_bytes=max(self.peak_memory, peak_memory()),
            iterations=trainer.iteration,
        )
        write_atomic(self.path / "manifest.json", json.dumps(description, indent=2) + "\n")
        self.longer = False

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


class Changed(ConfigError):
    """The run was begun with something else; no earlier checkpoint would help."""


def load_state(trainer: Trainer, path: Path, tensors: Tensors, values: Values) -> None:
    """Give a trainer the state of a checkpoint.

    Raises:
        BadInput: it is not the state of such a trainer, or of another iteration than its name says.
    """
    try:
        if values["trainer"]["iteration"] != int(path.name):
            raise ValueError(f"it says iteration {values['trainer']['iteration']!r}")
        trainer.load_state(tensors, values["trainer"])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        raise damaged(path, f"{type(error).__name__}: {' '.join(str(error).split())}") from error


def is_manifest(path: Path) -> bool:
    """Whether the manifest of a finished run is there, and whole."""
    try:
        return isinstance(json.loads(path.read_text(encoding="utf-8")), dict)
    except (OSError, ValueError):
        return False


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Keys of sections joined by dots: ``{"ppo": {"beta": 0.1}}`` becomes ``{"ppo.beta": 0.1}``."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
