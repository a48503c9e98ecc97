"""The one loop that runs every trainer: iterations, their records, checkpoints by the clock, and polite stops."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from tqdm.auto import tqdm

from ppo_lib.errors import Diverged
from ppo_lib.models.device import forget_peak
from ppo_lib.run.folders import RunFolder
from ppo_lib.trainers.configuration import ConfigError, defaults_of, to_mapping
from ppo_lib.trainers.optimizer import Trainer

SHOWN = ("loss", "accuracy", "score_mean", "gold_mean", "heldout_mean", "kl_k3", "eos_rate")


@runtime_checkable
class Calibrating(Protocol):
    """A trainer with one more step after its last iteration, before it is saved."""

    def calibrate(self) -> str:
        """Take that step, from the same state always the same; returns a sentence on what was found."""


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
    how = to_mapping(trainer.config), defaults_of(trainer.config)
    with run.held(*how):
        run.begin(*how)
        if run.finished:
            return
        run.restore(trainer)
        if torch.cuda.is_available():
            forget_peak(torch.device("cuda"))  # what an earlier stage of this process held is not this one's
        world = run.world
        yield from iterate(trainer, run, checkpoint_every, progress)
        if isinstance(trainer, Calibrating) and (world.first or world.sharded):  # those that save
            run.save_model(trainer)  # whatever happens in that last step, what was trained is there
            found = trainer.calibrate()
            if say is not None:
                say(found)
        run.finish(trainer)
        world.wait()  # what comes next may read the model


def iterate(
    trainer: Trainer, run: RunFolder, checkpoint_every: int | None, progress: bool
) -> Iterator[dict[str, float]]:
    """The iterations of :func:`fit`; arguments and errors as there."""
    world = run.world
    total, last, cost = trainer.iterations, time.monotonic(), 0.0
    shown = progress and world.first and not os.environ.get("TQDM_DISABLE")  # tqdm's notebook bar does not look
    with tqdm(total=total, initial=trainer.iteration, desc=run.path.name, disable=not shown) as bar:
        while trainer.iteration < total:
            with deferred_signals() as caught:
                try:
                    metrics = trainer.step()
                except Diverged as error:
                    raise Diverged(f"iteration {trainer.iteration + 1}: {error}; {run.last_checkpoint()}") from error
                run.record(metrics, trainer.samples())
                now = time.monotonic()
                due = now - last > max(20.0, 20 * cost)
                if checkpoint_every is not None:
                    due = trainer.iteration % checkpoint_every == 0
                # A signal may reach one process an iteration before another, and clocks differ.
                due = world.any(due or bool(caught) or trainer.iteration == total)
                if due:
                    run.checkpoint(trainer)
                    last = time.monotonic()
                    cost = last - now
                stop = world.any(bool(caught))  # asked after the checkpoint: writing it takes its time
                if stop and not due:
                    run.checkpoint(trainer)
            bar.set_postfix({k: f"{metrics[k]:.3g}" for k in SHOWN if k in metrics}, refresh=False)
            bar.update()
            yield metrics
            if stop:
                done = f"stopped after iteration {trainer.iteration} of {total}"
                raise Interrupted(f"{done}; go on with --resume", caught[0] if caught else signal.SIGTERM)


@contextmanager
def deferred_signals() -> Iterator[list[int]]:
    """Let the block finish when Ctrl-C or SIGTERM comes; the list yielded holds what came.

    A second Ctrl-C ends the block at once with :class:`KeyboardInterrupt`. Blocks may stand within one another: what
    came between two inner ones is found by the next.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught  # Python delivers signals to the main thread only
        return
    outer = getattr(signal.getsignal(signal.SIGINT), "caught", None)
    if outer is not None:
        yield outer
        return

    def note(number: int, frame: Any) -> None:
        if caught and number == signal.SIGINT:  # launchers send a second SIGTERM of their own
            raise KeyboardInterrupt
        caught.append(number)
        print("\nfinishing this iteration; Ctrl-C again stops at once", file=sys.stderr)

    note.caught = caught  # type: ignore[attr-defined]
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
