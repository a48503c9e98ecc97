"""Run folders: what a run leaves behind, how it is filled, and how it is picked up again after a kill.

    run = RunFolder("runs/first")
    for metrics in fit(trainer, run):
        print(metrics["iteration"], metrics["score_mean"])

A folder holds ``config.yaml``, ``metrics.jsonl`` (one whole line per iteration), ``samples.jsonl``,
``checkpoints/``, and at the end ``model/`` and ``manifest.json``. Killed at any moment and started
again with ``resume=True``, a run ends with the same metrics as if never killed: what was written
after the last checkpoint is dropped, and those iterations are done again, bit for bit.

A process may be killed between any two instructions. So everything is written under a temporary
name, pushed to the disk, and then renamed, which the file system does in one step. A checkpoint is
a folder ``000012`` with ``tensors.safetensors`` and ``values.json``; nothing is ever unpickled. By hand, since what
accelerate and transformers save is pickled in part, and is not cut to the same line as the metrics beside it.
"""

import json
import math
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from ppo_lib.book.jsonl import append_lines, read_jsonl
from ppo_lib.errors import BadInput, reading, writing
from ppo_lib.models.world import ALONE, World
from ppo_lib.run.manifests import manifest, peak_memory
from ppo_lib.trainers.configuration import ConfigError, load_yaml, to_mapping
from ppo_lib.trainers.optimizer import Trainer

TEMPORARY = ".tmp-"
Tensors = dict[str, torch.Tensor]
Values = dict[str, Any]
SHOWN = ("loss", "accuracy", "score_mean", "gold_mean", "heldout_mean", "kl_k3", "eos_rate")


@runtime_checkable
class Calibrating(Protocol):
    """A trainer with one more step after its last iteration, before it is saved."""

    def calibrate(self) -> str:
        """Take that step, from the same state always the same; returns a sentence on what was found."""


class RunFolder:
    """The folder of one run.

    Args:
        path: where the run lives; nothing is written before the run begins.
        resume: go on with what the folder holds; an absent or empty one starts afresh.
        world: the processes of the run; all read the folder, and the first one writes.

    Raises:
        ConfigError: the path is a file, or a folder that is not empty while ``resume`` is False, or
            a folder that is not a run. It is left as it is.
    """

    def __init__(self, path: str | Path, resume: bool = False, world: World = ALONE) -> None:
        self.path, self.world = Path(path), world
        self.seconds = 0.0  # of the sessions before this one
        self.peak_memory = 0
        self.started = time.monotonic()
        with reading(path):
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
        self.world.wait()  # until all have looked at the folder
        path = self.path / "config.yaml"
        if self.world.first and not path.exists():
            with writing(self.path):
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

    def restore(self, trainer: Trainer) -> None:
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
            self.world.wait()
            if present > size and self.world.first:
                with writing(path):
                    os.truncate(path, size)

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
        files = [self.path / "metrics.jsonl", self.path / "samples.jsonl"]
        state = {
            "trainer": values,
            "sizes": {path.name: path.stat().st_size for path in files if path.exists()},
            "seconds": self.elapsed(),
            "peak_memory_bytes": max(self.peak_memory, peak_memory()),
        }
        with writing(self.path / "checkpoints"):
            save_checkpoint(self.path / "checkpoints", trainer.iteration, tensors, state)

    def save_model(self, trainer: Trainer) -> None:
        """Save the model as it is now."""
        temporary = self.path / f"{TEMPORARY}model"
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


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM came; the folder can be resumed.

    Attributes:
        signal: the number of the signal.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


def fit(
    trainer: Trainer,
    run: RunFolder,
    checkpoint_every: int | None = None,
    progress: bool = True,
    say: Callable[[str], None] | None = None,
) -> Iterator[dict[str, float]]:
    """Run the iterations that are left, recording each; yields its metrics.

    Args:
        trainer: a stage, fresh from its configuration and seed.
        run: its folder; one that was interrupted goes on where its last checkpoint stands.
        checkpoint_every: iterations between checkpoints. None: by the clock, about every 20
            seconds, and so that writing takes at most a twentieth of the time.
        progress: show a progress bar on stderr.
        say: is given the sentence of a trainer that calibrates its model before saving it, such as ``print``.

    Raises:
        ConfigError: the folder was begun with another configuration, or ``checkpoint_every`` is below 1.
        Interrupted: Ctrl-C or SIGTERM; the iteration was finished and a checkpoint written. A
            second Ctrl-C stops at once, and costs the iterations since the last checkpoint.
    """
    if checkpoint_every is not None and checkpoint_every < 1:
        raise ConfigError(f"checkpoint_every is {checkpoint_every}, but must be 1 or more iterations")
    run.begin(to_mapping(trainer.config))
    if run.finished:
        return
    run.restore(trainer)
    world = run.world
    total, last, cost = trainer.iterations, time.monotonic(), 0.0
    shown = progress and world.first and not os.environ.get("TQDM_DISABLE")  # tqdm's notebook bar does not look
    with tqdm(total=total, initial=trainer.iteration, desc=run.path.name, disable=not shown) as bar:
        while trainer.iteration < total:
            with deferred_signals() as caught:
                metrics = trainer.step()
                run.record(metrics, trainer.samples())
                now = time.monotonic()
                due = now - last > max(20.0, 20 * cost)
                if checkpoint_every is not None:
                    due = trainer.iteration % checkpoint_every == 0
                stop = world.any(bool(caught))  # a signal may reach one process an iteration before another
                if due or stop or trainer.iteration == total:
                    run.checkpoint(trainer)
                    last = time.monotonic()
                    cost = last - now
            bar.set_postfix({k: f"{metrics[k]:.3g}" for k in SHOWN if k in metrics}, refresh=False)
            bar.update()
            yield metrics
            if stop:
                done = f"stopped after iteration {trainer.iteration} of {total}"
                raise Interrupted(f"{done}; go on with --resume", caught[0] if caught else signal.SIGTERM)
    if isinstance(trainer, Calibrating) and (world.first or world.sharded):  # those that save
        run.save_model(trainer)  # whatever happens in that last step, what was trained is there
        found = trainer.calibrate()
        if say is not None:
            say(found)
    run.finish(trainer)
    world.wait()  # what comes next may read the model


@contextmanager
def deferred_signals() -> Iterator[list[int]]:
    """Let the block finish when Ctrl-C or SIGTERM comes; the list yielded holds what came."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught  # Python delivers signals to the main thread only
        return

    def note(number: int, frame: Any) -> None:
        if caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        caught.append(number)
        print("\nfinishing this iteration; Ctrl-C again stops at once", file=sys.stderr)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def sync(path: Path) -> None:
    """Push a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old content or the new one, never a part.

    Raises:
        BadInput: the system refuses, as on a full disk.
    """
    temporary = path.with_name(TEMPORARY + path.name)
    with writing(path):
        temporary.write_text(text, encoding="utf-8")
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)


def replace_folder(temporary: Path, final: Path) -> None:
    """Give a finished folder its final name; an older folder of that name goes first."""
    for path in sorted(temporary.rglob("*")):
        sync(path)
    sync(temporary)
    remove_folder(final)
    os.replace(temporary, final)
    sync(final.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder; one that is half removed never carries its name."""
    if path.exists():
        doomed = path.with_name(f"{TEMPORARY}removed-{path.name}")
        shutil.rmtree(doomed, ignore_errors=True)
        os.replace(path, doomed)
        shutil.rmtree(doomed)


def save_checkpoint(folder: Path, iteration: int, tensors: Tensors, values: Values, keep: int = 2) -> Path:
    """Write ``folder/000012`` for iteration 12 and keep the last ``keep`` checkpoints.

    Args:
        folder: the folder of all checkpoints; made if absent.
        iteration: iterations done when the state was taken.
        tensors: weights, optimizer moments, generator states: any device, any dtype.
        values: what JSON can hold; floats come back bit for bit.
        keep: checkpoints to keep, this one included.

    Returns:
        The folder of the new checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"{iteration:06d}"
    temporary = folder / f"{TEMPORARY}{final.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    # A copy of each: safetensors refuses tensors that share memory, such as tied embeddings.
    copies = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    save_file(copies, temporary / "tensors.safetensors")
    (temporary / "values.json").write_text(json.dumps(values), encoding="utf-8")
    replace_folder(temporary, final)
    for old in saved_checkpoints(folder)[:-keep]:
        remove_folder(old)
    return final


def saved_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a folder, oldest first."""
    return sorted((p for p in folder.glob("*") if p.name.isdigit()), key=lambda p: int(p.name))


def load_checkpoint(path: Path) -> tuple[Tensors, Values]:
    """The tensors and values of one checkpoint.

    Raises:
        ValueError: a file is missing or damaged.
    """
    try:
        values = json.loads((path / "values.json").read_text(encoding="utf-8"))
        return load_file(path / "tensors.safetensors"), values
    except (OSError, ValueError, SafetensorError) as error:
        raise BadInput(
            f"checkpoint {path.name} of {path.parent.parent.name!r} cannot be read ({error}); "
            "remove that checkpoint folder to resume from the one before"
        ) from error
