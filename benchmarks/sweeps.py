"""What the recording scripts share: run what is not recorded yet, and report each run as it ends."""

import multiprocessing
from collections.abc import Callable, Iterable
from typing import TypeVar

from ppo_lib.book.recordings import list_recorded

Job = TypeVar("Job")


def run_missing(
    jobs: Iterable[Job], name_of: Callable[[Job], str], record: Callable[[Job], str], processes: int
) -> None:
    """Run every job whose recording is not there; stopped and started again, it goes on where it was.

    Args:
        jobs: in the order in which they are to be run.
        name_of: the name of a job's recording.
        record: runs one job, stores it, and returns a line to print; a function of a module, so that it can be sent.
        processes: how many at once.
    """
    wanted, done = list(jobs), set(list_recorded())
    todo = [job for job in wanted if name_of(job) not in done]
    print(f"{len(wanted) - len(todo)} runs are there, {len(todo)} to do", flush=True)
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for line in pool.imap(record, todo):
            print(line, flush=True)
