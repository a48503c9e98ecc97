"""The loop around a trainer: iterations, records, checkpoints by the clock, and an orderly stop."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm

from ppo_lib.run.folders import RunFolder, Stage
from ppo_lib.trainers.configuration import to_mapping
from ppo_lib.trainers.options import ConfigError

SHOWN = ("loss", "accuracy", "score_mean", "gold_mean", "second_mean", "kl_k3", "eos_rate")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM came; the folder can be resumed.

    Attributes:
        signal: the number of the signal.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


def drive(
    trainer: Stage, run: RunFolder, checkpoint_every: int | None = None, progress: bool = True
) -> Iterator[dict[str, float]]:
    """Run the iterations that are left, recording each; yields its metrics.

    Args:
        trainer: a stage, fresh from its configuration and seed.
        run: its folder; one that was interrupted goes on where its last checkpoint stands.
        checkpoint_every: iterations between checkpoints. None: by the clock, about every 20
            seconds, and so that writing takes at most a twentieth of the time.
        progress: show a progress bar on stderr.

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
    processes = run.processes
    total, last, cost = trainer.iterations, time.monotonic(), 0.0
    shown = progress and processes.first and not os.environ.get("TQDM_DISABLE")  # tqdm's notebook bar does not look
    with tqdm(total=total, initial=trainer.iteration, desc=run.path.name, disable=not shown) as bar:
        while trainer.iteration < total:
            with deferred_signals() as caught:
                metrics = trainer.step()
                run.record(metrics, trainer.samples())
                now = time.monotonic()
                due = now - last > max(20.0, 20 * cost)
                if checkpoint_every is not None:
                    due = trainer.iteration % checkpoint_every == 0
                stop = processes.any(bool(caught))  # a signal may reach one process an iteration before another
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
    run.finish(trainer)
    processes.wait()  # what comes next may read the model


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
